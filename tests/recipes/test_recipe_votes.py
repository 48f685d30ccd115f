"""docs/recipes/votes.md: the Gradio page as it stands there. It runs where Gradio is installed, which no group does."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from command import ROOT
from votes_run import write_votes_run

from evalkit.votes.records import read_votes

CODE = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "recipes" / "votes.md").read_text("utf-8"), re.S)


def test_what_it_imports_of_evalkit_is_there() -> None:
    assert CODE is not None
    imports = [node for node in ast.walk(ast.parse(CODE[1])) if isinstance(node, ast.ImportFrom)]
    ours = [node for node in imports if node.module and node.module.startswith("evalkit")]
    assert len(ours) == 2
    for node in ours:
        module = importlib.import_module(str(node.module))
        assert all(hasattr(module, name.name) for name in node.names)


def test_it_votes(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed: it is no dependency")
    run, file = write_votes_run(tmp_path / "runs"), tmp_path / "votes.csv"
    assert CODE is not None
    code = CODE[1].replace("runs/sampler_sweep", str(run)).replace("/data/votes.csv", str(file))
    names: dict[str, Any] = {"__name__": "app"}
    exec(compile(code, "votes.md", "exec"), names)
    page = names["show"](names["ballot"].state("Ann"))
    for outcome in ("left", "tie", "right"):
        assert page[1].size == page[2].size == (16, 16)
        page = names["vote"](outcome, page[-1])
    page = names["undo"](page[-1])
    assert page[3] == "2 of 80"
    assert [vote.outcome for vote in read_votes(file)][1:] == ["tie"]
