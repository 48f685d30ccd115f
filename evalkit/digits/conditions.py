"""``python -m evalkit.digits.conditions FOLDER``: a prompt set whose prompts carry images, made of held-out digits.

Each of the 560 captions gets a held-out digit of its class: its outline by Canny (`control`); with ``--sources`` also
the digit in the caption's colours, to start from and to compare with (`source`, `target`), and a mask whose lower half
is white (`mask`). ``prompts.csv`` names them, as any other table of prompts would. The package ships the outlines, in
``control_set/``: what this command writes without ``--sources``.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from evalkit.digits import data
from evalkit.numerics.canny import canny

COLUMNS = ("prompt", "category", "class_id", "control")
SOURCES = ("source", "mask", "target")


def digits_of(captions: tuple[data.Caption, ...]) -> data.U8:
    """A held-out digit for each caption, none twice: uint8 [N,32,32]. Those of a class come in the file's order."""
    grey, labels = data.reference_digits()
    pools = {digit: iter(np.flatnonzero(labels == digit).tolist()) for digit in range(10)}
    return data.padded(grey[[next(pools[caption.digit]) for caption in captions]])


def write(folder: Path, count: int | None = None, sources: bool = False) -> Path:
    """Writes the images and the table that names them.

    Args:
        folder: takes ``prompts.csv`` and a folder of PNGs for each kind of image.
        count: the first so many captions, 1 to 560; none: all.
        sources: whether to write source images and a mask too.

    Returns:
        The path of ``prompts.csv``.
    """
    from PIL import Image

    captions = data.PROMPTS[:count]
    grey = digits_of(captions)
    _, inks, grounds = data.indices(captions)
    coloured = data.colourise(grey, inks, grounds).transpose(0, 2, 3, 1)
    outlines = canny(grey[..., None])
    for name in ("outlines", "sources") if sources else ("outlines",):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if sources:
        mask = Image.new("L", (data.IMAGE_SIZE, data.IMAGE_SIZE))
        mask.paste(255, (0, data.IMAGE_SIZE // 2, data.IMAGE_SIZE, data.IMAGE_SIZE))
        mask.save(folder / "mask.png")
    table = folder / "prompts.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow((*COLUMNS, *(SOURCES if sources else ())))
        for number, caption in enumerate(captions):
            outline, source = f"outlines/{number:03d}.png", f"sources/{number:03d}.png"
            Image.fromarray(outlines[number]).save(folder / outline, optimize=True)  # one bit a pixel
            row = [caption.text, data.DIGIT_WORDS[caption.digit], caption.digit, outline]
            if sources:
                Image.fromarray(coloured[number]).save(folder / source)
                row += [source, "mask.png", source]
            rows.writerow(row)
    return table


def main(argv: list[str] | None = None) -> int:
    """Writes a folder; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m evalkit.digits.conditions", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, metavar="N", help="the first N captions (default: all 560)")
    parser.add_argument("--sources", action="store_true", help="source images, targets and a mask as well")
    args = parser.parse_args(argv)
    if args.count is not None and not 1 <= args.count <= len(data.PROMPTS):
        parser.error(f"--count must be 1 to {len(data.PROMPTS)}")
    print(write(args.folder, args.count, args.sources))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
