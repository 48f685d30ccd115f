"""A cell of the grid: one combination of model, sampler, settings, prompts and seed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.errors import ConfigError, nearest

Option = Mapping[str, Any]
KEY_SHOWN = 8  # characters of a cell's key in folders' names and for people


@dataclass(frozen=True)
class Cell:
    """One combination of the grid.

    Attributes:
        model, sampler, prompts: the chosen options' names (none where the axis does not apply).
        settings: what a reader wants to know of it: steps, call settings, swept values (JSON values).
        seed: the samples' seed; sample i depends on (cell, seed, i) alone.
        num_samples: samples asked for; not part of `key`, so that more samples extend a cell.
        key: sha256 of `identity`.
        name: for people; safe as a file name; unique within a run.
        options: "model", "sampler", "prompts" -> the plain option to build it from (or none).
        call_settings: what goes to `Model.generate(settings=...)`.
        identity: everything that can change a pixel.
    """

    model: str
    sampler: str | None
    prompts: str | None
    settings: Mapping[str, Any]
    seed: int
    num_samples: int
    key: str
    name: str
    options: Mapping[str, Option | None]
    call_settings: Mapping[str, Any]
    identity: Mapping[str, Any]

    @property
    def remake(self) -> Mapping[str, Any]:
        """Of a baseline that is made again (`noise_floor`): what is changed; empty of all other cells."""
        changed: Mapping[str, Any] = self.identity.get("remake", {})
        return changed

    def spec(self) -> dict[str, Any]:
        """The cell as a JSON value."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def setting_name(key: str) -> str:
    """A setting's one name, in YAML, cell names, tables and reports: of a swept dotted key the last part."""
    return key.rpartition(".")[2]


def about(cell: Cell) -> dict[str, Any]:
    """What rules may ask of a cell, by key."""
    return {"model": cell.model, "sampler": cell.sampler, "prompts": cell.prompts, "seed": cell.seed, **cell.settings}


def why_none(cells: Sequence[Cell], rule: Mapping[str, Any]) -> str:
    """For messages: why a rule that selects no cell does not (a key or a value that no cell has)."""
    known: dict[str, dict[str, None]] = {}  # by setting its values in this run
    for cell in cells:
        for key, value in about(cell).items():
            known.setdefault(key, {})[str(value)] = None
    for key, asked in rule.items():
        if key not in known:
            return f"no cell has a setting '{key}'. {nearest(str(key), known)}"
        if known[key].keys().isdisjoint(map(str, asked if isinstance(asked, list) else [asked])):
            return f"{key} is {asked}, but in this run there are {', '.join(known[key])}"
    return f"{dict(rule)} hold together for none of the {len(cells)}"


def check_exclude(cells: Sequence[Cell], rules: Sequence[Any], settings: Collection[str]) -> None:
    """Refuses a rule of `exclude` with a key that no cell has, where its other keys would select some.

    Args:
        cells: all of the grid's.
        rules: what `exclude` holds.
        settings: what the grid's models take besides what its cells say: a rule may be about them.

    Raises:
        ConfigError: such a key (the nearest is offered), or a rule that is no mapping.
    """
    known = {key for cell in cells for key in about(cell)} | set(settings)
    for number, rule in enumerate(rules):
        where = f"exclude[{number}]"
        for cell in cells[:1]:
            matches(cell, rule, where)
        unknown = [key for key in rule if key not in known]
        rest = {key: value for key, value in rule.items() if key in known}
        if unknown and (not rest or any(matches(cell, rest, where) for cell in cells)):
            raise ConfigError(f"{where}: no cell has a setting '{unknown[0]}'. {nearest(str(unknown[0]), known)}")


def matches(cell: Cell, rule: Any, where: str) -> bool:
    """Whether all parts of a rule such as `{sampler: ddim, guidance_scale: [1, 8]}` hold for a cell.

    Raises:
        ConfigError: the rule is not a mapping.
    """
    known = about(cell)
    if not isinstance(rule, Mapping) or not rule:
        raise ConfigError(f"{where}: {rule!r} is not a mapping such as {{sampler: ddim, guidance_scale: [1, 8]}}")
    return all(
        key in known and known[key] in (value if isinstance(value, list) else [value]) for key, value in rule.items()
    )


def find_baseline(cells: Sequence[Cell], choice: Any) -> str | None:
    """The name of the cell that a run's `baseline` (a name, or a rule as of `matches`) picks; none for none.

    Raises:
        ConfigError: no cell, or several, are meant.
    """
    if choice is None:
        return None
    if isinstance(choice, str):
        names = [cell.name for cell in cells]
        if choice not in names:
            raise ConfigError(f"baseline={choice}: no such cell. {nearest(choice, names)}")
        return choice
    names = [cell.name for cell in cells if matches(cell, choice, "baseline")]
    if not names:
        raise ConfigError(f"baseline={choice} picks 0 cells: {why_none(cells, choice)}")
    if len(names) != 1:
        raise ConfigError(f"baseline={choice} picks {len(names)} cells ({', '.join(names[:4])}): it must pick one")
    return names[0]
