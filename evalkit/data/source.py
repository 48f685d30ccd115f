"""What a set of images is to all that reads one, however it is stored, and what is known of it without decoding.

A source's digest is that of its content (the files' sha256s in order), never of a name or a path. Whatever is read is
compared with the sha256 that was recorded for it, so that a file that changes under a run is never scored silently.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from evalkit.data import codec, reading
from evalkit.data.left_out import LeftOut
from evalkit.errors import ConfigError, DataError
from evalkit.utils.files import read_file, sha256_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Below this many bytes of a file, or pixels of an image, decoding is mostly Python and threads only wait for the GIL
# (32x32 PNGs: 20 % slower).
THREADED_FROM = 16_384
MOST_AT_ONCE, BYTES_AT_ONCE = 16, 1_500_000  # images, and bytes of pixels, that a process decodes at a time
CHUNK = 256  # images in a chunk of a source that is not made in shards
GREY_MODES = frozenset({"1", "L", "LA", "La", "I"})


class AlteredError(DataError):
    """A file is not the one that was recorded."""


class Recorded(Protocol):
    """Files whose sha256s were recorded when they were made: whether they still agree is seen by looking."""

    def stamps(self) -> list[str]:
        """Texts that change when a file does, without reading any."""

    def altered(self, before: Sequence[str], now: Sequence[str]) -> list[int]:
        """The images whose file is missing or another; only what changed since the stamps `before` is read."""


@dataclass(frozen=True)
class Headers:
    """What is known of each image's file without decoding it; all empty where a set has no files.

    Attributes:
        sizes: (width, height).
        formats: Pillow's names.
        kinds: what is unusual: "grey", "palette", "16bit", "cmyk", "alpha_dropped", "blanked", "prompt_truncated", ...
        sha256s: of the files.
        making: what each says of its making (`evalkit.data.png_parameters`), and "folder": the first of its path.
        made: of files whose sha256s were recorded when they were made, what tells whether they still agree.
        skipped: broken files that were left out.
        left_out: by kind, pictures that are of no kind that is read, and masks: how many, and the first one's name.
        profiles: of each file what its colour profile is called, where it is not sRGB's.
        converted: whether colours were converted by them.
        qualities: of each JPEG, about.
    """

    sizes: Sequence[tuple[int, int]] = ()
    formats: Sequence[str] = ()
    kinds: Sequence[frozenset[str]] = ()
    sha256s: Sequence[str] = ()
    making: Sequence[Mapping[str, Any]] = ()
    made: Recorded | None = None
    skipped: Sequence[str] = ()
    left_out: LeftOut = field(default_factory=dict)
    profiles: Sequence[str | None] = ()
    converted: bool = False
    qualities: Sequence[int | None] = ()

    def of_kind(self, kind: str) -> list[int]:
        """The images that have a kind."""
        return [i for i, kinds in enumerate(self.kinds) if kind in kinds]


@dataclass(frozen=True)
class UnderLoad:
    """Requests to a service under load; those that warmed up are left out.

    Attributes:
        loop: "closed" or "open".
        latency_p90, latency_p99: seconds, of the requests that were answered by an image.
        queueing: seconds, the mean of what they waited before their image was begun, where the service tells; else
            before they left this machine (of an open loop, where it is late); none: neither is known.
        tells: whether the service does.
        request_errors: the part of all requests that were not answered by an image.
        kinds: how many of each kind of error.
        requests: how many were measured, failed ones included.
        parts: in how many measurements: a run that was killed and a set that grows go on with another.
        intervals: by name ("latency_p99") the 95 % confidence interval, in seconds, where there are requests enough.
    """

    loop: str
    latency_p90: float
    latency_p99: float
    queueing: float | None
    tells: bool
    request_errors: float
    kinds: Mapping[str, int]
    requests: int
    parts: int
    intervals: Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class GenerationStats:
    """What making a sample set cost.

    Attributes:
        latency_p50, latency_p95: seconds per image (a batch's time by its images; a service's answer by itself), over
            all images but those of the first batch after a model was loaded, which also pays for warming up; over these
            where there are no others.
        images_per_second: over the same images.
        nfe: network evaluations per image (the mean), or none.
        peak_memory_mb: on cuda the device's peak, else that of the whole process; none where it is not known.
        device: such as "cpu" or "cuda (NVIDIA H100)"; joined by " + " where shards were made on several.
        batch_size: images in the largest batch; of a service, requests at a time.
        blanked: images that a safety checker made black.
        doubt: why the timings say little (one batch, a machine under load); none where they can be relied on.
        stderrs: by attribute the standard error of a timing over its repeats, where there are enough.
        beside: workers of the run, itself included, that were at work on the machine while the timings were taken.
        under_load: what a service's requests under load gave; none: they were not. The latencies, images_per_second
            and their errors are then of those, from the time at which each request was to leave.
    """

    latency_p50: float
    latency_p95: float
    images_per_second: float
    nfe: float | None
    peak_memory_mb: float | None
    device: str
    batch_size: int
    blanked: int
    doubt: str | None = None
    stderrs: Mapping[str, float | None] = field(default_factory=dict)
    beside: int = 1
    under_load: UnderLoad | None = None


class Source(Protocol):
    """A set of images in a fixed order, however it is stored."""

    @property
    def name(self) -> str:
        """What messages call it."""

    def __len__(self) -> int: ...

    @property
    def digest(self) -> str:
        """sha256 of the content; cheap the second time; no torch."""

    @property
    def chunks(self) -> Sequence[range]:
        """The parts, in order, whose features are computed and stored together: shards, else `CHUNK` images each."""

    def chunk_digest(self, chunk: range) -> str:
        """sha256 of a chunk's content: the same for the same images wherever they lie, whatever else the set holds."""

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        """Images u8 [H,W,3], verified against what was recorded of them; `DataError` names the file that is not."""

    def location(self, index: int) -> str:
        """Where an image lies, for people and reports: a file's absolute path, or NAME[index] where it has no file."""

    @property
    def prompts(self) -> Sequence[str | None]:
        """One text per image; none where it was not asked for by text."""

    @property
    def categories(self) -> Sequence[str | None]:
        """The class of each image as text, or none."""

    @property
    def warnings(self) -> Mapping[str, int]:
        """Images by kind of warning ("blanked", "prompt_truncated", "exif_rotated", "alpha_dropped", ...)."""

    def headers(self) -> Headers:
        """What is known of each image's file; no image is read."""

    def unlike_metadata(self) -> list[int]:
        """Images whose sha256 is not the one that a metadata file next to them records."""

    def stats(self) -> GenerationStats | None:
        """What making them cost; none where they were not made by evalkit."""


