"""map.json: where samples and reference lie in the feature space of a metric, and which modes a cell lacks.

Read from the stored features alone: nothing is decoded but a few images of the reference, and torch is not imported.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.data.moments import Moments
from evalkit.errors import ConfigError, DataError, EvalkitError, StoreError, nearest
from evalkit.metric import ReferenceMetric
from evalkit.results import thumbnails
from evalkit.results.stats import holm
from evalkit.results.thumbnails import Thumbnail, Thumbnailer
from evalkit.utils.files import sha256_json
from evalkit.utils.json_files import read_checked, read_json, write_checked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from evalkit.data.source import Source
    from evalkit.extractors.base import Extractor
    from evalkit.features.feature_pass import FeaturePass
    from evalkit.numerics.modes import Components
    from evalkit.results.rows import Outcome
    from evalkit.utils.blobs import Blobs

log = logging.getLogger(__name__)

NAME = "map.json"
VERSION = 1  # a change of what is in the file, or of how it is found, remakes it
METHODS = ("pca", "umap", "none")
POINTS, LEAST_POINTS, MOST_POINTS = 12_000, 20, 1000  # of all cells together, of a cell
FITTED = 2000  # images of the reference that axes and clusters are made of, at most half of it; they are the map's
AXES = 32  # in which clusters are formed
CLUSTERS, PER_CLUSTER = 20, 40  # clusters at most; images of the reference that each stands for at least
CLASSES, PER_CLASS = 40, 10  # more classes than that, or smaller ones, say less than clusters do
SHOWN, BYTES = 3, 150_000  # images of the reference per cluster, and their WebP in all
FIFTH, LEVEL = 0.2, 0.05  # a mode is missing where its share is below a fifth of the reference's, and surely below it


@dataclass(frozen=True)
class Points:
    """A set on the map: the samples that are shown, and how many of all lie in each mode."""

    index: Sequence[int]
    x: Sequence[float]
    y: Sequence[float]
    counts: Sequence[int] = ()
    missing: Sequence[int] = ()


@dataclass(frozen=True)
class Modes:
    """The reference's classes, or clusters of its features.

    Attributes:
        names: of classes; of clusters "cluster 1" and on, the largest first.
        counts: how many images of the reference lie in each, of those that the modes were not made of.
        images: of each, images of the reference that lie nearest to its centre.
    """

    classes: bool
    names: Sequence[str] = ()
    counts: Sequence[int] = ()
    images: Sequence[Sequence[Thumbnail]] = ()


@dataclass(frozen=True)
class FeatureMap:
    """What map.json holds.

    Attributes:
        mark: what it was made of.
        method: "pca" or "umap".
        address: of the features, "inception/pool3".
        explained: the share of the reference's variance along x and y; of PCA alone.
    """

    mark: str
    method: str
    address: str
    explained: Sequence[float]
    reference: Points
    modes: Modes
    cells: Mapping[str, Points] = field(default_factory=dict)

    def findings(self) -> list[tuple[str, str]]:
        """By cell, one line: the modes that are (nearly) missing."""
        found = []
        of_reference = sum(self.modes.counts)
        for cell, points in self.cells.items():
            n = sum(points.counts)
            words = [
                f"{self.modes.names[i]} {points.counts[i] / n:.1%} of {n} (the reference "
                f"{self.modes.counts[i] / of_reference:.1%})"
                for i in points.missing
            ]
            if words:
                found.append((cell, f"modes that are (nearly) missing: {', '.join(words)}"))
        return found


def check_map(setting: Mapping[str, Any]) -> str:
    """The method of the run's setting `map`.

    Raises:
        ConfigError: an unknown key or method, or one whose package is not installed.
    """
    for key in setting:
        if key != "method":
            raise ConfigError(f"map.{key}: no such key. {nearest(str(key), ['method'])}")
    method = setting.get("method", METHODS[0])
    method = "none" if method is None else method
    if method not in METHODS:
        raise ConfigError(f"map.method={method!r} is not known. {nearest(str(method), METHODS)}")
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise ConfigError("map.method=umap needs a package: pip install umap-learn, or map.method=pca")
    return str(method)


def wilson(count: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share after Wilson (1927)."""
    z2 = 1.959963984540054**2
    middle, half = (count + z2 / 2) / (n + z2), (z2 * (count * (n - count) / n + z2 / 4)) ** 0.5 / (n + z2)
    return (0.0 if count == 0 else middle - half), (1.0 if count == n else middle + half)


