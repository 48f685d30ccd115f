"""Runs over time, read from their folders alone: a registry, comparisons, a metric's course, a leaderboard, cards."""
