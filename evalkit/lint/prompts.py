"""Which prompts a set shows, against those that it was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.cell import Cell
from evalkit.data.png_parameters import plain_prompt
from evalkit.lint.finding import Finding, locations
from evalkit.samples.store import SampleSet, image_size

if TYPE_CHECKING:
    from evalkit.data.source import Source
    from evalkit.prompts.sets import PromptSet

_RELATED = 0.5  # of a set's prompts: sets that share so many show the same prompts
_EFFECT = "CLIP score, category means and paired comparisons weigh the prompts by what is there"


@dataclass(frozen=True)
class Asked:
    """What a cell was asked for, as far as it is known.

    Attributes:
        count: prompts of its set.
        texts: these prompts, where the images were made elsewhere.
        size: height and width.
    """

    count: int | None = None
    texts: Sequence[str] = ()
    size: tuple[int, int] | None = None


def asked_of(
    prompts: Mapping[str, PromptSet], cells: Sequence[Cell], sources: Mapping[str, Source]
) -> dict[str, Asked]:
    """By cell what the run asks for: of images made elsewhere that tell their prompts, the run's only prompt set."""
    elsewhere = [c.name for c in cells if not isinstance(sources[c.name], SampleSet) and any(sources[c.name].prompts)]
    texts: tuple[str, ...] = ()
    if elsewhere and len(prompts) == 1:
        texts = tuple(prompt.text for prompt in next(iter(prompts.values())) if prompt.text is not None)
    asked = {}
    for cell in cells:
        count = (cell.identity.get("prompts") or {}).get("prompts")
        asked[cell.name] = Asked(count, texts if cell.name in elsewhere else (), image_size(cell))
    return asked


def check_prompts(name: str, source: Source, asked: Asked, others: Sequence[frozenset[str]] = ()) -> list[Finding]:
    """Prompts that are missing, strange or uneven.

    Args:
        name: the cell's name.
        source: its images.
        asked: what it was asked for.
        others: the prompts of other cells; those of cells that show much the same are expected here, too.
    """
    prompts = source.prompts
    shown = Counter(prompt for prompt in prompts if prompt is not None)
    findings: list[Finding] = []

    def add(severity: str, count: int, indices: Sequence[int], message: str) -> None:
        files = locations(source, indices)
        findings.append(Finding("prompts", severity, name, count, files, message, _EFFECT, len(source)))

    if asked.count is not None and len(source) < asked.count:
        add("note", asked.count - len(source), [], f"{len(source)} images for {asked.count} prompts: the set's first")
    if not shown:
        return findings
    bare = [i for i, prompt in enumerate(prompts) if prompt is None]
    if bare:
        add("warning", len(bare), bare, f"{len(bare)} of {len(source)} images have no prompt, the others have")
    if isinstance(source, SampleSet):  # made from the set, in its order: nothing else can be wrong
        return findings
    expected = frozenset(asked.texts) or _related(shown, others)
    # Images of AUTOMATIC1111 and ComfyUI tell their prompts without the weights and LoRAs that the set may have.
    plain = {text: plain_prompt(text) for text in expected}
    missing = sorted(text for text in expected if not {text, plain[text]} & shown.keys())
    right = expected.union(plain.values())
    strange = [i for i, prompt in enumerate(prompts) if asked.texts and prompt is not None and prompt not in right]
    if missing:
        what = "of the set" if asked.texts else "that other cells show"
        quoted = ", ".join(f"'{_cut(text)}'" for text in missing[:2])
        add(
            "warning",
            len(missing),
            [],
            f"{len(missing)} of {len(expected)} prompts {what} have no image ({quoted})",
        )
    if strange:
        add("warning", len(strange), strange, f"{len(strange)} images show prompts that are not in the prompt set")
    _check_repeats(prompts, shown, add)
    return findings


def _related(shown: Counter[str], others: Sequence[frozenset[str]]) -> frozenset[str]:
    """The prompts of other cells that share most of theirs with these."""
    near = [t for t in others if len(t & shown.keys()) >= _RELATED * max(len(t), len(shown))]
    return frozenset().union(*near)


def _check_repeats(prompts: Sequence[str | None], shown: Counter[str], add: Callable[..., None]) -> None:
    """Prompts that have more or fewer images than most."""
    usual = Counter(shown.values()).most_common(1)[0][0]
    odd = {text for text, count in shown.items() if count != usual}
    if odd:
        indices = [i for i, prompt in enumerate(prompts) if prompt in odd]
        severity = "note" if len(odd) <= 0.05 * len(shown) else "warning"
        low, high = min(shown.values()), max(shown.values())
        text = f"{low} to {high} images per prompt: {len(odd)} of {len(shown)} prompts have not {usual}"
        add(severity, len(odd), indices, text)


def _cut(text: str, most: int = 40) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"
