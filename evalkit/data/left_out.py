"""Files of a folder or archive that are no samples: what is passed over, and what is counted and told."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping

MASKS = "masks next to images"
GRIDS = "grids of AUTOMATIC1111"
_FOLDERS = frozenset({"__MACOSX", "@eaDir"})  # macOS's zips, and thumbnails on Synology's disks
# Pictures and films of kinds that are not read. Kinds that Pillow would open are among them: see codec.FORMATS.
_UNREAD = re.compile(
    r"\.(hei[cf]|hif|jxl|jp2|j2k|j2c|jpc|jpf|jpx|jxr|psd|psb|xcf|kra|ai|eps|ps|pdf|svgz?|exr|hdr|pfm|tga|ico|icns|cur|pcx"
    r"|dds|qoi|sgi|xbm|xpm|wmf|emf|fits?|dcm|jfi|jif|ktx2?|png|jpe?g|webp|avif|gif|tiff?|bmp"
    r"|raw|dng|cr2|cr3|crw|nef|nrw|arw|srf|sr2|orf|rw2|raf|pef|srw|x3f|3fr|iiq|erf|mef|mos|rwl"
    r"|mp4|m4v|mov|avi|mkv|webm|mpe?g|wmv|flv)"
)
_MASK = re.compile(r"(.+)[._-](?:masks?|segm?|segmentation|alpha|matte|trimap|depth)", re.IGNORECASE)

_GRID = re.compile(r"(?:.*/)?(?:xyz?_)?grid-\d{4,}(?:-[^/]*)?")  # grid-0001.png, xyz_grid-0001-1234-a cat.jpg

LeftOut = Mapping[str, tuple[int, str]]  # by kind (a suffix, MASKS or GRIDS): how many, and the first one's name


def is_hidden(name: str) -> bool:
    """Whether a relative posix path is one that the system made for itself: `._a.png`, `.ipynb_checkpoints/a.png`."""
    return name.startswith(".") or "/." in name or not _FOLDERS.isdisjoint(name.split("/")[:-1])


def find_masks(names: Collection[str]) -> list[str]:
    """Of the images' names those of masks: `a.mask.png`, `a_mask.png` and the like, where there is an image `a`."""
    stems = {os.path.splitext(name)[0] for name in names}  # noqa: PTH122 (pathlib takes a second for 50,000)
    masks = []
    for name in names:
        match = _MASK.fullmatch(os.path.splitext(name)[0])  # noqa: PTH122
        if match and match[1] in stems:
            masks.append(name)
    return masks


def find_grids(names: Collection[str]) -> list[str]:
    """Of the images' names those that AUTOMATIC1111 gives to its overviews of a batch; none where all are called so."""
    grids = [name for name in names if _GRID.fullmatch(os.path.splitext(name)[0])]  # noqa: PTH122
    return grids if len(grids) < len(names) else []


def find_unread(names: Iterable[str], read: Collection[str]) -> dict[str, tuple[int, str]]:
    """By suffix, the pictures that are of no kind that is read; `read` are the suffixes that are."""
    found: dict[str, tuple[int, str]] = {}
    for name in names:
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122
        if suffix not in read and _UNREAD.fullmatch(suffix) and not is_hidden(name):
            count, first = found.get(suffix, (0, name))
            found[suffix] = (count + 1, min(first, name))
    return dict(sorted(found.items()))


def describe(left_out: LeftOut) -> str:
    """`12 .heic (IMG_1.heic), 3 masks next to images (1_mask.png)`."""
    return ", ".join(f"{count:,} {kind} ({first})" for kind, (count, first) in left_out.items())
