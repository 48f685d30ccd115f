"""What the caller set up is as it was after an evaluation, and after one that failed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

import evalkit
from evalkit.errors import EvalkitError
from evalkit.extractors.digits import Digits


def pictures(count: int = 256, seed: int = 0) -> np.ndarray:
    """u8 [count,32,32,3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def flags() -> dict[str, Any]:
    """All that a training program may have set, as it is now."""
    return {
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),  # noqa: NPY002 (the caller's)
        "torch": torch.get_rng_state().tolist(),
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "cache": torch.is_autocast_cache_enabled(),
        "dtype": torch.get_default_dtype(),
        "device": str(torch.get_default_device()),
        "tf32": (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32),
        "precision": torch.get_float32_matmul_precision(),
        "benchmark": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "anomaly": torch.is_anomaly_enabled(),
    }


@contextmanager
def trained() -> Iterator[torch.nn.Module]:
    """A model that is trained under settings unlike the defaults, which are put back in the end."""
    before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.benchmark = True
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4, device="cpu"), torch.nn.Dropout())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield model.train()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_default_device(None)  # type: ignore[arg-type]
        torch.set_default_dtype(torch.float32)
        torch.backends.cudnn.benchmark = False
        torch.set_float32_matmul_precision(before[0])
        torch.set_num_threads(before[1])


def test_all_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = evalkit.Evaluation(pictures(seed=1), ["fid_digits", "kid_digits"], device="cpu")
    undisturbed.update(pictures())
    expected = [row.value for row in undisturbed.compute().rows]
    with trained() as model:
        before, modes = flags(), [module.training for module in model.modules()]
        model(torch.ones(1, 4, device="cpu")).sum().backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        before["torch"] = torch.get_rng_state().tolist()  # the dropout drew from it
        evaluation = evalkit.Evaluation(pictures(seed=1), ["fid_digits", "kid_digits"], device="cpu")
        assert flags() == before
        evaluation.update(pictures())
        assert flags() == before
        assert [row.value for row in evaluation.compute().rows] == expected
        assert flags() == before
        evaluation.update(pictures(3)[:1])
        with pytest.raises(EvalkitError, match="at least 2 samples"):
            evaluation.compute()
        assert flags() == before
        evaluation.reset()
        monkeypatch.setattr(Digits, "__call__", broken)
        with pytest.raises(EvalkitError, match="failed: a wrong shape, say"):
            evaluation.update(pictures(seed=7))
        assert flags() == before
        assert [module.training for module in model.modules()] == modes
        assert all(
            torch.equal(parameter.grad, gradient)
            for parameter, gradient in zip(model.parameters(), gradients, strict=True)
        )


def broken(self: Digits, *given: Any) -> Any:
    torch.rand(5)
    torch.set_default_dtype(torch.float16)
    raise RuntimeError("a wrong shape, say")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_in_any_mode(mode: Any) -> None:
    evaluation = evalkit.Evaluation(pictures(seed=1), ["fid_digits"], device="cpu")
    with mode():
        before = flags()
        evaluation.update(torch.from_numpy(pictures()).permute(0, 3, 1, 2))
        evaluation.compute()
        assert flags() == before
    evaluation.update(pictures(seed=2))  # what was made in that mode serves outside of it
    evaluation.compute()
