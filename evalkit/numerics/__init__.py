"""What plugins may import next to `evalkit.metric`: neighbours, kernels, moments, edges, paths between latents."""
