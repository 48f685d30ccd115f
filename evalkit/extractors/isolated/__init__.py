"""Scorers in a process of their own, and in an environment of their own where their packages' pins are not ours."""
