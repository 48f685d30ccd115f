"""What is wrong with a set, alone and against its reference: measurements in, findings out. Nothing is read here."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.data.left_out import GRIDS, MASKS, describe
from evalkit.data.source import Headers
from evalkit.lint.cache import Measured
from evalkit.lint.finding import FILES, REFERENCE, Finding, locations

if TYPE_CHECKING:
    from evalkit.data.source import Source

LOSSY = frozenset({"JPEG", "MPO", "WEBP", "JPEG2000", "AVIF"})
MOST = 0.5  # of a set: more than that, and its scores mean nothing
FEW = 0.01  # real data holds some duplicates
SET = 16  # images from which on the range of a set's values tells something
MIDDLE = 15  # levels about the middle grey that still count as not passing it
QUALITY_APART = 5  # of JPEG's 1 to 100
CLIPPED, UNCLIPPED = 0.35, 0.05  # share of values that are 0: where negative values were cut; where they were not

_REPEATS = "standard errors come out too small; recall, coverage and Vendi fall; FID and KID lean towards what repeats"
_ONE_COLOUR = "they count as samples: FID, KID and precision get worse, by the rate of such images"
_NEARLY_BLACK = "they are all but black to every extractor: all metrics"
_RESAMPLED = "the extractors resize both sides by different factors: FID, KID and precision compare the blur as well"

# What an image is besides ordinary: words and effect.
_FILE_KINDS = {
    "grey": ("greyscale files", "scored as three equal channels: FID, KID and CLIP score see no colour"),
    "palette": (
        "palette files of at most 256 colours",
        "banding and dither are scored as texture: FID and KID get worse",
    ),
    "16bit": ("files of 16 bits per channel", "scored with 8 bits: no metric changes visibly"),
    "cmyk": ("CMYK files, converted without a colour profile", "colours shift: FID, KID and CLIP score"),
    "alpha_dropped": (
        "files with transparency, which is ignored",
        "colours that no viewer shows are scored, by all metrics",
    ),
    "blanked": (
        "blanked by the model's safety checker",
        "black images count as samples: FID, KID, precision and CLIP score get worse",
    ),
    "prompt_truncated": (
        "made from a prompt that was cut to the model's context",
        "the model never saw the tail, but CLIP score asks for all that CLIP reads",
    ),
}


@dataclass(frozen=True)
class View:
    """All that is known of one set.

    Attributes:
        name: the cell's name, or "reference".
        source: the images.
        headers: of its files.
        measured: of its pixels; none where they cannot be read.
    """

    name: str
    source: Source
    headers: Headers
    measured: Measured | None

    @functools.cached_property
    def digests(self) -> frozenset[str]:
        """Of its images: of pixels, and of files."""
        pixels = self.measured.pixels if self.measured is not None else ()
        return frozenset(key for key in (*pixels, *self.headers.sha256s) if key)

    def finding(
        self, kind: str, severity: str, indices: Sequence[int], message: str, effect: str, of: int | None = None
    ) -> Finding:
        """A finding about some of its images."""
        files = locations(self.source, indices)
        return Finding(kind, severity, self.name, len(indices), files, message, effect, of or len(self.source))

    def sizes(self) -> Counter[tuple[int, int]]:
        """Images by (width, height)."""
        if self.headers.sizes:
            return Counter(self.headers.sizes)
        return Counter({(w, h): n for w, h, n in self.measured.sizes}) if self.measured else Counter()

    def keys(self) -> list[str]:
        """By image what equal images share: the pixels' digest where they were seen, else the file's sha256, or ""."""
        pixels = list(self.measured.pixels) if self.measured else [""] * len(self.source)
        sha256s = self.headers.sha256s or pixels
        known = {sha: key for sha, key in zip(sha256s, pixels, strict=True) if key}
        return [known.get(sha, sha) for sha in sha256s]


def check_alone(view: View) -> list[Finding]:
    """What is wrong with a set by itself."""
    findings = [*_file_kinds(view), *_skipped(view), *_left_out(view), *_profiles(view), *_mixed(view)]
    findings += _doubled(view) or _duplicates(view)
    if view.measured is not None:
        findings += [*_pixels(view, view.measured), *_near(view, view.measured), *_enlarged(view, view.measured)]
    return findings


def _file_kinds(view: View) -> list[Finding]:
    findings = []
    for kind, (words, effect) in _FILE_KINDS.items():
        indices = view.headers.of_kind(kind)
        if kind == "cmyk" and view.headers.converted:
            indices = [i for i in indices if view.headers.profiles[i] is None]
        if indices:
            # A set may be meant to be grey, and photographs in black and white are part of the world.
            usual = kind == "grey" and (view.name == REFERENCE or len(indices) == len(view.source))
            severity = "note" if usual or kind == "16bit" else "warning"
            findings.append(view.finding(kind, severity, indices, f"{_of(view, indices)} are {words}", effect))
    return findings


def _skipped(view: View) -> list[Finding]:
    skipped = view.headers.skipped
    if not skipped:
        return []
    message = f"{len(skipped)} files cannot be read and were left out"
    effect = "N is smaller than the folder; what broke them may have chosen them"
    files = tuple(skipped[:FILES])
    return [Finding("skipped", "warning", view.name, len(skipped), files, message, effect, len(view.source))]


def _left_out(view: View) -> list[Finding]:
    """Pictures in the folder that are no samples."""
    left_out = view.headers.left_out
    if not left_out:
        return []
    count = sum(number for number, _ in left_out.values())
    unread = any(kind not in (MASKS, GRIDS) for kind in left_out)
    message = f"{count} pictures in it are no samples: {describe(left_out)}"
    effect = "N is smaller than the folder: convert what is to count" if unread else "masks and grids are not scored"
    files = tuple(first for _, first in left_out.values())[:FILES]
    severity = "warning" if unread else "note"
    return [Finding("left_out", severity, view.name, count, files, message, effect, len(view.source))]


def _profiles(view: View) -> list[Finding]:
    """Colour profiles that are not sRGB's, applied or not."""
    indices = [i for i, name in enumerate(view.headers.profiles) if name]
    if not indices:
        return []
    names = Counter(name for name in view.headers.profiles if name).most_common(3)
    named = ", ".join(f"{count} {name}" for name, count in names)
    if view.headers.converted:
        message = f"{_of(view, indices)} had a colour profile that is not sRGB ({named}), and were converted"
        return [view.finding("profile", "note", indices, message, "other evaluators score them as they are")]
    message = f"{_of(view, indices)} have a colour profile that is not sRGB ({named}), which is not applied"
    effect = "colours are scored other than viewers show them, by all metrics; profiles=srgb converts them"
    return [view.finding("profile", "warning", indices, message, effect)]


