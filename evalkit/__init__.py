"""evalkit: which model, sampler and setting is better, by how much, is the difference real, and may this one ship?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.utils.lazy import lazy

__version__ = "0.1.0"

# ONNX Runtime 1.31 sends its use to Microsoft unless it is told not to before it is imported, by whomever.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# In a checkout `configs/` and `metrics/` lie next to this folder; in the wheel, inside it. With the repo's root on the
# package's path, `evalkit.configs` and `evalkit.metrics` name the same modules either way.
_ROOT = Path(__file__).resolve().parent.parent
if (_ROOT / "configs" / "eval.yaml").is_file() and str(_ROOT) not in __path__:
    __path__.append(str(_ROOT))

if TYPE_CHECKING:
    from evalkit.api import evaluate, run
    from evalkit.loop.evaluation import Evaluation
    from evalkit.results.notebook import ResultTable, load
    from evalkit.results.peers import peer_check
else:
    _, __getattr__ = lazy(
        __name__,
        api="evaluate run",
        loop__evaluation="Evaluation",
        results__notebook="ResultTable load",
        results__peers="peer_check",
    )

__all__ = ["Evaluation", "ResultTable", "__version__", "evaluate", "load", "peer_check", "run"]


def __dir__() -> list[str]:
    """What completion shows: the API, and no module that happens to be imported."""
    return list(__all__)
