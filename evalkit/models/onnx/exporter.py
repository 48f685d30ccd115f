"""torch's exporter of .onnx files, kept quiet."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from evalkit.errors import ConfigError
from evalkit.utils.text import one_line

OPSET = 18  # ONNX Runtime 1.14 and later run it; torch's exporter starts from it


@contextmanager
def quiet_exporter(who: str) -> Iterator[None]:
    """Without gradients and the exporter's chatter; what it raises becomes a ConfigError of one line about `who`."""
    import torch

    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except ImportError as error:
        raise ConfigError(f"exporting needs onnx and onnxscript: pip install onnx onnxscript ({error})") from error
    except Exception as error:  # the exporter's errors have no common base but this
        raise ConfigError(f"torch cannot export {who} to ONNX: {one_line(error)}") from error
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