def _mixed(view: View) -> list[Finding]:
    """Sizes, and lossy among lossless files, that differ within a set: the rarer ones are named."""
    findings = []
    sizes = view.sizes()
    if len(sizes) > 1:
        usual = max(sizes, key=lambda size: (sizes[size], size))
        indices = [i for i, size in enumerate(view.headers.sizes) if size != usual]
        message = f"{len(sizes)} sizes: {_of(view, indices)} are not {usual[0]}x{usual[1]}"
        severity = "note" if view.name == REFERENCE else "warning"
        effect = "each image is resized by itself: FID, KID and precision compare different sharpness and aspect"
        findings.append(view.finding("size", severity, indices, message, effect))
    lossy = [i for i, name in enumerate(view.headers.formats) if name in LOSSY]
    lossless = [i for i, name in enumerate(view.headers.formats) if name not in LOSSY]
    if lossy and lossless:
        rare, what = (lossy, "lossy") if len(lossy) <= len(lossless) else (lossless, "lossless")
        names = "/".join(sorted({view.headers.formats[i] for i in rare}))
        message = f"{_of(view, rare)} are {what} ({names}), the others are not"
        effect = "compression leaves its own texture in a part of the set: FID and KID measure it"
        findings.append(view.finding("format", "warning", rare, message, effect))
    return findings


def _doubled(view: View) -> list[Finding]:
    """A set in which every image occurs equally often, twice or more, as workers make that share a seed."""
    keys = Counter(view.keys())
    times = set(keys.values())
    if len(keys) < 2 or "" in keys or len(times) > 1 or times == {1}:
        return []
    n, k = len(view.source), times.pop()
    message = f"every image occurs {k} times (workers that share a seed?): {n} images, of which {len(keys)} differ"
    effect = f"standard errors are {k**0.5:.2f} times too small: N is {len(keys)}, and FID is biased as at that N"
    first: dict[str, int] = {}
    copies = [i for i, key in enumerate(view.keys()) if first.setdefault(key, i) != i]
    return [view.finding("duplicates", "error", copies, message, effect)]


def _duplicates(view: View) -> list[Finding]:
    """Images that repeat another one exactly; those of one colour are another finding."""
    measured = view.measured
    keys = view.keys()
    plain = {keys[i] for i in [*measured.flat, *measured.black, *measured.tiny]} if measured else set()
    plain |= {keys[i] for i in view.headers.of_kind("blanked")}
    first: dict[str, int] = {}
    copies: list[tuple[int, int]] = []
    for i, key in enumerate(keys):
        if key and key not in plain and first.setdefault(key, i) != i:
            copies.append((i, first[key]))
    return _repeated(view, "duplicates", copies, "repeat another one exactly", len(view.source))


