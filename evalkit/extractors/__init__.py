"""Feature extractors: pinned weights, their own resize, a declared dtype."""
