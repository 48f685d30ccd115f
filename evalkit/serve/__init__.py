"""Scores over HTTP: each image's value by several metrics, for training loops and whatever else wants a reward."""