def _near(view: View, measured: Measured) -> list[Finding]:
    """Images that show the picture of another one, but are not equal to it."""
    keys = view.keys()
    seen: dict[int, set[str]] = {}  # by the first image of a group, its members' keys
    copies: list[tuple[int, int]] = []
    for i, j in measured.near:
        group = seen.setdefault(j, {keys[j]})
        if keys[i] not in group:
            copies.append((i, j))
            group.add(keys[i])
    return _repeated(view, "near_duplicates", copies, "show nearly the same picture as another", measured.looked)


def _repeated(view: View, kind: str, copies: Sequence[tuple[int, int]], words: str, of: int) -> list[Finding]:
    if not copies:
        return []
    share = len(copies) / of
    lenient = kind == "near_duplicates" or view.name == REFERENCE
    severity = "error" if share > MOST else "note" if share < FEW and lenient else "warning"
    files = locations(view.source, [i for pair in copies for i in pair])
    message = f"{len(copies)} of {_looked(of, len(view.source))} images {words}"
    return [Finding(kind, severity, view.name, len(copies), files, message, _REPEATS, of)]


def _pixels(view: View, measured: Measured) -> list[Finding]:
    """Images of one colour, and values that fill a part of their range only."""
    blanked = set(view.headers.of_kind("blanked"))
    cases: tuple[tuple[str, Sequence[int], str, str], ...] = (
        ("black", [i for i in measured.black if i not in blanked], "are black all over", _ONE_COLOUR),
        ("constant", measured.flat, "are of one colour", _ONE_COLOUR),
        ("range", measured.tiny, "hold no value above 2: pixels of 0..1 saved as if of 0..255?", _NEARLY_BLACK),
    )
    findings = []
    for kind, indices, words, effect in cases:
        if indices:
            severity = "error" if len(indices) > MOST * measured.looked else "warning"
            message = f"{len(indices)} of {_looked(measured.looked, len(view.source))} images {words}"
            findings.append(view.finding(kind, severity, indices, message, effect, measured.looked))
    return findings


def _enlarged(view: View, measured: Measured) -> list[Finding]:
    if not measured.enlarged:
        return []
    indices = [int(i) for i, _ in measured.enlarged]
    factors = sorted({factor for _, factor in measured.enlarged})
    about = f"{factors[0]:.3g}" if len(factors) == 1 else f"{factors[0]:.3g} to {factors[-1]:.3g}"
    message = f"{len(indices)} of {_looked(measured.looked, len(view.source))} images were enlarged (by {about})"
    effect = "they hold no detail of their size: FID and KID measure the smoothness; sharper models look worse"
    return [view.finding("upscaled", "warning", indices, message, effect, measured.looked)]


def check_against(view: View, reference: View) -> list[Finding]:
    """What differs between a set and its reference so that a metric would measure it."""
    findings = [*_sizes_differ(view, reference), *_formats_differ(view, reference), *_copied(view, reference)]
    a, b = view.measured, reference.measured
    if a and b and _coloured(a) != _coloured(b) and None not in (_coloured(a), _coloured(b)):
        grey, colour = ("the reference", "generated") if _coloured(a) else ("generated", "the reference")
        effect = "FID, KID and precision measure the missing colour"
        findings.append(_whole(view, "grey", f"images of {grey} are grey, those of {colour} are not", effect))
    return findings


def _whole(view: View, kind: str, message: str, effect: str) -> Finding:
    """A finding about all images of a set."""
    return view.finding(kind, "warning", range(len(view.source)), message, effect)


def _coloured(measured: Measured) -> bool | None:
    """Whether most images have colours; none where it is neither so nor so."""
    counted = measured.looked - len(measured.flat) - len(measured.black) - len(measured.tiny)
    share = measured.grey / counted if counted else 0.5
    return True if share <= 0.2 else False if share >= 0.9 else None


def _sizes_differ(view: View, reference: View) -> list[Finding]:
    sizes, other = view.sizes(), reference.sizes()
    if not sizes or not other or sizes.keys() & other.keys():
        return []
    message = f"images are {_named(sizes)}, those of the reference {_named(other)}"
    return [_whole(view, "size", message, _RESAMPLED)]


def _formats_differ(view: View, reference: View) -> list[Finding]:
    shares = [sum(f in LOSSY for f in v.headers.formats) / max(len(v.headers.formats), 1) for v in (view, reference)]
    if not view.headers.formats or not reference.headers.formats:
        return []
    if (shares[0] > MOST) == (shares[1] > MOST):
        return _qualities_differ(view, reference)
    names = [Counter(v.headers.formats).most_common(1)[0][0] for v in (view, reference)]
    message = f"images are {names[0]}, those of the reference {names[1]}"
    return [_whole(view, "format", message, "FID and KID measure the compression as well: save both sides alike")]


