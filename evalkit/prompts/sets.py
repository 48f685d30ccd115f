"""Prompt sets: what is asked of a model, sample by sample. Reading one imports neither torch nor pandas.

Rules that all sets share:

* Sample `i` is made from prompt `i % N`: the first N samples ask for every prompt once, the next N for each once more.
* Order is the file's order. Repeated prompts are kept: each asks for a sample of its own (with its own seed).
* Text is UTF-8 (a byte-order mark is dropped) and stripped of white space at its ends. Other bytes are an error that
  names the line. Lines end at LF, CR LF or CR, and at no other character. In a text file blank lines are skipped; in a
  table a blank prompt is an error that names the row.
* A set without prompts is an error.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError, nearest, whole_number
from evalkit.prompts.files import Paths, prompt_files, table_entries, text_prompts
from evalkit.prompts.prompt import IMAGES, MAX_SEED, SETTINGS, columns_of, from_row, inline, row_of
from evalkit.prompts.prompt import Prompt as Prompt
from evalkit.prompts.shapes import Captions
from evalkit.utils.files import sha256_file, sha256_json


@dataclass(frozen=True)
class PromptSet:
    """An ordered set of prompts. `len` is the number of samples it asks for: N prompts x samples_per_prompt.

    Attributes:
        prompts: the N prompts, N >= 1.
        samples_per_prompt: samples asked of each prompt when the run names no `num_samples`, >= 1.
        limit: only the first `limit` prompts are kept; none: all.
        exhaustive: whether these prompts are all that there are, such as the classes of a data set, rather than a
            sample of what could be asked. Standard errors then take the samples of one prompt to be independent, for
            no other prompt could have been drawn; else they go by prompt. It changes no pixel.
    """

    prompts: tuple[Prompt, ...]
    samples_per_prompt: int = 1
    limit: int | None = None
    exhaustive: bool = False

    def __post_init__(self) -> None:
        for name, value in (("samples_per_prompt", self.samples_per_prompt), ("limit", self.limit)):
            if value is not None:
                whole_number(value, f"prompts: {name}")
        if self.exhaustive and self.limit is not None and self.limit <= len(self.prompts):
            object.__setattr__(self, "exhaustive", False)  # a part of all that there are is a sample again
        if self.limit is not None:
            object.__setattr__(self, "prompts", self.prompts[: self.limit])
        if not self.prompts:
            raise ConfigError("prompts: the set is empty: give at least one prompt")
        for i, prompt in enumerate(self.prompts):
            _check_characters(prompt, i)

    def __len__(self) -> int:
        return len(self.prompts) * self.samples_per_prompt

    def __iter__(self) -> Iterator[Prompt]:
        """The N prompts, each once."""
        return iter(self.prompts)

    def __getitem__(self, sample: int) -> Prompt:
        """The prompt of any sample >= 0; after the last prompt comes the first again."""
        if sample < 0:
            raise IndexError(f"sample index {sample} is negative")
        return self.prompts[sample % len(self.prompts)]

    def seed_of(self, sample: int) -> int | None:
        """The seed that a sample's prompt names, one more with each round through the prompts; none: it names none."""
        seed = self[sample].seed
        return None if seed is None else (seed + sample // len(self.prompts)) % (MAX_SEED + 1)

    @functools.cached_property
    def own_columns(self) -> frozenset[str]:
        """Which of `seed` and the settings some prompts name for their own samples."""
        names = ("seed", *SETTINGS)
        return frozenset(name for name in names if any(getattr(p, name) is not None for p in self.prompts))

    def asked(self, texts: Sequence[str | None]) -> list[str | None]:
        """What each sample was asked to show, as one text; none where samples that were asked for alike may differ.

        A constant instruction with another image each time is another prompt each time. Samples without a text and an
        image (a class alone), and those of an exhaustive set, have none: what they show was not drawn.

        Args:
            texts: by sample the text that the model was given, or none.
        """
        if self.exhaustive:
            return [None] * len(texts)
        keys: list[str | None] = []
        for i, text in enumerate(texts):
            p = self[i]
            images = [getattr(p, name) for name in IMAGES]
            more = [p.negative, p.class_id, *images] if any([p.negative, *images]) else []
            keys.append("\x00".join(map(str, [text, *more])) if more and (text or any(images)) else text)
        return keys

    def identity(self) -> dict[str, Any]:
        """All that can change a pixel: all but categories and targets (JSON)."""
        rows = [
            [p.text, p.negative, p.class_id, _digest(p.control)]
            + ([_digest(p.source), _digest(p.mask)] if p.source or p.mask else [])
            + ([own] if (own := p.settings | ({} if p.seed is None else {"seed": p.seed})) else [])
            for p in self.prompts
        ]
        return {"prompts": len(rows), "sha256": sha256_json(rows)}


def _check_characters(prompt: Prompt, number: int) -> None:
    """Raises DataError for half of a surrogate pair, which YAML and JSON can write and no file takes."""
    for text in (prompt.text, prompt.negative, prompt.category):
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            raise DataError(f"prompt {number}: half of a surrogate pair, which is no character: {text!a}") from None


def _digest(image: str | None) -> str | None:
    return sha256_file(Path(image)) if image else None


class InlinePrompts(PromptSet):
    """Prompts written in the configuration: texts, or mappings with `Prompt`'s keys.

    An empty text is allowed here, where somebody wrote it on purpose (it asks for an unconditional sample).
    """

    def __init__(
        self,
        prompts: Sequence[str | Mapping[str, Any]],
        samples_per_prompt: int = 1,
        limit: int | None = None,
        exhaustive: bool = False,
    ) -> None:
        if isinstance(prompts, str | Mapping):
            prompts = [prompts]
        made = tuple(inline(item, f"prompts[{i}]") for i, item in enumerate(prompts or ()))
        super().__init__(made, samples_per_prompt, limit, exhaustive)


class ClassPrompts(PromptSet):
    """Classes 0 .. num_classes-1 without text; with `names`, prompts are those names (for a metric that reads text).

    Every class in turn: of a multiple of `num_classes` samples each has as many. With `random` so many classes are
    drawn by lot, with `seed`, whatever the run's is.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        names: Sequence[str] | None = None,
        samples_per_prompt: int = 1,
        limit: int | None = None,
        exhaustive: bool = True,
        random: int | None = None,
        seed: int = 0,
    ) -> None:
        count = num_classes if num_classes is not None else len(names or ())
        if names is not None and len(names) != count:
            raise ConfigError(f"prompts: {len(names)} names for num_classes={count}")
        labels = list(names) if names is not None else [None] * count
        made = tuple(Prompt(text=label, category=label, class_id=i) for i, label in enumerate(labels))
        if random is not None:
            import numpy as np

            whole_number(random, "prompts: random")
            made = tuple(made[i] for i in np.random.default_rng(seed).integers(0, count, random))
        super().__init__(made, samples_per_prompt, limit, exhaustive)


class TextPrompts(PromptSet):
    """Text files, one prompt per line; blank lines are skipped. Of a folder each .txt file is one prompt.

    Args:
        path: a file, a pattern of several (`prompts/*.txt`), or a list of these; or a folder of .txt files, which are
            read by name.
        samples_per_prompt, limit, exhaustive: as of `PromptSet`.
    """

    def __init__(
        self, path: Paths, samples_per_prompt: int = 1, limit: int | None = None, exhaustive: bool = False
    ) -> None:
        made = [Prompt(text=text) for file in prompt_files(path, folders=True) for text in text_prompts(file)]
        super().__init__(tuple(made), samples_per_prompt, limit, exhaustive)


class TablePrompts(PromptSet):
    """A CSV, TSV, JSONL or JSON file, or several; the arguments name its columns.

    Args:
        path: the file; `pkg://package/inner/path` is a file inside an installed package. A pattern of several
            (`prompts/*.jsonl`), or a list.
        text, negative, category, class_id, control, source, mask, target, seed, width, height, guidance_scale,
            num_inference_steps: names of columns, of what `Prompt` says. A column that is named must
            be there. A blank cell means none, except in the text's column, where it is an error. Images' paths are
            relative to the file's folder. In COCO's and Karpathy's layouts the captions are the text, whatever its
            name.
        delimiter: "auto" goes by the suffix (.csv, .tsv, .jsonl, .json), then by the first line; or "," ";" "\\t"
            "jsonl" "json".
        caption_seed: in COCO's and Karpathy's layouts an image has several captions, of which one is its prompt: none:
            that of the lowest id; a number: one by lot.
        split: of Karpathy's layout: train, restval, val or test; none: all.
        samples_per_prompt, limit: as of `PromptSet`.

    Attributes:
        caption_ids: of the captions that were chosen, in the order of the prompts.
    """

    def __init__(
        self,
        path: Paths,
        text: str | None = "prompt",
        negative: str | None = None,
        category: str | None = None,
        class_id: str | None = None,
        control: str | None = None,
        source: str | None = None,
        mask: str | None = None,
        target: str | None = None,
        seed: str | None = None,
        width: str | None = None,
        height: str | None = None,
        guidance_scale: str | None = None,
        num_inference_steps: str | None = None,
        delimiter: str = "auto",
        caption_seed: int | None = None,
        split: str | None = None,
        samples_per_prompt: int = 1,
        limit: int | None = None,
        exhaustive: bool = False,
    ) -> None:
        for name, value, least in (("limit", limit, 1), ("caption_seed", caption_seed, 0)):
            if value is not None:
                whole_number(value, f"prompts: {name}", least)
        images = {"control": control, "source": source, "mask": mask, "target": target}
        own = {"seed": seed, "width": width, "height": height, "guidance_scale": guidance_scale}
        own["num_inference_steps"] = num_inference_steps
        columns = columns_of(text=text, negative=negative, category=category, class_id=class_id, **images, **own)
        object.__setattr__(self, "_captions", Captions(caption_seed, split))
        prompts: list[Prompt] = []
        ids: list[int | str] = []
        for file in prompt_files(path, folders=False):
            entries = table_entries(file, text, delimiter, self._captions)
            for entry in itertools.islice(entries, limit and limit - len(prompts)):
                prompts.append(from_row(row_of(entry, columns), columns, entry.where, file.parent))
                ids += [] if entry.id is None else [entry.id]
        if not prompts:
            raise DataError(f"{file}: no prompts: the table has no rows")
        object.__setattr__(self, "caption_ids", tuple(ids))
        super().__init__(tuple(prompts), samples_per_prompt, limit, exhaustive)

    caption_ids: tuple[int | str, ...]
    _captions: Captions

    def identity(self) -> dict[str, Any]:
        """As `PromptSet`; of captions also which of an image's were chosen, with the digest of their ids."""
        if not self.caption_ids:
            return super().identity()
        chosen = {"rule": str(self._captions), "ids_sha256": sha256_json(self.caption_ids)}
        return super().identity() | {"captions": chosen}


class DatasetPrompts(PromptSet):
    """Prompts from a Hugging Face dataset (`pip install evalkit[datasets]`), fetched when first used.

    Args:
        name, split, config, revision: as of `evalkit.data.containers.hf_dataset.DatasetOpener`; give a revision, so
            that the prompts cannot change.
        text, negative, category, class_id, seed, width, height, guidance_scale, num_inference_steps: names of columns.
    """

    def __init__(
        self,
        name: str,
        split: str = "train",
        text: str | None = "prompt",
        negative: str | None = None,
        category: str | None = None,
        class_id: str | None = None,
        seed: str | None = None,
        width: str | None = None,
        height: str | None = None,
        guidance_scale: str | None = None,
        num_inference_steps: str | None = None,
        config: str | None = None,
        revision: str | None = None,
        samples_per_prompt: int = 1,
        limit: int | None = None,
        exhaustive: bool = False,
    ) -> None:
        from evalkit.data.containers.hf_dataset import load

        own = {"seed": seed, "width": width, "height": height, "guidance_scale": guidance_scale}
        own["num_inference_steps"] = num_inference_steps
        columns = columns_of(text=text, negative=negative, category=category, class_id=class_id, **own)
        table = load(name, split, config, revision)
        for column in columns.values():
            if column not in table.column_names:
                raise ConfigError(f"dataset '{name}': no column '{column}'. {nearest(column, table.column_names)}")
        table = table.select_columns(sorted(set(columns.values())))  # else images would be decoded for their captions
        made = tuple(
            from_row(row, columns, f"dataset '{name}' row {i}", None)
            for i, row in enumerate(itertools.islice(table, limit))
        )
        super().__init__(made, samples_per_prompt, limit, exhaustive)


class DigitsPrompts(PromptSet):
    """The 560 captions of the captioned digits; class id = digit, category = its word. All prefixes are balanced."""

    def __init__(self, samples_per_prompt: int = 1, limit: int | None = None, exhaustive: bool = True) -> None:
        from evalkit.digits.data import DIGIT_WORDS, PROMPTS

        made = tuple(Prompt(text=c.text, category=DIGIT_WORDS[c.digit], class_id=c.digit) for c in PROMPTS)
        super().__init__(made, samples_per_prompt, limit, exhaustive)
