"""GenEval (Ghosh et al. 2023, arXiv:2310.11513): objects, counts, colours and positions as asked for?

After the authors' evaluate_images.py and summary_scores.py (github.com/djghosh13/geneval, MIT); what differs stands in
docs/benchmarks/geneval.md. Objects and their colours come from a detector's stored features, so that other thresholds
are scored without it. Its numbers are those of the detector: the authors' is mmdet's Mask2Former (Swin-S).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.metric import Batch, Rows, SampleMetric, Score, cluster_ids, mean_score, with_error
from evalkit.numerics.detections import Detections
from evalkit.numerics.geneval import COLOURS, TASKS, Requirement, Rules, names_of, verdict

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = {"tasks": "GenEval", "images": "GenEval images", "prompts": "GenEval prompts"}


class GenEval(SampleMetric[Rows]):
    """A share of 0 to 1: the mean over tasks of the share of correct images, or one of its fellows.

    The standard error of each task's share goes by prompt, as everywhere; tasks are fixed.

    Args:
        metadata: evaluation_metadata.jsonl: what each prompt asks for, found by the prompt's text.
        extractor: name of the detector, with the layers objects and colours.
        level: "tasks": the overall score, the mean of the tasks' shares. "images": the share of correct images, each
            image's own verdict kept. "prompts": the share of prompts of which one image or more is correct.
        threshold: objects of a higher score count.
        counting_threshold: likewise, of the task "counting".
        max_objects: at most so many of a class in an image.
        max_overlap: intersection over union of two boxes of a class from which the less sure one is left out; 1: none.
        position_threshold: how far a box must lie off another, of the lengths of both together.
    """

    title = LEVELS["tasks"]
    better = "higher"
    needs = ("detector/objects", "detector/colours")
    needs_prompts = True

    def __init__(
        self,
        metadata: str,
        extractor: str = "detector",
        level: str = "tasks",
        threshold: float = Rules.threshold,
        counting_threshold: float = Rules.counting_threshold,
        max_objects: int = Rules.max_objects,
        max_overlap: float = Rules.max_overlap,
        position_threshold: float = Rules.position_threshold,
    ) -> None:
        if level not in LEVELS:
            raise ValueError(f"level={level}: give {', '.join(LEVELS)}")
        for name, value in (("threshold", threshold), ("counting_threshold", counting_threshold)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}={value}: give a score of 0 to 1")
        if max_objects < 1 or not 0 < max_overlap <= 1 or position_threshold < 0:
            raise ValueError("give max_objects >= 1, max_overlap above 0 and up to 1, position_threshold >= 0")
        self.metadata, self.level = metadata, level
        self.rules = Rules(threshold, counting_threshold, max_objects, max_overlap, position_threshold)
        self.needs = (f"{extractor}/objects", f"{extractor}/colours")
        self.title, self.per_sample = LEVELS[level], level == "images"

    @functools.cached_property
    def _file(self) -> tuple[dict[str, Requirement], str]:
        return _read(Path(self.metadata).expanduser())

    @property
    def asked(self) -> Mapping[str, Requirement]:
        """By prompt what it asks for. ValueError: the file, and what is wrong with it."""
        return self._file[0]

    @functools.cached_property
    def tasks(self) -> list[str]:
        """The file's tasks, in the authors' order."""
        return sorted({each.task for each in self.asked.values()}, key=_order)

    def constants(self) -> dict[str, Any]:
        return {"estimator": f"share of correct {self.level}", "metadata": self._file[1]} | asdict(self.rules)

    def check(self, texts: Mapping[str, Sequence[str | None]], extractors: Mapping[str, Any]) -> None:
        """Refuses what could not be scored, before the first sample; see `Metric.check`."""
        asked = self.asked  # read here, whatever is asked for
        for cell, prompts in texts.items():
            unknown = [text for text in prompts if text is not None and text not in asked]
            if unknown:
                raise ValueError(
                    f"{self.metadata} says nothing of the prompt '{unknown[0]}' of {cell} (nor of "
                    f"{len(set(unknown)) - 1} others): give metadata the file that the prompts are from"
                )
        known = getattr(extractors.get(self.needs[0].partition("/")[0]), "class_names", None)
        missing = sorted(names_of(asked.values()).difference(known)) if known is not None else []
        if missing:
            raise ValueError(f"the detector has no class '{missing[0]}' ({len(missing)} missing): see its `renamed`")

    def observe(self, batch: Batch) -> Rows:
        import torch

        objects, colours = (batch.features[address].numpy() for address in self.needs)
        correct = torch.zeros(len(batch.index), dtype=torch.float64)
        tasks = torch.zeros(len(batch.index), dtype=torch.int64)
        for i, text in enumerate(batch.prompts):
            asked = self.asked.get(str(text))
            if asked is None:
                raise ValueError(f"{self.metadata} says nothing of the prompt '{text}'")
            seen = Detections.from_row(objects[i])
            if seen.lowest > self.rules.lowest + 1e-6:
                raise ValueError(f"the detector kept scores above {seen.lowest:g} alone: lower its option `lowest`")
            best = colours[i].reshape(-1, len(COLOURS)).argmax(axis=1)  # [K]
            correct[i] = not verdict(asked, seen, [COLOURS[place] for place in best[: len(seen)]], self.rules)
            tasks[i] = self.tasks.index(asked.task)
        prompts = torch.tensor(cluster_ids(batch.prompts, batch.index.tolist()))
        return Rows(batch.index, {"correct": correct, "task": tasks, "prompt": prompts}, batch.clusters)

    def score(self, *, generated: Rows) -> Score:
        correct, tasks = generated["correct"], generated["task"]
        if self.level == "images":  # its headings are the prompts' categories, as of any metric per sample
            return mean_score(correct, generated.clusters)
        if self.level == "prompts":
            return _of_prompts(correct, generated, self.tasks)
        each = {task: correct[tasks == i] for i, task in enumerate(self.tasks) if bool((tasks == i).any())}
        shares = {task: float(values.mean()) for task, values in each.items()}
        overall = sum(shares.values()) / len(shares)
        influence = correct.clone()  # of a sample of a task of n: N / (tasks * n) times its deviation from the share
        for i, task in enumerate(self.tasks):
            if task in shares:
                weight = len(correct) / (len(shares) * len(each[task]))
                influence[tasks == i] = overall + weight * (correct[tasks == i] - shares[task])
        absent = [task for task in TASKS if task in self.tasks and task not in shares]
        note = f"the mean of {len(shares)} tasks: no sample is of {', '.join(absent)}" if absent else None
        score = Score(overall, len(correct), details=shares, note=note, headings=_by_task(correct, tasks, self.tasks))
        return with_error(score, influence, generated.clusters)


def _of_prompts(correct: Tensor, generated: Rows, names: Sequence[str]) -> Score:
    """The share of prompts with a correct image; a prompt's samples share its influence."""
    import torch

    known, place, counts = torch.unique(generated["prompt"], return_inverse=True, return_counts=True)
    any_correct = torch.zeros(len(known), dtype=torch.float64).scatter_reduce_(0, place, correct, "amax")
    value = float(any_correct.mean())
    influence = value + (len(correct) / (len(known) * counts[place])) * (any_correct[place] - value)
    headings = _by_task(any_correct[place], generated["task"], names)
    return with_error(Score(value, len(correct), headings=headings), influence, generated["prompt"])


