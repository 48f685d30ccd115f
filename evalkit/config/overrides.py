"""What a command line means before Hydra reads it: which options its words choose, and whether the demo is meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from evalkit.config.checkpoints import KEYS as SERIES_KEYS
from evalkit.config.schema import GROUPS, SINGLE, WHOLE

# What a run that names no metric computes of these, as far as its images, its reference and the weights allow.
METRICS = ("fid", "kid", "precision", "recall", "is", "vendi", "clip_score")
_WORD = re.compile(r"[A-Za-z0-9_][\w-]*")


@dataclass(frozen=True)
class Override:
    """One override, `+GROUP.OPTION.KEY=VALUE` or `GROUP=[OPTION, ...]`, in its parts."""

    prefix: str  # "", "+", "++" or "~"
    group: str
    option: str | None  # of a dotted key its second part
    rest: str  # "" or ".KEY"
    value: str | None  # none without "="

    @classmethod
    def parse(cls, text: str) -> Override:
        head, eq, value = text.partition("=")
        prefix = re.match(r"[+~]*", head)[0]  # type: ignore[index]
        group, _, option = head.removeprefix(prefix).partition(".")
        option, dot, rest = option.partition(".")
        return cls(prefix, group.strip(), option or None, dot + rest, value if eq else None)

    def __str__(self) -> str:
        option = f".{self.option}" if self.option else ""
        return f"{self.prefix}{self.group}{option}{self.rest}" + ("" if self.value is None else f"={self.value}")


def leaves_demo(overrides: Sequence[str]) -> bool:
    """Whether a command line names models of its own, or a benchmark, and no experiment: then the demo is left out."""
    parsed = [Override.parse(text) for text in overrides]
    if any(o.group == "experiment" for o in parsed):
        return False
    return any(o.group == "model" and o.prefix != "~" for o in parsed) or chooses(overrides, "benchmark")


def leaves_metrics_open(overrides: Sequence[str], folders: bool) -> bool:
    """Whether a command line is of models or folders of its own, and says nothing of metrics."""
    groups = {Override.parse(text).group for text in overrides}
    return (folders or leaves_demo(overrides)) and not groups & {*WHOLE, "metric"}


def chooses(overrides: Sequence[str], group: str) -> bool:
    """Whether a command line says which of a group's options are in force."""
    return any(o.group == group and o.option is None for o in map(Override.parse, overrides))


def choose_folder(overrides: Sequence[str]) -> list[str]:
    """The overrides with `folder` among the chosen models."""
    parsed = [Override.parse(text) for text in overrides]
    chosen = [o for o in parsed if o.group == "model" and o.option is None and o.prefix != "~"]
    names = [name for o in chosen[-1:] for name in (o.value or "").strip("[] ").split(",") if name]
    return [*(str(o) for o in parsed if o not in chosen), f"model=[{','.join([*names, 'folder'])}]"]


def complete(
    overrides: Sequence[str],
    options: Callable[[str], Sequence[str]],
    extractors: Callable[[], Sequence[str]] = lambda: (),
) -> list[str]:
    """The overrides as Hydra is given them.

    Options' names get their own case. Where models are named without an experiment, the demo's is left out, and
    `model.sd15.dtype=float16` chooses sd15 where no `model=` says otherwise; so in every group but `extractor`.

    Args:
        overrides: as they were typed.
        options: the names of a group's options.
        extractors: those that every run knows without choosing them.
    """
    parsed = [_own_case(Override.parse(text), options) for text in overrides]
    result = [str(_as_series(override)) for override in parsed]
    if leaves_demo(overrides):
        result.insert(0, "~experiment")
        result += _implied(parsed, options)
    given = {o.option for o in parsed if o.group == "extractor" and o.option}
    if given and not chooses(overrides, "extractor"):
        added = sorted(given & set(options("extractor")) - set(extractors()))
        result += [f"+extractor=[{','.join(added)}]"] if added else []
    return result


def _as_series(override: Override) -> Override:
    """`model.NAME.checkpoints=PATTERN` (and its `step`, `leave_out`) is taken though no YAML has such a key."""
    added = override.group == "model" and override.rest.removeprefix(".") in SERIES_KEYS and not override.prefix
    return replace(override, prefix="++") if added else override


def _implied(parsed: Sequence[Override], options: Callable[[str], Sequence[str]]) -> list[str]:
    """The choices that settings of options make where no override makes them."""
    chosen = []
    set_already = ("prompts", "metric") if any(o.group == "benchmark" for o in parsed) else ()
    for group in GROUPS:
        if group in ("extractor", "training", *set_already) or any(
            o.group == group and o.option is None for o in parsed
        ):
            continue
        named = dict.fromkeys(o.option for o in parsed if o.group == group and o.option and not o.prefix)
        names = [name for name in named if name in options(group)]
        if names:
            chosen.append(f"{group}={names[0] if group in SINGLE else '[' + ','.join(names) + ']'}")
    return chosen


def _own_case(override: Override, options: Callable[[str], Sequence[str]]) -> Override:
    """An override whose options have the names of their files, whatever case they were typed in."""
    group = override.group.partition("@")[0]
    if group not in (*GROUPS, *WHOLE):
        return override

    def own(name: str) -> str:
        known = options(group)
        same = [other for other in known if other.lower() == name.lower()]
        return same[0] if name not in known and len(same) == 1 else name

    if override.option:
        return Override(override.prefix, override.group, own(override.option), override.rest, override.value)
    value = override.value
    if value and not re.search(r"[{}'\"$]", value):
        value = _WORD.sub(lambda match: own(match[0]), value)
    return Override(override.prefix, override.group, None, override.rest, value)
