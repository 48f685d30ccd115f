"""A run's folder as the report reads it: results.json and the files next to it. What is missing is named, not fatal."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from evalkit.errors import DataError
from evalkit.results import by_category, feature_map, parity, previous, profile, ratings, thumbnails
from evalkit.results.csv_files import CLUSTER, SAMPLE_HEADS, cluster_id, number, read_columns, read_heads
from evalkit.results.side_by_side import SampleScores
from evalkit.results.table import ResultTable, read_results
from evalkit.utils.files import sha256_file, sha256_json
from evalkit.utils.text import letters

T = TypeVar("T")
RESULTS = "results.json"
_FILES = ("samples.csv", "categories.csv", by_category.PARTS, "nearest.csv", "reference.png")
_OTHERS = (*_FILES, thumbnails.NAME, feature_map.NAME, previous.NAME, parity.NAME, profile.NAME, ratings.NAME)
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


@dataclass(frozen=True)
class Run:
    """All that the page shows.

    Attributes:
        path: the results.json.
        table: what it holds.
        folder: whose other files belong to it; none where the file has another name than results.json.
    """

    path: Path
    table: ResultTable
    folder: Path | None

    @classmethod
    def open(cls, path: Path) -> Run:
        """A results folder, or a results.json.

        Raises:
            DataError: there is none, or it cannot be read.
        """
        if path.is_dir():
            path = path / RESULTS
            if not path.is_file():
                raise DataError(f"{path.parent}: no {RESULTS} in this folder: give a run's folder or its {RESULTS}")
        return cls(path, ResultTable.load(path), path.parent if path.name == RESULTS else None)

    def file(self, name: str) -> Path | None:
        """A file of the run next to its results.json, or none."""
        path = self.folder / name if self.folder else None
        return path if path is not None and path.is_file() else None

    @cached_property
    def keys(self) -> dict[str, str]:
        """By cell the letters that stand for it in plots and captions: A to Z, AA, AB, ..."""
        return {cell: letters(number) for number, cell in enumerate(self.table.cells)}

    @cached_property
    def digest(self) -> str:
        """Of everything that the page shows."""
        data = read_results(self.path)
        data["run"].pop("seconds", None)  # a run that finds all done takes other times, and changes nothing
        if isinstance(data.get("gate"), dict):
            data["gate"].pop("at", None)  # judged again, with the same verdict
        paths = [self.file(name) for name in _OTHERS] + [path for _, _, path in nearest_sheets(self)]
        files = [[path.name, sha256_file(path)] for path in paths if path is not None]
        return sha256_json([data, files])

    @cached_property
    def samples(self) -> SampleScores | str:
        """samples.csv, or why there is none."""
        return self._read("samples.csv", lambda path: _read_samples(path, self.keys))

    @cached_property
    def categories(self) -> list[dict[str, str]] | str:
        """The lines of categories.csv, or why there are none."""
        return self._read("categories.csv", _read_categories)

    @cached_property
    def headings(self) -> Mapping[tuple[str, str], Mapping[str, Mapping[int, float]]]:
        """By metric and heading of a benchmark, by cell and index, what adds up to its mean; empty where unknown."""
        found = self._read(by_category.PARTS, by_category.read_parts)
        return {} if isinstance(found, str) else found

    @cached_property
    def nearest(self) -> list[dict[str, str]] | str:
        """The lines of nearest.csv, or why there are none."""
        heads = ("cell", "metric", "sample", "training", "distance")
        return self._read("nearest.csv", lambda path: _read_lines(path, heads))

    @cached_property
    def thumbnails(self) -> dict[tuple[str, int], thumbnails.Thumbnail | None] | str:
        """By cell and index the pictures of thumbnails.json, none of a damaged image; or why there are none."""
        return self._read(thumbnails.NAME, thumbnails.read_thumbnails, " The run's command, given again, writes it.")

    @cached_property
    def feature_map(self) -> feature_map.FeatureMap | str | None:
        """What map.json holds; none where there is none; why, where it cannot be read."""
        return self._read(feature_map.NAME, feature_map.read_map) if self.file(feature_map.NAME) else None

    @cached_property
    def parity(self) -> parity.Parity | str:
        """What parity.json holds, or why there is nothing."""
        return self._read(parity.NAME, parity.read_parity, " The run's command, given again, writes it.")

    @cached_property
    def ratings(self) -> Sequence[Mapping[str, Any]] | str | None:
        """What ratings.json holds; none where there is none; why, where it cannot be read."""
        return self._read(ratings.NAME, ratings.read_ratings) if self.file(ratings.NAME) else None

    @cached_property
    def previous(self) -> previous.Previous:
        """Each score against an earlier run's; empty where none was asked for, or it cannot be read."""
        found = self._read(previous.NAME, previous.read_previous) if self.file(previous.NAME) else ""
        return previous.Previous() if isinstance(found, str) else found

    def _read(self, name: str, read: Callable[[Path], T], remedy: str = "") -> T | str:
        """What `read` makes of a file of the run, or why there is none."""
        path = self.file(name)
        if path is None and self.folder is None:
            return f"The page was made from {self.path.name} alone, so {name} was not looked for.{remedy}"
        if path is None:
            return f"{name} is not next to {RESULTS}.{remedy}"
        try:
            return read(path)
        except DataError as error:
            return f"{name} cannot be read ({clean(str(error).removeprefix(f'{path}: '))})."
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            return f"{name} cannot be read ({clean(str(error))})."

    def prompts(self, chosen: set[int]) -> dict[tuple[str, int], str]:
        """By cell and index, for the chosen indices, the samples' prompts."""
        path = self.file("samples.csv")
        if path is None:
            return {}
        return {
            (cell, int(index)): prompt
            for _, (cell, index, prompt) in read_columns(path, ("cell", "index", "prompt"))
            if int(index) in chosen
        }