def missing_modes(counts: Sequence[int], of_reference: Sequence[int]) -> list[int]:
    """The modes of which a set has less than a fifth of the reference's share, and surely less than all of it.

    "Surely" is Fisher's exact test, one-sided, at 5 % over all modes (Holm). Counts are of independent samples, those
    of the reference of images that the modes were not made of.

    Args:
        counts, of_reference: by mode, how many of each set lie in it.
    """
    from scipy.stats import hypergeom

    n, m = sum(counts), sum(of_reference)
    if not n or not m:
        return []
    pairs = list(zip(counts, of_reference, strict=True))
    values = holm([float(hypergeom.cdf(x, n + m, x + y, n)) for x, y in pairs])
    return [
        i
        for i, ((x, y), p) in enumerate(zip(pairs, values, strict=True))
        if p is not None and p <= LEVEL and x * m < FIFTH * y * n
    ]


def write_map(
    outcome: Outcome, features: Path | Blobs, extractors: Mapping[str, Extractor], method: str, out: Path
) -> None:
    """Writes `out`/map.json; leaves one that is of these features as it is, and removes one that is of others.

    Args:
        outcome: what was scored.
        features: the store's folder of features.
        extractors: by name.
        method: "pca", "umap" or "none".
        out: the run's folder; its thumbnails.json is written before.
    """
    from evalkit.features.feature_pass import FeaturePass

    path, reference = out / NAME, outcome.reference
    stored = FeaturePass(features, extractors)
    address = None if method == "none" else _address(outcome, extractors)
    if address is None or reference is None or isinstance(reference, Moments):
        path.unlink(missing_ok=True)
        return
    shown = _with_pictures(out)
    about = [[cell, source.digest, shown.get(cell, [])] for cell, source in outcome.sources.items()]
    classes = sha256_json(list(reference.categories))
    mark = sha256_json([VERSION, method, stored.column(address).folder, reference.digest, classes, about])
    if _mark_of(path) == mark:
        return
    path.unlink(missing_ok=True)
    try:
        made = _Maker(stored, address, method, reference).make(outcome.sources, shown, mark)
    except StoreError as error:  # features that are gone are not computed again for a picture
        log.warning("no %s: %s", NAME, error)
        return
    if made is not None:
        write_checked(path, asdict(made))
        for cell, words in made.findings():
            log.warning("%s: %s", cell, words)


def read_map(path: Path) -> FeatureMap:
    """What `write_map` wrote.

    Raises:
        OSError, DataError, ValueError, LookupError, TypeError, AttributeError: it cannot be read, or was altered.
    """
    data = read_checked(path)
    modes = data["modes"]
    images = [[Thumbnail(**image) for image in images] for images in modes["images"]]
    return FeatureMap(
        **{name: data[name] for name in ("mark", "method", "address", "explained")},
        reference=Points(**data["reference"]),
        modes=Modes(modes["classes"], modes["names"], modes["counts"], images),
        cells={cell: Points(**points) for cell, points in data["cells"].items()},
    )


def _mark_of(path: Path) -> str | None:
    try:
        return str(read_checked(path)["mark"])
    except (OSError, DataError, LookupError):
        return None


def _with_pictures(out: Path) -> dict[str, list[int]]:
    """By cell the samples that thumbnails.json shows: a click opens those."""
    try:
        images = read_json(out / thumbnails.NAME)["images"]
        return {cell: sorted(int(index) for index, image in of.items() if image) for cell, of in images.items()}
    except (OSError, DataError, LookupError):
        return {}


def _address(outcome: Outcome, extractors: Mapping[str, Extractor]) -> str | None:
    """The features of images that the first metric against the reference is made of."""
    for metric in outcome.metrics.values():
        if isinstance(metric, ReferenceMetric) and "reference" in metric.sides:
            for address in metric.needs:
                name, _, layer = address.partition("/")
                if layer not in extractors[name].text_layers | extractors[name].joint_layers:
                    return address
    return None


