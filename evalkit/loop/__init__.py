"""Evaluation in the middle of another program: images in memory, step after step; no file unless one is asked for."""

from evalkit.loop.evaluation import Evaluation as Evaluation
