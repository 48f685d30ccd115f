"""The metric plugins, one file a published metric; installed as `evalkit.metrics`."""