class WithoutRecords:
    """What a `Source` says that knows nothing of its images' files, classes and making."""

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def chunks(self) -> Sequence[range]:
        return chunks_of(len(self))

    @property
    def categories(self) -> Sequence[str | None]:
        return [None] * len(self)

    def headers(self) -> Headers:
        return Headers()

    def unlike_metadata(self) -> list[int]:
        return []

    def stats(self) -> GenerationStats | None:
        return None


class FileImages(WithoutRecords, ABC):
    """What a `Source` says of image `files` whose sha256s are known; `remedy` fixes one that is not as recorded."""

    files: tuple[Path, ...]
    remedy: ClassVar[str]

    @property
    @abstractmethod
    def sha256s(self) -> Sequence[str]:
        """The recorded digests of the files."""

    def __len__(self) -> int:
        return len(self.files)

    @functools.cached_property
    def digest(self) -> str:
        return content_digest(self.sha256s)

    def chunk_digest(self, chunk: range) -> str:
        return content_digest(self.sha256s[chunk.start : chunk.stop])

    def read(self, indices: range) -> list[NDArray[np.uint8]]:
        return read_verified([(self.files[i], self.sha256s[i]) for i in indices], self.remedy)

    def location(self, index: int) -> str:
        return str(self.files[index].absolute())


@functools.cache  # few differ, and there may be a million images
def kinds_of(mode: str, notes: tuple[str, ...]) -> frozenset[str]:
    """`Headers.kinds` of an image, from its mode and notes (`evalkit.data.codec`)."""
    kinds = set(notes)
    if mode in GREY_MODES or mode.startswith("I;"):
        kinds.add("grey")
    elif mode in ("P", "PA"):
        kinds.add("palette")
    return frozenset(kinds)


def chunks_of(count: int) -> list[range]:
    """`count` images in chunks of `CHUNK`."""
    return [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]


