"""Looks over sample sets and the reference: what in them would bend which metric.

`headers.py` gathers what is known without decoding, `look.py` and `enlarged.py` measure pixels, while the feature pass
reads them (`passing.py`) and once (`measured.py` keeps it by the images' content), `rules.py` and `prompts.py` turn
both into findings. Docs: docs/lint.md.
"""

from evalkit.lint.finding import Finding, lines
from evalkit.lint.prompts import Asked, asked_of
from evalkit.lint.run import lint
from evalkit.lint.watch import Watch

__all__ = ["Asked", "Finding", "Watch", "asked_of", "lines", "lint"]
