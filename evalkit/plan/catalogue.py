"""`evalkit ls`: metrics, models, samplers, extractors, benchmarks; what each is and needs, and what of it is here."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from evalkit.config.build import GRID_KEYS, build, factory_of, split_call_settings
from evalkit.config.listing import headline, option_files
from evalkit.errors import EXIT_DONE, ConfigError, EvalkitError, nearest
from evalkit.extractors.base import Extractor
from evalkit.metric import Metric, PairMetric, ReferenceMetric
from evalkit.models.base import Model

_NARROW = 20  # characters of the columns in the middle, on a terminal
_GIVEN = "yours to give"  # of an option that wants a file or a name from the user
_ARROW = {"lower": "↓", "higher": "↑"}
Line = tuple[str, ...]


def print_catalogue(what: str, config_dir: str | None = None) -> int:
    """Prints the options of a group, one line each; returns the exit code.

    Args:
        what: metrics, models, samplers, extractors or benchmarks.
        config_dir: a folder with further options.

    Raises:
        ConfigError: `what` is none of these.
    """
    views: Mapping[str, tuple[Line, Callable[[Catalogue, str, Path], Line]]] = {
        "metrics": (("metric", "", "weights", "needs"), Catalogue.metric),
        "models": (("model", "weights", "asked by"), Catalogue.model),
        "samplers": (("sampler", "scheduler"), Catalogue.sampler),
        "extractors": (("extractor", "weights", "layers"), Catalogue.extractor),
        "benchmarks": (("benchmark", "its file", "metrics"), Catalogue.benchmark),
    }
    name = what.lower() if what.lower().endswith("s") else f"{what.lower()}s"
    if name not in views:
        raise ConfigError(f"ls {what}: there is no such list. {nearest(what, views)}")
    heads, line_of = views[name]
    catalogue = Catalogue(config_dir)
    files = option_files(name.removesuffix("s"), config_dir)
    lines = [(option, *line_of(catalogue, option, file), headline(file)) for option, file in files.items()]
    widest = [max(map(len, column)) for column in zip(heads, *(line[:-1] for line in lines), strict=True)]
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if columns is not None:  # on a terminal the last column, in words, gets what room there is
        widest[1:] = [min(width, _NARROW) for width in widest[1:]]
    for line in [(*heads, "what it is"), *lines]:
        parts = [_cut(part, width).ljust(width) for part, width in zip(line, widest, strict=False)]
        print(_cut("  ".join([*parts, line[-1]]), columns))
    for extractors, place in catalogue.missing():
        print(f"{extractors}: put {place}")
    return EXIT_DONE


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else f"{text[: width - 1]}…"


class Catalogue:
    """Reads options and looks for their weights, each extractor's once."""

    def __init__(self, config_dir: str | None = None) -> None:
        self._extractors = option_files("extractor", config_dir)
        self._here: dict[str, bool] = {}
        self._places: dict[str, list[str]] = {}  # by file that is not here and its place, the extractors that want it

    def missing(self) -> list[tuple[str, str]]:
        """Extractors whose weights are not here, and which file they want where."""
        return [(", ".join(extractors), place) for place, extractors in self._places.items()]

    def metric(self, name: str, file: Path) -> Line:
        """Direction, whether its weights are here, what it needs besides the samples."""
        option = _option(name, file)
        given, lacks = "???" not in option.values(), _GIVEN
        try:
            metric: Any = build(option, name, Metric) if given else factory_of(option, name, Metric)
        except ConfigError:  # a package that it needs is not installed
            metric, given, lacks = factory_of(option, name, Metric), False, "not installed"
        needs = ["prompts"] if metric.needs_prompts else []
        kind = type(metric) if given else metric
        if issubclass(kind, PairMetric):
            needs.append({"prompt": "samples per prompt"}.get(metric.pairs, f"{metric.pairs} images"))
        if issubclass(kind, ReferenceMetric):
            needs += list(getattr(metric, "sides", ("reference",)))
        extractors = list(dict.fromkeys(address.partition("/")[0] for address in metric.needs))
        if not given:
            return _ARROW[metric.better], lacks, ", ".join(needs)
        lacking = [extractor for extractor in extractors if not self.is_here(extractor)]
        weights = f"no {', '.join(lacking)}" if lacking else "here" if extractors else "needs none"
        return _ARROW[metric.better], weights, ", ".join(needs) or "–"

    def model(self, name: str, file: Path) -> Line:
        """Whether its weights are here, and what it is asked by."""
        option, _ = split_call_settings({k: v for k, v in _option(name, file).items() if k not in GRID_KEYS})
        if "???" in option.values():
            return _GIVEN, "–"
        try:
            model: Model = build(option, f"model.{name}", Model)
            model.check(fetch=False)
        except (EvalkitError, OSError):
            return "not here", "–"
        asked = {"text": "prompts", "class": "classes", "none": "nothing"}[model.conditioning]
        return "a service" if model.remote else "here", asked

    def sampler(self, name: str, file: Path) -> Line:
        """Diffusers' class."""
        return (str(_option(name, file).get("scheduler") or "the model's own"),)

    def extractor(self, name: str, file: Path) -> Line:
        """Whether its weights are here, and its layers."""
        option = _option(name, file)
        asker = option.get("asker")
        if "???" in (*option.values(), *(asker.values() if isinstance(asker, Mapping) else ())):
            return _GIVEN, "–"
        extractor: Extractor = build(option, f"extractor.{name}", Extractor)
        return "here" if self.is_here(name) else "not here", ", ".join(extractor.layers)

    def benchmark(self, name: str, file: Path) -> Line:
        """Whether its file ships or is to be given, and its metrics."""
        content: Any = OmegaConf.to_container(OmegaConf.load(file))
        chosen = [name for entry in content["defaults"] for name in entry.get("override /metric", ())]
        given = [option.get("path") for option in (content["benchmark"], *(content.get("prompts") or {}).values())]
        return _GIVEN if "???" in given else "ships", ", ".join(
            dict.fromkeys([*chosen, *(content.get("metric") or ())])
        )

    def is_here(self, name: str) -> bool:
        """Whether an extractor's weights are on this machine; nothing is fetched. What is missing is noted."""
        if name not in self._here:
            self._here[name] = name in self._extractors and self._look(name)
        return self._here[name]

    def _look(self, name: str) -> bool:
        extractor: Extractor = build(_option(name, self._extractors[name]), f"extractor.{name}", Extractor)
        try:
            extractor.check(fetch=False)
        except (EvalkitError, OSError):
            self._places.setdefault(extractor.place, []).append(name)
            return False
        return True


def _option(name: str, file: Path) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(file))
    option = content.get(name) if isinstance(content, dict) else None
    if not isinstance(option, dict):
        raise ConfigError(f"{file}: no option '{name}' in it: an option's YAML is keyed by the file's name")
    return {str(key): value for key, value in option.items()}
