"""Votes between two cells: their records, which are only ever added to."""
