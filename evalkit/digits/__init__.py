"""A small text-to-image world made from real handwriting: coloured digits, their captions, and models of them.

Importing this package is light: no torch, only path helpers. The parts:

* ``data``  - palette, the 560 captions, MNIST reading, colouring, ink styles, the reference set (numpy, scipy)
* ``conditions`` - outlines, source images and masks of held-out digits (numpy, scipy)
* ``nets``  - classifier and DCGAN (torch)
* ``judge`` - what an image shows: digit by the classifier, colours by a pixel rule
* ``check`` - ``python -m evalkit.digits.check``: are the shipped models good enough
* ``train`` - ``python -m evalkit.digits.train``: remake the reference file and every model
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent
"""Folder of this package; everything shipped lies under it."""

WEIGHTS = ROOT / "weights"
"""Folder of the shipped weights."""

REFERENCE = ROOT / "reference.npz"
"""The 5,000 held-out digits: ``images`` uint8 [5000,28,28], ``labels`` uint8 [5000]."""


def weights_path(name: str) -> Path:
    """Path of one shipped model.

    Args:
        name: ``classifier``, ``dcgan`` (safetensors files), ``clip``, ``ldm``, ``ddpm``, ``lora_striped`` or
            ``controlnet`` (folders).
    """
    paths = {path.stem: path for path in sorted(WEIGHTS.iterdir())}
    if name not in paths:
        raise ValueError(f"unknown model {name!r}, expected one of {', '.join(paths)}")
    return paths[name]
