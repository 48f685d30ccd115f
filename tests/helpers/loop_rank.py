"""One rank of `test_ranks.py`: FOLDER RANK SIZE; writes what it saw into FOLDER/rank<RANK>.json."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

import evalkit
from evalkit.errors import EvalkitError

METRICS = ["fid_digits", "kid_digits", "clip_score_digits"]
COUNT = 300  # a whole chunk and a part of one


def pictures(count: int = COUNT, seed: int = 0) -> np.ndarray:
    """u8 [count,32,32,3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def seen(table: evalkit.ResultTable) -> dict[str, list[str]]:
    """By metric the value, its error and its interval in hex, and the protocol."""
    return {
        row.metric: [*(float(x or 0).hex() for x in (row.value, row.stderr, row.low, row.high)), row.protocol_hash]
        for row in table.rows
        if row.value is not None
    }


def give(evaluation: evalkit.Evaluation, places: list[int], index: list[int] | None) -> None:
    for start in range(0, len(places), 50):
        part = places[start : start + 50]
        texts = [f"digit {i % 7}" for i in part]
        evaluation.update(pictures()[part], prompts=texts, index=None if index is None else index[start : start + 50])


def error_of(call: Any) -> str:
    try:
        call()
    except EvalkitError as error:
        return str(error)
    return "nothing"


def scenarios(rank: int, size: int, store: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    evaluation = evalkit.Evaluation(pictures(seed=1), METRICS, device="cpu")
    interleaved = list(range(rank, COUNT, size))
    give(evaluation, interleaved, None)
    found["interleaved"] = seen(evaluation.compute(1))
    own = evaluation.indices(COUNT)
    give(evaluation, own, own)
    found["whole chunks"] = seen(evaluation.compute(2))
    stored = evalkit.Evaluation(pictures(seed=1), METRICS, device="cpu", store=store)
    cut = [i for i in range(COUNT) if (i < 150) == (rank == 0)][::-1]  # a chunk that lies on both, in another order
    give(stored, cut, cut)
    found["by index, in a store"] = seen(stored.compute(3))
    found["steps"] = sorted(evaluation.history.best["fid_digits"])
    give(evaluation, [rank], [0])
    found["two of one index"] = error_of(lambda: evaluation.compute(3))
    evaluation.reset()
    give(evaluation, interleaved[: 10 - 9 * rank], None)
    found["unequal numbers"] = error_of(lambda: evaluation.compute(3))
    found["other steps"] = error_of(lambda: evaluation.compute(3 + rank))
    evaluation.reset()
    give(evaluation, interleaved, None)
    found["after errors"] = seen(evaluation.compute(3))
    found["other settings"] = error_of(lambda: evalkit.Evaluation(pictures(seed=1), METRICS[: 2 + rank], device="cpu"))
    streamed = evalkit.Evaluation(None, ["fid_digits"], device="cpu")
    real = streamed.stream("real images")
    for part in (interleaved[:70], interleaved[70:]):  # scored twice: nothing is forgotten
        streamed.update(pictures()[part])
        streamed.update_stream(real, pictures(seed=1)[part])
        found["streamed"] = float(streamed.so_far(real)["fid_digits"].score.value or 0).hex()
    found["one fails"] = error_of(
        lambda: evalkit.Evaluation(pictures(seed=1), ["fid_digits" + "x" * rank], device="cpu")
    )
    if rank == 0:
        found["one ended"] = error_of(evaluation.compute)
    return found


def main(folder: Path, rank: int, size: int) -> None:
    if size > 1:
        store = dist.FileStore(str(folder / "meet"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = scenarios(rank, size, folder / "store")
    found["random state kept"] = bool(torch.equal(before, torch.get_rng_state()))
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    os._exit(0)  # rank 1 ends at once, while rank 0 waits for it


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
