"""A benchmark's score: what each image's answers come to, and the means by category and by skill.

Scores are those of the authors (`combine`); what is added are standard errors, which go by prompt. The headings of the
benchmark's table are its categories and the tags of its prompts, over which the score is averaged, and, where it is a
mean of answers, tags of questions ("skill: count"), over whose answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.errors import ConfigError, nearest
from evalkit.judges.benchmark_file import Task, by_prompt, read_benchmark
from evalkit.judges.graph import COMBINE
from evalkit.metric import Batch, Better, Rows, SampleMetric, Score, mean_score
from evalkit.utils.files import sha256_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COUNT, OVERALL = ("images", "questions"), ("prompts", "categories")
CALLS = ("calls", "unread", "sent", "received")


class BenchmarkScore(SampleMetric[Rows]):
    """The mean over images of what the answers to their prompt's questions come to.

    Args:
        benchmark: the keys of the run's `benchmark`, `evalkit.judges.benchmark_file.BenchmarkFile`.
        features: address of the answers, f32 [B,Q] in the order of the prompt's questions, NaN beyond them; a question
            whose parent is 0 has 0 already.
        combine: how the answers of one image become its score: mean (by the questions' weights), geometric, product,
            min, or all (1 where each answer is 1).
        count: what each mean is over: "images", or "questions" (an image with more questions counts more).
        overall: the mean over all "prompts", or over "categories" (the mean of their means).
        only: ids of the questions that count; none: all.
        factor: scores are multiplied by it: 100 for a percentage.
        calls: address of what the answers took, f32 [B,4], of a judge: calls, answers that could not be read, tokens
            sent and received; their sums stand in the details. None: nobody counted.
        title: how the score is called; none: the benchmark's title.
    """

    title = "benchmark"
    better: Better = "higher"
    per_sample = True
    needs_prompts = True
    min_samples: int = 1
    needs: tuple[str, ...] = ()
    kinds: ClassVar[tuple[str, ...]] = tuple(COMBINE)

    def __init__(
        self,
        benchmark: Mapping[str, Any],
        features: str,
        combine: str = "mean",
        count: str = "images",
        overall: str = "prompts",
        only: Sequence[str] | None = None,
        factor: float = 1.0,
        calls: str | None = None,
        title: str | None = None,
    ) -> None:
        options = (("combine", combine, self.kinds), ("count", count, COUNT), ("overall", overall, OVERALL))
        for name, value, choices in options:
            if value not in choices:
                raise ConfigError(f"{name}={value}: {nearest(value, choices)}")
        self.tasks = by_prompt(read_benchmark(benchmark))
        self.needs = (features,) if calls is None else (features, calls)
        self.title = title or str(benchmark.get("title") or self.title)
        self.combine, self.count, self.overall, self.factor = combine, count, overall, factor
        self.only = None if only is None else tuple(map(str, only))
        self.per_sample = (count, overall) == ("images", "prompts")
        known = {question.id for task in self.tasks.values() for question in task.questions}
        for name in self.only or ():
            if name not in known:
                raise ConfigError(f"only: the benchmark has no question '{name}'. {nearest(name, sorted(known)[:100])}")
        if overall == "categories" and not all(task.category for task in self.tasks.values()):
            raise ConfigError(
                "overall=categories: some prompts of the benchmark have no category: give overall=prompts"
            )

    def constants(self) -> dict[str, Any]:
        """What the score is of, with a digest of all prompts, questions, dependencies, categories and tags."""
        told = [
            [task.prompt, task.category, task.tags, [vars(question) for question in task.questions]]
            for task in self.tasks.values()
        ]
        return {
            "estimator": f"{self.combine} over questions, mean over {self.count}, mean over {self.overall}",
            "factor": self.factor,
            "questions": "all" if self.only is None else list(self.only),
            "benchmark_sha256": sha256_json(told),
        }

    def observe(self, batch: Batch) -> Rows:
        import torch

        places = {prompt: i for i, prompt in enumerate(self.tasks)}
        of = torch.tensor([places.get(str(prompt).strip(), -1) for prompt in batch.prompts])
        answers, *calls = (batch.features[address].double() for address in self.needs)
        values = {"answers": answers, "task": of} | ({"calls": calls[0]} if calls else {})
        return Rows(batch.index, values, batch.clusters)

    def score(self, *, generated: Rows) -> Score:
        import torch

        n, order = len(generated), list(self.tasks.values())
        unknown = int((generated["task"] < 0).sum())
        if unknown:
            return Score(None, n, note=f"the prompts of {unknown} of {n} samples are none of the benchmark's")
        tasks = [order[i] for i in generated["task"].tolist()]
        answers = generated["answers"].numpy()  # f64 [N,Q]
        values = [self._of_one(task, each) for task, each in zip(tasks, answers, strict=True)]
        headings = self._headings(tasks, values, answers)
        whole = self._mean(dict(enumerate(values)), tasks)
        influence = [whole[i] for i in range(n)]
        if self.overall == "categories":
            influence = over_strata([headings[str(task.category)] for task in tasks])
        score = mean_score(torch.tensor(influence, dtype=torch.float64), generated.clusters)
        details = {"prompts": float(len(set(generated["task"].tolist())))}
        if "calls" in generated.values:
            details |= dict(zip(CALLS, generated["calls"].sum(0).tolist(), strict=True))
        unread = int(details.get("unread", 0))
        note = f"{unread} answers could not be read, and count the lowest value" if unread else None
        return replace(score, details=details, note=note, headings=headings)

    def _counted(self, task: Task) -> list[int]:
        """The places of a prompt's questions that count."""
        return [i for i, q in enumerate(task.questions) if self.only is None or q.id in self.only]

    def _of_one(self, task: Task, answers: NDArray[np.float64]) -> float:
        """The score of one image: answers f64 [Q]."""
        places = self._counted(task)
        if len(places) == 0:
            raise ValueError(f"the prompt '{task.prompt[:60]}' has none of the questions {', '.join(self.only or ())}")
        given = [float(answers[i]) for i in places]
        return self.factor * COMBINE[self.combine](given, [task.questions[i].weight for i in places])

    def _headings(
        self, tasks: Sequence[Task], values: Sequence[float], answers: NDArray[np.float64]
    ) -> dict[str, tuple[float | None, ...]]:
        """By category, by tag of the prompts and, where the score is a mean over questions, by tag of the questions."""
        of_prompts: dict[str, dict[int, float]] = {}
        of_questions: dict[str, dict[int, list[float]]] = {}
        for i, task in enumerate(tasks):
            for heading in [*([task.category] if task.category else []), *task.tags]:
                of_prompts.setdefault(heading, {})[i] = values[i]
            for j in self._counted(task) if self.combine == "mean" else ():
                for tag in dict.fromkeys(task.questions[j].tags):
                    of_questions.setdefault(tag, {}).setdefault(i, []).append(self.factor * float(answers[i, j]))
        found = {name: self._mean(each, tasks) for name, each in of_prompts.items()}
        for name, given in of_questions.items():
            found[name] = linear(
                {i: sum(each) / len(each) for i, each in given.items()}, {i: len(given[i]) for i in given}
            )
        return {name: tuple(map(each.get, range(len(tasks)))) for name, each in found.items()}

    def _mean(self, values: Mapping[int, float], tasks: Sequence[Task]) -> dict[int, float]:
        """By sample what adds up to the mean of some samples' values, over images or over their questions."""
        numbers = {i: len(self._counted(tasks[i])) if self.count == "questions" else 1 for i in values}
        return linear(values, numbers)


def linear(values: Mapping[int, float], numbers: Mapping[int, int]) -> dict[int, float]:
    """By sample its linear part in the mean of values that stand for unlike numbers of answers; the mean is theirs too.

    R = sum(n v) / sum(n) has the linear part R + n (v - R) / mean(n), so that its standard error is that of the mean of
    these (Cochran 1977, 6.8); of equal numbers they are the values.
    """
    total = sum(numbers.values())
    mean = sum(numbers[i] * value for i, value in values.items()) / total
    return {i: mean + numbers[i] * (value - mean) * len(values) / total for i, value in values.items()}


def over_strata(parts: Sequence[Sequence[float | None]]) -> list[float]:
    """The linear parts of the mean of strata's means.

    Args:
        parts: of each sample its stratum: by sample the linear part in the stratum's mean, none of other strata's.
    """
    strata = list({id(part): part for part in parts}.values())
    found = [0.0] * len(parts)
    means = []
    for part in strata:
        known = {i: value for i, value in enumerate(part) if value is not None}
        means.append(sum(known.values()) / len(known))
        for i, value in known.items():
            found[i] = (value - means[-1]) * len(parts) / (len(strata) * len(known))
    mean = sum(means) / len(means)
    return [mean + deviation for deviation in found]