def _by_task(values: Tensor, tasks: Tensor, names: Sequence[str]) -> dict[str, tuple[float | None, ...]]:
    """By task that has samples each sample's value, none where it is of another."""
    pairs = list(zip(values.tolist(), tasks.tolist(), strict=True))
    found = {name: tuple(v if task == i else None for v, task in pairs) for i, name in enumerate(names)}
    return {name: each for name, each in found.items() if any(v is not None for v in each)}


def _order(task: str) -> tuple[int, str]:
    return (TASKS.index(task) if task in TASKS else len(TASKS)), task


def _read(path: Path) -> tuple[dict[str, Requirement], str]:
    """What each prompt asks for, by its text, and the file's digest. ValueError: the file, and the line."""
    try:
        data = path.read_bytes()
        lines = data.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"metadata={path}: {error.strerror}: give evaluation_metadata.jsonl of GenEval") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"metadata={path} is no UTF-8 text") from error
    asked: dict[str, Requirement] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            if not isinstance(item, dict) or not isinstance(item.get("prompt"), str):
                raise ValueError("no object with a 'prompt'")
            text, requirement = item["prompt"].strip(), Requirement.parse(item)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        if asked.setdefault(text, requirement) != requirement:
            raise ValueError(f"{path}:{number}: another line asks something else of the prompt '{text}'")
    if not asked:
        raise ValueError(f"metadata={path} holds no prompts")
    return asked, sha256(data).hexdigest()