def _qualities_differ(view: View, reference: View) -> list[Finding]:
    """JPEGs on both sides that were compressed by other amounts."""
    medians = []
    for side in (view, reference):
        known = sorted(quality for quality in side.headers.qualities if quality is not None)
        if len(known) <= MOST * len(side.source):
            return []
        medians.append(known[len(known) // 2])
    if abs(medians[0] - medians[1]) < QUALITY_APART:
        return []
    message = f"JPEGs of quality {medians[0]} or so (the median), those of the reference of {medians[1]}"
    return [_whole(view, "format", message, "FID and KID measure the compression as well: save both sides alike")]


def _copied(view: View, reference: View) -> list[Finding]:
    """Samples that are images of the reference."""
    if view.measured is None or reference.measured is None:
        return []
    plain = {*view.measured.flat, *view.measured.black, *view.measured.tiny}
    there = reference.digests
    sha256s = view.headers.sha256s or view.measured.pixels
    pairs = zip(view.measured.pixels, sha256s, strict=True)
    indices = [i for i, keys in enumerate(pairs) if not there.isdisjoint(keys) and i not in plain]
    if not indices:
        return []
    of = len(view.source)
    message = f"{len(indices)} of {of} images are images of the reference"
    effect = "FID, KID, precision and recall look better than they are"
    severity = "error" if len(indices) > MOST * of else "warning"
    return [view.finding("in_reference", severity, indices, message, effect, of)]


def check_range(view: View, reference: View | None) -> list[Finding]:
    """Values of a whole set that lie in a part of 0..255, where those of the reference do not."""
    a, b = view.measured, reference.measured if reference else None
    if a is None or a.looked < SET or a.lowest > a.highest:
        return []
    low, high = (b.lowest, b.highest) if b and b.lowest <= b.highest else (0, 255)
    messages = []
    if a.lowest >= 127 - MIDDLE and low < 64:
        messages.append(f"no value is below {a.lowest}: pixels of 0..1 saved as if of -1..1?")
    if a.highest <= 128 + MIDDLE and high > 192:
        messages.append(f"no value is above {a.highest}: pixels of 0..1 scaled by 127.5?")
    if 14 <= a.lowest <= 18 and 233 <= a.highest <= 237 and low <= 4 and high >= 251:
        messages.append(f"all values lie in {a.lowest}..{a.highest}: a video's range, not stretched to 0..255?")
    if b is not None and a.zeros >= CLIPPED and b.zeros <= UNCLIPPED:
        messages.append(f"{a.zeros:.0%} of all values are 0: pixels of -1..1 saved as if of 0..1?")
    effect = "contrast and brightness are off in every image: all metrics"
    return [_whole(view, "range", message, effect) for message in messages]


def check_same(views: Sequence[View]) -> list[Finding]:
    """Cells that hold the very same images: what tells them apart had no effect."""
    findings = []
    first: dict[str, View] = {}
    for view in views:
        other = first.setdefault(view.source.digest, view)
        if other is not view and not (_under_load(view) and _under_load(other)):
            message = f"the images are those of {other.name}, one by one"
            effect = "their scores differ by nothing: the setting that tells them apart had no effect"
            findings.append(_whole(view, "same_images", message, effect))
    return findings


def _under_load(view: View) -> bool:
    """Whether a service made them under load, which is to change no image."""
    stats = view.source.stats()
    return stats is not None and stats.under_load is not None


def check_asked_size(view: View, size: tuple[int, int] | None) -> list[Finding]:
    """Images that have not the height and width that the configuration asks for."""
    wrong = [i for i, (width, height) in enumerate(view.headers.sizes) if (height, width) != size]
    if size is None or not wrong:
        return []
    message = f"{_of(view, wrong)} are {_named(view.sizes())}, not {size[1]}x{size[0]} as asked"
    effect = "they are not the setting that the table names: all metrics"
    return [view.finding("size", "warning", wrong, message, effect)]


def _of(view: View, indices: Sequence[int]) -> str:
    return f"{len(indices)} of {len(view.source)} images"


def _looked(looked: int, count: int) -> str:
    return str(count) if looked >= count else f"{looked} (of {count}, spread evenly)"


def _named(sizes: Counter[tuple[int, int]]) -> str:
    width, height = max(sizes, key=lambda size: (sizes[size], size))
    return f"{width}x{height}" if len(sizes) == 1 else f"of {len(sizes)} sizes, mostly {width}x{height}"
