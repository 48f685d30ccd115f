"""How the tests of services ask for images: whole cells, into a store."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_services import KEY, FakeService, pixels_of

from evalkit.cell import Cell
from evalkit.config.schema import RunConfig
from evalkit.models.base import Request
from evalkit.plan.grid import make_grid
from evalkit.samples.generate import generate_cells
from evalkit.samples.store import SampleSet, Store

QUICK = {"concurrency": 4, "timeout": 5, "retries": 2, "backoff": 0.01, "max_backoff": 0.02, "budget": 10}
PROMPTS = ['a "red" fox', "zwei Füchse {{seed}}", "drei\nZeilen", "four"]
WORKFLOW = {
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": "{{seed}}", "steps": 4, "positive": ["6", 0], "latent": ["5", 0]},
    },
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": "{{width}}", "height": "{{height}}", "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "{{prompt}}"}},
    "8": {"class_type": "PreviewImage", "inputs": {}},
    "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "seed {{seed}}"}},
}
Ask = Callable[..., tuple[Cell, SampleSet]]


def reach_the_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key in the environment, no proxy in between, and no garbage collection per model."""
    monkeypatch.setenv("TEST_IMAGES_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("evalkit.utils.devices.free_memory", lambda: None)


def option(kind: str, service: FakeService, folder: Path, **changes: Any) -> dict[str, Any]:
    """A model's option that asks the server, with the key in the environment where the protocol has one."""
    client = {**QUICK, **changes.pop("client", {})}
    size = {"height": 16, "width": 16}
    made: dict[str, Any] = {
        "openai": {
            "_target_": "evalkit.models.services.openai_images.OpenAIImages",
            "base_url": f"{service.url}/v1",
            "model": "small",
            "api_key_env": "TEST_IMAGES_KEY",
            "seed_field": "seed",
        },
        "webui": {
            "_target_": "evalkit.models.services.automatic1111.Automatic1111",
            "base_url": service.url,
            "api_key_env": "TEST_IMAGES_KEY",
        },
        "comfy": {
            "_target_": "evalkit.models.services.comfyui.ComfyUI",
            "base_url": service.url,
            "api_key_env": "TEST_IMAGES_KEY",
            "poll": 0.01,
            "workflow": str(folder / "workflow.json"),
        },
    }[kind]
    (folder / "workflow.json").write_text(json.dumps(WORKFLOW))
    return {**made, **size, "client": client, **changes}


def cell_of(model: Mapping[str, Any], count: int = 8, seed: int = 0, prompts: list[Any] | None = None) -> Cell:
    inline = {"_target_": "evalkit.prompts.sets.InlinePrompts", "prompts": prompts or PROMPTS}
    config = RunConfig(model={"served": dict(model)}, prompts={"inline": inline}, num_samples=count, seed=seed)
    return make_grid(config).cells[0]


def make(cell: Cell, store: Store, batch_size: int = 8) -> SampleSet:
    """The cell's samples; the model is built anew, as a new process does."""
    from evalkit.config.build import build

    build(cell.options["model"] or {}).check_call(None, cell.call_settings)
    generate_cells([cell], store, batch_size=batch_size, device="cpu")
    return SampleSet.open(store, cell)


def expected(cell: Cell, *, seeded: bool = True) -> np.ndarray:
    """u8 [N,16,16,3]: what the service makes of the cell's prompts and seeds."""
    seeds = [Request(i, cell.seed).seed32() for i in range(cell.num_samples)]
    return np.stack([pixels_of(PROMPTS[i % 4], s if seeded else None) for i, s in enumerate(seeds)])


def pixels(samples: SampleSet) -> np.ndarray:
    return np.stack(samples.read(range(len(samples))))


def all_text(folder: Path) -> bytes:
    """Names and bytes of all files below a folder."""
    return b"\n".join(str(p).encode() + (p.read_bytes() if p.is_file() else b"") for p in folder.rglob("*"))
