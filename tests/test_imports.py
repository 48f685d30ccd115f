"""Who may import whom: data flows one way, there is no circle, and nothing heavy is imported before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "evalkit"

# In the order in which data flows: each may import what stands to its right only (and modules of its own).
FOLDERS = [
    *("plan", "report", "gate", "trackers", "results", "lint", "samples", "scoring", "models", "features", "prompts"),
    *("extractors", "data", "config", "digits", "numerics", "utils"),
]
LEFT = ["__init__", "cli", "api", "selfcheck", "pipeline"]  # modules at the root that no folder imports
RIGHT = ["cell", "metric", "errors"]  # modules at the root that any folder may import
ORDER = [*LEFT, *FOLDERS, *RIGHT]

MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
PLUGINS = {path.stem: path for path in (ROOT / "metrics").glob("*.py")}


def imports_of(path: Path, *, typing_too: bool = False) -> set[str]:
    """The modules below `evalkit` that a file imports; by default when it runs, not for type checking alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test) and not typing_too
        for node in ast.walk(branch)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and f"{node.module}.".startswith("evalkit."):
            module = node.module.removeprefix("evalkit").removeprefix(".")
            names |= {_module(module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name.removeprefix("evalkit.") for a in node.names if a.name.startswith("evalkit.")}
    return names


def _module(module: str, name: str) -> str:
    """What `from module import name` imports: the module `name` in it, where there is one."""
    inner = f"{module}.{name}".removeprefix(".")
    return inner if inner in MODULES or not module else module


def room(module: str) -> str:
    """The folder or root module that a module belongs to."""
    return module.partition(".")[0]


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of a graph, first module again at its end; empty where there is none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for other in sorted(graph.get(module, ())):
            circle = visit(other, [*path, module])
            if circle:
                return circle
        done.add(module)
        return []

    for module in sorted(graph):
        circle = visit(module, [])
        if circle:
            return circle
    return []


def test_every_module_has_its_place_in_the_order() -> None:
    assert {room(module) for module in MODULES} == set(ORDER)
    assert len(list(PACKAGE.glob("*.py"))) <= 8


@pytest.mark.parametrize("folder", ORDER)
def test_imports_go_to_the_right(folder: str) -> None:
    allowed = {folder, *ORDER[ORDER.index(folder) + 1 :]}
    wrong = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        if room(module) == folder
        for name in sorted(imports_of(path, typing_too=True))
        if room(name) not in allowed and name != "__version__"
    ]
    assert not wrong


def test_there_is_no_circle() -> None:
    assert find_circle({module: imports_of(path) for module, path in MODULES.items()}) == []
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


@pytest.mark.parametrize("plugin", sorted(PLUGINS))
def test_plugins_know_the_contract_and_the_numerics_alone(plugin: str) -> None:
    assert {room(name) for name in imports_of(PLUGINS[plugin])} <= {"metric", "errors", "numerics"}


def test_nobody_imports_a_plugin() -> None:
    users = [m for m, path in MODULES.items() if any(room(name) == "metrics" for name in imports_of(path))]
    assert not users, "only YAML names a metric"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


def test_help_and_config_import_nothing_heavy() -> None:
    done = run(
        "import sys; sys.argv = ['evalkit', '--cfg', 'job']\n"
        "from evalkit.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'open_clip', 'pandas', 'scipy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert done.returncode == 0, done.stderr
    assert "digits_ldm" in done.stdout
