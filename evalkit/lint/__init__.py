"""Checks sample sets and the reference for what would make a metric wrong.

What is known without decoding are the source's headers; `pixels.py` and `upscaling.py` measure pixels, while the
feature pass reads them (`watch.py`) and only once (`cache.py` stores it by the images' content); `rules.py` and
`prompts.py` turn both into findings. Docs: docs/lint.md.
"""

from evalkit.lint.finding import Finding, lines
from evalkit.lint.prompts import Asked, asked_of
from evalkit.lint.run import lint
from evalkit.lint.watch import Watch

__all__ = ["Asked", "Finding", "Watch", "asked_of", "lines", "lint"]