@dataclass
class _Maker:
    stored: FeaturePass
    address: str
    method: str
    reference: Source

    def make(self, sources: Mapping[str, Source], shown: Mapping[str, Sequence[int]], mark: str) -> FeatureMap | None:
        """None of a reference that is too small. StoreError: features are not stored."""
        import numpy as np

        from evalkit.numerics.modes import Components, spread

        chosen = spread(len(self.reference), min(FITTED, len(self.reference) // 2))
        if len(chosen) < 3:
            return None
        fitted = np.concatenate([features[rows] for rows, features in self._chosen(self.reference, chosen)])
        components = Components.of(fitted, AXES)
        near = components.project(fitted)
        names, centres, classes = self._modes(chosen, near)
        place = self._places(near)
        x, y = place(near)
        _, ids = self._project(self.reference, components, centres, chosen[:0])
        counts = _count(np.delete(ids, chosen), len(names)) if names else []
        reference = Points(chosen.tolist(), x, y, counts)
        budget = max(LEAST_POINTS, min(MOST_POINTS, POINTS // max(len(sources), 1)))
        cells = {}
        for cell, source in sources.items():
            wanted = np.union1d(spread(len(source), budget), [i for i in shown.get(cell, ()) if i < len(source)])
            points, ids = self._project(source, components, centres, wanted.astype(np.int64))
            of_cell = _count(ids, len(names))
            x_of, y_of = place(points)
            lacks = missing_modes(of_cell, counts)
            cells[cell] = Points(wanted.astype(int).tolist(), x_of, y_of, of_cell, lacks)
        images = self._images(chosen, near, centres)
        explained = [round(float(share), 4) for share in components.explained[:2]] if self.method == "pca" else []
        return FeatureMap(
            mark, self.method, self.address, explained, reference, Modes(classes, names, counts, images), cells
        )

    def _chunks(self, source: Source) -> Iterator[tuple[range, NDArray[np.float32]]]:
        """The stored features f32 [B,D] of each chunk."""
        column = self.stored.column(self.address)
        for chunk in source.chunks:
            loaded = column.load(self.stored.digest(source, self.address, chunk), len(chunk))
            if loaded is None:
                raise StoreError(f"the store has no features of {source.name}, samples {chunk.start} and on")
            yield chunk, loaded[0]

    def _chosen(
        self, source: Source, chosen: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """By chunk, the rows in it of the chosen (ascending) samples, and all its features."""
        import numpy as np

        for chunk, features in self._chunks(source):
            low, high = np.searchsorted(chosen, [chunk.start, chunk.stop])
            yield chosen[low:high] - chunk.start, features

    def _project(
        self, source: Source, components: Components, centres: NDArray[np.float64], chosen: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The chosen samples along the axes, f64 [len(chosen),K], and the mode of every sample, i64 [N]."""
        import numpy as np

        from evalkit.numerics.modes import nearest_centre

        points, ids = [], []
        for rows, features in self._chosen(source, chosen):
            projected = components.project(features)
            points.append(projected[rows])
            if len(centres):
                ids.append(nearest_centre(projected, centres))
        return np.concatenate(points), np.concatenate(ids) if ids else np.empty(0, np.int64)

    def _modes(
        self, chosen: NDArray[np.int64], near: NDArray[np.float64]
    ) -> tuple[list[str], NDArray[np.float64], bool]:
        """The modes' names and centres f64 [C,K], and whether they are classes; none of a small reference."""
        import numpy as np

        from evalkit.numerics.modes import k_means

        known = self.reference.categories
        categories = np.array([known[i] or "" for i in chosen.tolist()])
        names, counts = np.unique(categories, return_counts=True)
        if 2 <= len(names) <= CLASSES and counts.min() >= PER_CLASS and "" not in names:
            return names.tolist(), np.stack([near[categories == name].mean(axis=0) for name in names]), True
        k = min(CLUSTERS, len(near) // PER_CLUSTER)
        if k < 2:
            return [], near[:0], False
        return [f"cluster {i + 1}" for i in range(k)], k_means(near, k), False

    def _places(self, near: NDArray[np.float64]) -> Any:
        """What gives points f64 [N,K] their x and y."""
        import numpy as np

        def rounded(points: NDArray[Any]) -> tuple[list[float], list[float]]:
            flat = np.zeros((len(points), 2), np.float32)
            flat[:, : points.shape[1]] = points[:, :2]
            x, y = ([float(f"{value:.4g}") for value in column] for column in flat.T.tolist())
            return x, y

        if self.method == "pca":
            return rounded
        from umap import UMAP

        fitted = UMAP(n_neighbors=min(15, len(near) - 1), random_state=0, n_jobs=1).fit(near)
        return lambda points: rounded(fitted.embedding_ if points is near else fitted.transform(points))

    def _images(
        self, chosen: NDArray[np.int64], near: NDArray[np.float64], centres: NDArray[np.float64]
    ) -> list[list[Thumbnail]]:
        """Of each mode the images of the reference that lie nearest to its centre, as many as can be read."""
        thumbnailer = Thumbnailer(images=SHOWN * len(centres), budget=BYTES)
        images: list[list[Thumbnail]] = []
        for centre in centres:
            order = ((near - centre) ** 2).sum(axis=1).argsort(kind="stable")[:SHOWN]
            images.append([])
            for i in chosen[order].tolist():
                try:
                    if thumbnailer.used < BYTES:
                        images[-1].append(thumbnailer.make(self.reference.read(range(i, i + 1))[0]))
                except EvalkitError:
                    continue  # damaged since, or not kept
        return images


def _count(ids: NDArray[np.int64], modes: int) -> list[int]:
    import numpy as np

    return [int(count) for count in np.bincount(ids, minlength=modes)] if modes else []