def content_digest(sha256s: Iterable[str]) -> str:
    """The digest of a sequence of files, from their sha256s in order."""
    digest, between, rest = hashlib.sha256(), b"", iter(sha256s)
    while block := list(itertools.islice(rest, 1024)):  # all of a million at once would take 200 MB
        digest.update(between + "\n".join(block).encode())
        between = b"\n"
    return digest.hexdigest()


def read_verified(files: Sequence[tuple[Path, str]], remedy: str) -> list[NDArray[np.uint8]]:
    """Reads and decodes files given with their sha256, several at a time where that is faster.

    Raises:
        DataError: a file is missing, changed or damaged; the message names it and ends with `remedy`.
    """
    loads = [(str(path), sha256, functools.partial(read_file, path)) for path, sha256 in files]
    return decode_verified(loads, remedy, _size(files[0][0]) if files else 0)


Load = tuple[str, str, Callable[[], bytes]]
"""What errors call an image, its sha256, and what reads its file: `partial(read_file, path)` where it is one."""


def decode_verified(
    items: Sequence[Load], remedy: str, pixels: int, *, far: bool = False, srgb: bool = False
) -> list[NDArray[np.uint8]]:
    """As `read_verified`, of anything that gives bytes.

    Args:
        items: the images.
        remedy: ends an error's message.
        pixels: of an image, about.
        far: whether each is a request over a network.
        srgb: as of `codec.decode`.
    """

    def read(item: Load) -> NDArray[np.uint8]:
        return _read_one(item, remedy, srgb)

    if len(items) < 2:
        return [read(item) for item in items]
    if far:
        return list(reading.wide_pool().map(read, items))
    helpers = reading.helpers(reading.SECONDS_PER_BYTE * 3 * pixels * len(items))
    if helpers is not None:
        size = max(1, min(MOST_AT_ONCE, BYTES_AT_ONCE // max(3 * pixels, 1)))

        def read_there(part: Sequence[Load]) -> list[NDArray[np.uint8]]:
            portable = [(name, sha256, _portable(name, load, remedy)) for name, sha256, load in part]
            return _unpacked(*helpers.call(_read_packed, portable, remedy, srgb))

        parts = helpers.map(read_there, [items[i : i + size] for i in range(0, len(items), size)])
        return [image for part in parts for image in part]
    if pixels >= THREADED_FROM and (os.cpu_count() or 1) > 1:
        return list(reading.read_pool().map(read, items))
    return [read(item) for item in items]


def _read_one(item: Load, remedy: str, srgb: bool) -> NDArray[np.uint8]:
    name, expected, load = item
    data = _loaded(name, load, remedy)
    if sha256_bytes(data) != expected:
        raise AlteredError(f"{name}: altered or half written (its sha256 is not the recorded one): {remedy}")
    return codec.decode(data, name, srgb=srgb)


def _loaded(name: str, load: Callable[[], bytes], remedy: str) -> bytes:
    try:
        return load()
    except OSError as error:
        raise DataError(f"{name}: {error.strerror or error}: {remedy}") from error


def _portable(name: str, load: Callable[[], bytes], remedy: str) -> Callable[[], bytes]:
    """What reads an image in another process: a file there, all else here."""
    if isinstance(load, functools.partial) and load.func is read_file:
        return load
    return functools.partial(bytes, _loaded(name, load, remedy))


def _read_packed(
    items: Sequence[Load], remedy: str, srgb: bool
) -> tuple[list[tuple[int, int, int]], NDArray[np.uint8]]:
    """Images as one array, which passes through a pipe with fewer stops: their shapes, and u8 [bytes]."""
    import numpy as np

    images = [_read_one(item, remedy, srgb) for item in items]
    return [image.shape for image in images], np.concatenate([image.reshape(-1) for image in images])


def _unpacked(shapes: Sequence[tuple[int, int, int]], flat: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """Images u8 [H,W,3] out of one array u8 [bytes], which is not copied."""
    images, start = [], 0
    for height, width, channels in shapes:
        stop = start + height * width * channels
        images.append(flat[start:stop].reshape(height, width, channels))
        start = stop
    return images


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # reading it gives the error


def check_count(name: str, there: int, asked: int) -> None:
    """Raises ConfigError where fewer than `asked` images are there."""
    if not 1 <= asked <= there:
        raise ConfigError(f"{name}: num_samples={asked}, but there are {there} images: give 1 to {there}, or null")
