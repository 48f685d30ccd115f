"""Executes a notebook as Jupyter does, in this process: `python tests/helpers/notebook.py docs/notebook.ipynb`.

It knows what that notebook needs: a cell's last expression is shown by its `_repr_*_` methods, what is printed is kept,
and `!evalkit ... > FILE 2>&1` runs the command. Given a file, it is executed in an empty folder, and its outputs are
written back into it.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

from command import run_evalkit

REPRS = {"text/html": "_repr_html_", "image/svg+xml": "_repr_svg_"}
Outputs = list[dict[str, Any]]


def execute(notebook: dict[str, Any], folder: Path) -> list[Outputs]:
    """The outputs of each code cell, run in one namespace with `folder` as the working directory.

    Raises whatever a cell raises.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    before = Path.cwd()
    os.chdir(folder)
    try:
        return [
            _run("".join(cell["source"]), names, number)
            for number, cell in enumerate((c for c in notebook["cells"] if c["cell_type"] == "code"), 1)
        ]
    finally:
        os.chdir(before)


def _run(source: str, names: dict[str, Any], number: int) -> Outputs:
    if source.startswith("!"):
        _command(source)
        return []
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"<cell {number}>", "exec"), names)
        shown = last and eval(compile(ast.Expression(last.value), f"<cell {number}>", "eval"), names)  # type: ignore[attr-defined]
    outputs: Outputs = []
    if printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines(printed.getvalue())})
    if shown is not None:
        data = {kind: getattr(shown, method)() for kind, method in REPRS.items() if hasattr(shown, method)}
        data = {"text/plain": repr(shown), **{kind: text for kind, text in data.items() if text is not None}}
        result = {"output_type": "execute_result", "execution_count": number, "metadata": {}}
        outputs.append(result | {"data": {kind: lines(text) for kind, text in data.items()}})
    return outputs


def _command(source: str) -> None:
    """`!evalkit WORDS > FILE 2>&1`, its lines joined at backslashes."""
    command, _, file = source[1:].replace("\\\n", " ").removesuffix(" 2>&1").rpartition(" > ")
    name, *words = shlex.split(command)
    assert name == "evalkit"
    done = run_evalkit(*words, cwd=Path.cwd())
    Path(file.strip()).write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr


def lines(text: str) -> list[str]:
    """A text as a notebook's file has it."""
    return text.splitlines(keepends=True)


def main(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        outputs = execute(notebook, Path(folder))
    code = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    for number, (cell, made) in enumerate(zip(code, outputs, strict=True), 1):
        cell |= {"execution_count": number, "outputs": made}
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
