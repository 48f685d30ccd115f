"""Contact sheets: the same prompts and seeds across cells, so that people can compare them by eye."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.results.thumbnails import fit
from evalkit.utils.files import atomic_path, sha256_json

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

TILE = 64  # smallest side of a tile, in pixels: small images are enlarged by whole factors
MAX_TILE = 256
GAP = 4
INK, PAPER, MUTED = (24, 24, 27), (255, 255, 255), (113, 113, 122)
VERSION = 2  # a change of the layout remakes the sheets


def write_sheet(source: Any, path: Path, *, title: str, count: int, columns: int = 10, spread: bool = False) -> None:
    """Writes a cell's first `count` samples as one PNG; one that is there already stays as it is.

    `spread` takes them evenly from the whole set: a reference is often sorted by class.
    """
    count = min(count, len(source))
    mark = sha256_json([source.digest, title, count, columns, spread, VERSION])
    if count < 1 or mark_of(path) == mark:
        return
    chosen = [i * len(source) // count if spread else i for i in range(count)]
    _save(draw_sheet([source.read(range(i, i + 1))[0] for i in chosen], title, columns), path, mark)


def draw_sheet(images: Sequence[Any], title: str, columns: int = 10) -> Image.Image:
    """One or more images, u8 [H,W,3], as a sheet."""
    columns = min(columns, len(images))
    tiles = [_tile(image) for image in images]
    lines = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    sheet, draw, _ = _draw_lines(lines, (GAP, 30), columns * (_side(lines) + GAP) + GAP)
    draw.text((GAP + 2, 8), title, fill=INK, font=_font(14))
    return sheet


def write_overview(sources: Mapping[str, Any], path: Path, *, columns: int = 12) -> None:
    """Writes one PNG with a line per cell: the first samples of each, made from the same prompts and seeds."""
    sources = {name: source for name, source in sources.items() if len(source)}
    mark = sha256_json([[name, source.digest] for name, source in sources.items()] + [columns, VERSION])
    if not sources or mark_of(path) == mark:
        return
    lines = [[_tile(image) for image in s.read(range(min(columns, len(s))))] for s in sources.values()]
    font, small = _font(14), _font(10)
    label = max(int(font.getlength(name)) for name in sources) + 16
    captions = _captions(list(sources.values()), columns)
    side, corner = _side(lines), (label, 40 if captions else GAP)
    sheet, draw, tops = _draw_lines(lines, corner, label + columns * (side + GAP) + GAP)
    for column, caption in enumerate(captions):
        text = _wrapped(caption, small, side)
        draw.multiline_text((label + column * (side + GAP), 3), text, fill=MUTED, font=small, spacing=1)
    for name, top in zip(sources, tops, strict=True):
        draw.text((8, top + side // 2 - 9), name, fill=INK, font=font)
    _save(sheet, path, mark)


def write_pairs(
    source: Any, training: Any, pairs: Sequence[tuple[int, int, float]], path: Path, *, title: str, columns: int = 10
) -> None:
    """Writes samples, each above its nearest training image and their distance, as one PNG; as `write_sheet` does."""
    shown = pairs[: 3 * columns]
    mark = sha256_json([source.digest, training.digest, title, [list(pair) for pair in shown], VERSION])
    if not shown or mark_of(path) == mark:
        return
    from PIL import Image, ImageDraw

    tiles = [tuple(_tile(s.read(range(i, i + 1))[0]) for s, i in ((source, a), (training, b))) for a, b, _ in shown]
    side = _side(tiles)
    columns, head, line = min(columns, len(shown)), 30, 2 * side + 24
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (max(columns * (side + GAP) + GAP, 480), head + rows * line + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP + 2, 8), f"{title}: samples above, nearest training images below", fill=INK, font=_font(12))
    for i, ((above, below), (_, _, distance)) in enumerate(zip(tiles, shown, strict=True)):
        x, y = GAP + (i % columns) * (side + GAP), head + (i // columns) * line
        sheet.paste(above, (x, y))
        sheet.paste(below, (x, y + side + 1))
        draw.text((x, y + 2 * side + 4), f"{distance:.3g}", fill=MUTED, font=_font(10))
    _save(sheet, path, mark)


def write_lines(lines: Mapping[str, Sequence[Any]], path: Path, *, title: str, mark: str) -> None:
    """Writes one PNG of labelled lines of images u8 [H,W,3]; `mark` says what they were made from."""
    tiles = [[_tile(image) for image in images] for images in lines.values()]
    font, small, label = _font(14), _font(10), 110
    width = label + max(map(len, tiles)) * (_side(tiles) + GAP) + GAP
    sheet, draw, tops = _draw_lines(tiles, (label, 30), max(width, int(font.getlength(title)) + 2 * GAP + 4))
    draw.text((GAP + 2, 8), title, fill=INK, font=font)
    for name, top in zip(lines, tops, strict=True):
        draw.multiline_text((8, top + 4), _wrapped(name, small, label - 14), fill=MUTED, font=small, spacing=1)
    _save(sheet, path, mark)


def _side(lines: Sequence[Sequence[Image.Image]]) -> int:
    return max(max(tile.size) for line in lines for tile in line)


def _draw_lines(
    lines: Sequence[Sequence[Image.Image]], corner: tuple[int, int], width: int
) -> tuple[Image.Image, ImageDraw.ImageDraw, list[int]]:
    """A sheet of `width` pixels with lines of tiles right of and below `corner`; what draws on it; each line's top."""
    from PIL import Image, ImageDraw

    step = _side(lines) + GAP
    tops = [corner[1] + row * step for row in range(len(lines))]
    sheet = Image.new("RGB", (width, tops[-1] + step + GAP), PAPER)
    for top, line in zip(tops, lines, strict=True):
        for column, tile in enumerate(line):
            sheet.paste(tile, (corner[0] + column * step, top))
    return sheet, ImageDraw.Draw(sheet), tops


