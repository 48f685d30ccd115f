"""The Hydra configuration groups: one YAML an option."""
