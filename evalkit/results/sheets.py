"""Contact sheets: the same prompts and seeds across cells, so that people can compare them by eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.utils.files import atomic_path, sha256_json

if TYPE_CHECKING:
    from PIL import Image, ImageFont

TILE = 64  # smallest side of a tile, in pixels: small images are enlarged by whole factors
MAX_TILE = 256
GAP = 4
INK, PAPER, MUTED = (24, 24, 27), (255, 255, 255), (113, 113, 122)
VERSION = 2  # a change of the layout remakes the sheets


def write_sheet(source: Any, path: Path, *, title: str, count: int, columns: int = 10, spread: bool = False) -> bool:
    """Writes a cell's first `count` samples as one PNG; returns whether it was made (false: it was there already).

    `spread` takes them evenly from the whole set: a reference is often sorted by class.
    """
    count = min(count, len(source))
    mark = sha256_json([source.digest, title, count, columns, spread, VERSION])
    if count < 1 or _mark_of(path) == mark:
        return False
    from PIL import Image, ImageDraw

    chosen = [i * len(source) // count if spread else i for i in range(count)]
    tiles = [_tile(source.read(range(i, i + 1))[0]) for i in chosen]
    columns = min(columns, count)
    side = max(max(tile.size) for tile in tiles)
    rows = -(-count // columns)
    head = 30
    sheet = Image.new("RGB", (columns * (side + GAP) + GAP, head + rows * (side + GAP) + GAP), PAPER)
    ImageDraw.Draw(sheet).text((GAP + 2, 8), title, fill=INK, font=_font(14))
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (GAP + (i % columns) * (side + GAP), head + (i // columns) * (side + GAP)))
    _save(sheet, path, mark)
    return True


def write_overview(sources: Mapping[str, Any], path: Path, *, columns: int = 12) -> bool:
    """Writes one PNG with a line per cell: the first samples of each, made from the same prompts and seeds."""
    sources = {name: source for name, source in sources.items() if len(source)}
    mark = sha256_json([[name, source.digest] for name, source in sources.items()] + [columns, VERSION])
    if not sources or _mark_of(path) == mark:
        return False
    from PIL import Image, ImageDraw

    lines = {name: [_tile(i) for i in s.read(range(min(columns, len(s))))] for name, s in sources.items()}
    side = max(max(tile.size) for tiles in lines.values() for tile in tiles)
    font, small = _font(14), _font(10)
    label = max(int(font.getlength(name)) for name in lines) + 16
    captions = _captions(list(sources.values()), columns)
    head = 40 if captions else GAP
    sheet = Image.new("RGB", (label + columns * (side + GAP) + GAP, head + len(lines) * (side + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, caption in enumerate(captions):
        text = _wrapped(caption, small, side)
        draw.multiline_text((label + column * (side + GAP), 3), text, fill=MUTED, font=small, spacing=1)
    for line, (name, tiles) in enumerate(lines.items()):
        y = head + line * (side + GAP)
        draw.text((8, y + side // 2 - 9), name, fill=INK, font=font)
        for column, tile in enumerate(tiles):
            sheet.paste(tile, (label + column * (side + GAP), y))
    _save(sheet, path, mark)
    return True


def write_pairs(
    source: Any, training: Any, pairs: Sequence[tuple[int, int, float]], path: Path, *, title: str, columns: int = 10
) -> bool:
    """Writes samples, each above its nearest training image and their distance, as one PNG; as `write_sheet` does."""
    shown = pairs[: 3 * columns]
    mark = sha256_json([source.digest, training.digest, title, [list(pair) for pair in shown], VERSION])
    if not shown or _mark_of(path) == mark:
        return False
    from PIL import Image, ImageDraw

    tiles = [tuple(_tile(s.read(range(i, i + 1))[0]) for s, i in ((source, a), (training, b))) for a, b, _ in shown]
    side = max(max(tile.size) for pair in tiles for tile in pair)
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
    return True


def is_marked(path: Path, mark: str) -> bool:
    """Whether a sheet is there, made from what `mark` is the digest of."""
    return _mark_of(path) == mark


def write_lines(lines: Mapping[str, Sequence[Any]], path: Path, *, title: str, mark: str) -> None:
    """Writes one PNG of labelled lines of images u8 [H,W,3]; `mark` says what they were made from."""
    from PIL import Image, ImageDraw

    tiles = {name: [_tile(image) for image in images] for name, images in lines.items()}
    side = max(max(tile.size) for line in tiles.values() for tile in line)
    font, small, head = _font(14), _font(10), 30
    label, columns = 110, max(len(line) for line in tiles.values())
    width = max(label + columns * (side + GAP) + GAP, int(font.getlength(title)) + 2 * GAP + 4)
    sheet = Image.new("RGB", (width, head + len(tiles) * (side + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP + 2, 8), title, fill=INK, font=font)
    for row, (name, line) in enumerate(tiles.items()):
        y = head + row * (side + GAP)
        draw.multiline_text((8, y + 4), _wrapped(name, small, label - 14), fill=MUTED, font=small, spacing=1)
        for column, tile in enumerate(line):
            sheet.paste(tile, (label + column * (side + GAP), y))
    _save(sheet, path, mark)


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
    small, large = min(image.size), max(image.size)
    if large > MAX_TILE:
        scale = MAX_TILE / large
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return image.resize(size, Image.Resampling.LANCZOS)
    factor = min(-(-TILE // small), MAX_TILE // large)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def _mark_of(path: Path) -> str | None:
    if not path.is_file():
        return None
    from PIL import Image

    try:
        with Image.open(path) as image:
            return str(image.info.get("evalkit"))
    except OSError:
        return None


def _save(sheet: Image.Image, path: Path, mark: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("evalkit", mark)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG", pnginfo=info, optimize=True)
