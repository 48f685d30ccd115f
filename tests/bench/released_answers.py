"""Answers that benchmarks' authors released, scored by evalkit and by their own arithmetic, from checkouts of theirs.

    python tests/bench/released_answers.py --tiif TIIF-Bench --tifa tifa

Nothing of these files is in this repository. Printed are both scores, and the largest difference of a line by category.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from omegaconf import OmegaConf

from evalkit.config.listing import option_files
from evalkit.judges.benchmark_file import BenchmarkFile, read_benchmark
from evalkit.judges.score import BenchmarkScore
from evalkit.metric import Batch, Score

GPT4O = "eval-results/testmini_subset_eval_results/testmini_subset_eval_results_GPT-4o"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiif", type=Path, help="a checkout of github.com/A113N-W3I/TIIF-Bench")
    parser.add_argument("--tifa", type=Path, help="a checkout of github.com/Yushi-Hu/tifa")
    given = parser.parse_args()
    if given.tiif:
        tiif(given.tiif)
    if given.tifa:
        tifa(given.tifa)


def options_of(name: str, path: str, **more: Any) -> dict[str, Any]:
    yaml: Any = OmegaConf.to_container(OmegaConf.load(option_files("benchmark")[name]))
    return {**yaml["benchmark"], "path": path, **more}


def scored(options: Mapping[str, Any], prompts: Sequence[str], answers: Sequence[list[float]], **how: Any) -> Score:
    width = max(map(len, answers))
    features = torch.tensor([each + [math.nan] * (width - len(each)) for each in answers])
    metric = BenchmarkScore(options, "judge/answers", **how)
    batch = Batch(None, torch.arange(len(prompts)), len(prompts), prompts, {"judge/answers": features})
    return metric.score(generated=metric.observe(batch))


def mean_of(score: Score, heading: str) -> float:
    return fmean(value for value in score.headings[heading] if value is not None)


def tiif(checkout: Path) -> None:
    """By model that GPT-4o judged, short prompts: the mean over types of the share of right answers."""
    path = f"{checkout}/data/test_prompts/*_prompts.jsonl"
    join = {"path": "../test_eval_prompts/{type}_eval_prompts.jsonl", "on": "@row"}
    options = options_of("tiif", path, join=join)
    rows = list(BenchmarkFile.of(options)._rows())
    tasks = {(row.row["type"], row.number): task for row, task in zip(rows, read_benchmark(options), strict=True)}
    for model in sorted((checkout / GPT4O).iterdir()):
        prompts, answers, right = list[str](), list[list[float]](), dict[str, list[bool]]()
        for file in sorted(model.glob("*/short/*.json")):
            told = json.loads(file.read_text(encoding="utf-8"))
            task = tasks[told["attribute"], told["line_idx"]]
            said = [each.strip().lower() for each in told["model_pred"]]
            prompts.append(task.prompt)
            answers.append([float(a == q.answer) for a, q in zip(said, task.questions, strict=True)])
            truth = [each.strip().lower() for each in told["gt_answers"]]
            right.setdefault(told["attribute"], []).extend(a == b for a, b in zip(said, truth, strict=True))
        if not prompts:
            continue
        score = scored(options, prompts, answers, count="questions", overall="categories")
        theirs = {name: fmean(each) for name, each in right.items()}
        gap = max(abs(mean_of(score, name) - value) for name, value in theirs.items())
        figures = f"evalkit {score.value:.6f} ± {score.stderr:.6f}, theirs {fmean(theirs.values()):.6f}"
        print(f"tiif  {model.name:24} {len(prompts):4} images: {figures}; largest difference of a type {gap:.1e}")


def tifa(checkout: Path) -> None:
    """The authors' example of two captions."""
    told = json.loads((checkout / "sample/sample_evaluation_result.json").read_text(encoding="utf-8"))
    options = options_of("tifa", str(checkout / "sample/sample_question_answers.json"))
    prompts, answers = [], []
    for task in read_benchmark(options):
        asked = next(q for q in told["question_details"].values() if next(iter(q.values()))["caption"] == task.prompt)
        prompts.append(task.prompt)
        answers.append([float(asked[q.text.partition(" Answer with")[0]]["scores"]) for q in task.questions])
    score = scored(options, prompts, answers)
    gap = max(abs(mean_of(score, f"element: {kind}") - of) for kind, of in told["accuracy_by_type"].items())
    print(
        f"tifa  evalkit {score.value}, theirs {told['tifa_average']}; largest difference of a kind of element {gap:.1e}"
    )


if __name__ == "__main__":
    main()
