"""Two real processes of `torch.distributed` (gloo): the bits of one, and one line where ranks fail or differ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import loop_rank

import evalkit

pytestmark = pytest.mark.cluster

SCRIPT = Path(loop_rank.__file__)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks saw."""
    folder = tmp_path_factory.mktemp("ranks")
    ranks = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(folder), str(rank), "2"], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for rank in ranks:
        _, said = rank.communicate(timeout=300)
        assert rank.returncode == 0, said.decode()[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def test_two_ranks_give_the_bits_of_one(two: list[dict[str, Any]]) -> None:
    evaluation = evalkit.Evaluation(loop_rank.pictures(seed=1), loop_rank.METRICS, device="cpu")
    everything = evaluation.indices(loop_rank.COUNT)
    loop_rank.give(evaluation, everything, None)
    alone = loop_rank.seen(evaluation.compute(1))
    assert set(alone) == set(loop_rank.METRICS)
    for way in ("interleaved", "whole chunks", "by index, in a store", "after errors"):
        assert [rank[way] for rank in two] == [alone, alone], way
    assert [rank["streamed"] for rank in two] == [alone["fid_digits"][0]] * 2
    assert [rank["steps"] for rank in two] == [["samples-step1", "samples-step2"]] * 2
    assert all(rank["random state kept"] for rank in two)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("two of one index", "rank 1 has another image of index 0: give each index once"),
        ("unequal numbers", "no image of index 3"),
        ("other steps", "rank 1 has another step than rank 0 (4, not 3)"),
        ("other settings", "rank 1 has another metrics than rank 0"),
        ("one fails", "rank 1: metric=fid_digitsx: no such option"),
    ],
)
def test_what_ranks_differ_in_is_one_line_on_each(what: str, words: str, two: list[dict[str, Any]]) -> None:
    for rank in two:
        assert words in rank[what]
        assert "\n" not in rank[what]


def test_a_rank_that_ended_is_told(two: list[dict[str, Any]]) -> None:
    assert two[0]["one ended"].startswith("another rank of torch.distributed ended or did not come: every rank must")