def _captions(sources: Sequence[Any], columns: int) -> list[str]:
    """The prompts above the overview's columns, where the cells that have prompts agree on them."""
    heads = {tuple(source.prompts[:columns]) for source in sources if any(source.prompts[:columns])}
    return [str(text or "") for text in next(iter(heads))] if len(heads) == 1 else []


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, lines: int = 3) -> str:
    out: list[str] = [""]
    for word in text.split():
        longer = f"{out[-1]} {word}".strip()
        if font.getlength(longer) <= width or not out[-1]:
            out[-1] = longer
        else:
            out.append(word)
    if len(out) > lines:
        out = [*out[: lines - 1], out[lines - 1] + "…"]
    return "\n".join(out)


def _tile(array: Any) -> Image.Image:
    """u8 [H,W,3] as a tile of at least TILE and at most MAX_TILE pixels per side."""
    from PIL import Image

    image = Image.fromarray(array)
    if max(image.size) > MAX_TILE:
        return fit(image, MAX_TILE)
    factor = min(-(-TILE // min(image.size)), MAX_TILE // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def mark_of(path: Path) -> str | None:
    """The digest of what a sheet was made from; none where there is no such sheet, or its checksums are not right."""
    if not path.is_file():
        return None
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            mark = str(image.info.get("evalkit"))
            image.verify()  # of all chunks; no pixel is decoded
            return mark
    except (OSError, SyntaxError, ValueError):  # what Pillow says of a PNG that is none
        return None


def save_picture(picture: Image.Image, path: str | os.PathLike[str]) -> None:
    """Writes a file of the kind that its ending says. ConfigError where that is none of an image."""
    from PIL import Image

    Image.init()
    kind = Image.EXTENSION.get(Path(path).suffix.lower())
    if kind not in Image.SAVE:
        raise ConfigError(f"{path}: give a file's name that ends in .png, .jpg or .webp")
    with atomic_path(Path(path)) as temporary:
        picture.save(temporary, format=kind)


def _save(sheet: Image.Image, path: Path, mark: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("evalkit", mark)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG", pnginfo=info, optimize=True)