def nearest_sheets(run: Run) -> list[tuple[str, str, Path]]:
    """The sheets of nearest training images that are there: cell, metric, file."""
    if not isinstance(run.nearest, list):
        return []
    pairs = dict.fromkeys((line["cell"], line["metric"]) for line in run.nearest)
    sheets = [(cell, metric, run.file(f"nearest/{cell}-{metric}.png")) for cell, metric in pairs]
    return [(cell, metric, path) for cell, metric, path in sheets if path is not None]


def _read_lines(path: Path, heads: Sequence[str]) -> list[dict[str, str]]:
    return [dict(zip(heads, line, strict=True)) for _, line in read_columns(path, heads)]


def _read_categories(path: Path) -> list[dict[str, str]]:
    heads = read_heads(path)  # a file of an earlier version has fewer
    more = [head for head in ("rest", "difference", "p_holm") if head in heads]
    lines = _read_lines(path, ("cell", "metric", "category", "mean", "stderr", "n", *more))
    for line in lines:
        for head in more:
            number(line[head], head)
        number(line["stderr"], "stderr")
        number(line["mean"] or "nothing", "mean")
        int(line["n"])
    return lines


def _read_samples(path: Path, cells: Mapping[str, str]) -> SampleScores:
    heads = read_heads(path)
    metrics = [head for head in heads if head not in (*SAMPLE_HEADS, CLUSTER) and not head.endswith(".influence")]
    known_clusters = [CLUSTER] if CLUSTER in heads else []  # a file of an earlier version has none
    counts: dict[str, int] = {}
    scores: dict[str, dict[str, array[float]]] = {metric: {} for metric in metrics}
    categories: dict[str, list[str]] = {}
    clusters: dict[str, array[int]] = {}
    known: dict[str, str] = {}  # each category's text once: there may be a million samples
    for line, (cell, index, _, _, category, *values) in read_columns(path, (*SAMPLE_HEADS, *known_clusters, *metrics)):
        if cell not in cells:
            continue
        if int(index) != counts.get(cell, 0):
            raise ValueError(f"the samples of {cell} are not in order")
        counts[cell] = int(index) + 1
        categories.setdefault(cell, []).append(known.setdefault(category, category))
        if known_clusters:
            cluster = cluster_id(values.pop(0), int(index), f"line {line}: {CLUSTER}")
            clusters.setdefault(cell, array("q")).append(cluster)
        for metric, value in zip(metrics, values, strict=True):
            scores[metric].setdefault(cell, array("d")).append(number(value, f"line {line}: {metric}"))
    return SampleScores.of(counts, scores, categories, clusters)


def clean(text: str) -> str:
    """Without what HTML and XML cannot hold (control characters, lone surrogates): U+FFFD stands in their place."""
    return _CONTROL.sub("�", text)


def short(text: str, length: int = 60) -> str:
    """A name on one line, cut in its middle where it is longer than `length`."""
    text = " ".join(clean(text).split())
    if len(text) <= length:
        return text
    head = length * 2 // 3
    return f"{text[:head]}…{text[head + 1 - length :]}"
