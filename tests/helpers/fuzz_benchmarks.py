"""Mutated files of benchmarks, each in the form of its authors, as its YAML reads it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmark_formats import FORMATS
from fuzz import Target
from omegaconf import OmegaConf

from evalkit.config.listing import option_files
from evalkit.judges.benchmark_file import BenchmarkFile

OF = ("dpg", "genai_bench", "geneval2", "tiif", "unigenbench", "wise")  # those whose first file is all, or nearly all


def benchmarks() -> Target:
    seeds: dict[str, bytes] = {}
    options: dict[str, dict[str, Any]] = {}
    for name in OF:
        yaml: Any = OmegaConf.to_container(OmegaConf.load(option_files("benchmark")[name]))
        with tempfile.TemporaryDirectory() as folder:
            FORMATS[name](Path(folder))
            file = max(
                (f for f in Path(folder).rglob("*") if f.is_file()),
                key=lambda f: ("eval" in f.name, f.stat().st_size, f.name),
            )
            seeds[f"{name}{file.suffix}"] = file.read_bytes()
        options[name] = yaml["benchmark"] | {"join": None, "tag_files": {"skill": "skills.json"}}
    options["tiif"]["prompt"] = "type"

    def read(path: Path) -> None:
        (path.parent / "skills.json").write_text(json.dumps({"counting": [0, 1], "negation": [7]}))
        BenchmarkFile.of({**options[path.stem], "path": str(path)}).read()

    return Target("benchmarks", seeds, read, text=True)
