"""Adapters of experiment trackers, one file a tracker; each imports its package where it logs."""
