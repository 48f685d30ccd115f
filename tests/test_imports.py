"""Who may import whom: data flows one way, there is no circle, and nothing heavy is imported before it is used."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "evalkit"

# In the order in which data flows: each may import what stands to its right only (and modules of its own).
FOLDERS = [
    *(
        "torchmetrics",
        "loop",
        "serve",
        "view",
        "history",
        "work",
        "plan",
        "report",
        "gate",
        "trackers",
        "results",
        "lint",
        "samples",
        "scoring",
        "votes",
        "models",
        "features",
    ),
    *(
        "features",
        "prompts",
        "extractors",
        "judges",
        "data",
        "config",
        "digits",
        "engines",
        "http",
        "numerics",
        "utils",
    ),
]
LEFT = ["__init__", "cli", "commands", "api", "selfcheck", "pipeline"]  # at the root; no other folder imports them
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
    assert find_circle({module: imports_of(path, typing_too=True) for module, path in MODULES.items()}) == []
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


@pytest.mark.parametrize("plugin", sorted(PLUGINS))
def test_plugins_know_the_contract_and_the_numerics_alone(plugin: str) -> None:
    assert {room(name) for name in imports_of(PLUGINS[plugin])} <= {"metric", "errors", "numerics"}


def test_nobody_imports_a_plugin() -> None:
    users = [m for m, path in MODULES.items() if any(room(name) == "metrics" for name in imports_of(path))]
    assert not users, "only YAML names a metric"


# One interpreter runs all of LIGHT, in this order: the first may import least. None may import HEAVY, nor what is named
# with it. `w` is the path of an empty file of weights in `folder`, next to m.npz, moments.
HEAVY = {"torch", "diffusers", "transformers", "open_clip", "pandas", "scipy"}
EXTRACTOR = "; e.check(); e.identity(); e.label(); e.layers; e.canonical()"
FINISHED_SCORES = """
import json
from fakes import MatrixExtractor, MemorySource, random_images
from evalkit.samples.store import Store
from evalkit.scoring import Against, score_sources
from evalkit.metrics.frechet import FrechetDistance
from evalkit.metrics.inception_score import InceptionScore
metrics = {"fid": ({}, FrechetDistance("matrix/flat")), "is": ({}, InceptionScore("matrix/soft", splits=4))}
scored = score_sources(
    {"a": MemorySource(random_images(40))}, metrics=metrics, extractors={"matrix": MatrixExtractor()},
    against=Against(MemorySource(random_images(50, 9))), store=Store(folder),
)
values, file = [one.score.value for one in scored.values()], folder / "values.json"
assert [one.cached for one in scored.values()] == [file.exists()] * 2
if file.exists():
    assert values == json.loads(file.read_text())
file.write_text(json.dumps(values))
"""
COMMAND = """
import contextlib, io, sys
from evalkit.cli import main
sys.argv, printed = ["evalkit", "--cfg", "job"], io.StringIO()
with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
    main()
assert "digits_ldm" in printed.getvalue()
"""
LIGHT = {
    "prompts": ("import evalkit.prompts as p; p.DigitsPrompts()", {"PIL"}),
    "onnx": (
        "from evalkit.models.onnx import OnnxModel as M; M(w).check()",
        {"onnxruntime", "numpy"},
    ),
    "services": (
        "from evalkit.http import client, job, keys; from evalkit.models.services import automatic1111, base, cache;"
        "from evalkit.models.services import comfyui, openai_images",
        {"httpx", "tenacity"},
    ),
    "diffusers": (
        "from evalkit.models.diffusers import DiffusersModel as M; m = M('pkg://evalkit.digits/weights/ldm');"
        "m.check(); m.identity()",
        {"PIL"},
    ),
    "gan": (
        "from evalkit.models.gan import TorchModuleModel as M;"
        "m = M('evalkit.digits.nets.DCGANGenerator', weights=w); m.check(); m.identity()",
        {"PIL"},
    ),
    "command": (COMMAND, set()),
    "clip": (
        "from evalkit.extractors.clip import Clip; e = Clip('c', 'pkg://evalkit.digits/weights/clip')" + EXTRACTOR,
        set(),
    ),
    "lpips": ("from evalkit.extractors.lpips import Lpips; e = Lpips('l', weights=w)" + EXTRACTOR, set()),
    "vgg16": ("from evalkit.extractors.vgg16 import Vgg16; e = Vgg16(weights=w)" + EXTRACTOR, set()),
    "timm": ("from evalkit.extractors.timm import Timm; e = Timm('t', 'test_resnet', weights=w)" + EXTRACTOR, set()),
    "inception": ("from evalkit.extractors.inception import Inception; e = Inception(weights=w)" + EXTRACTOR, set()),
    "digits": ("import evalkit.digits.data", set()),
    "reference": ("from evalkit.data.reference import DigitsReference; DigitsReference().open().digest", set()),
    "moments": ("from evalkit.data.moments import read_moments; read_moments(folder / 'm.npz')", set()),
    "scoring": (FINISHED_SCORES, set()),
}
RUNNER = """
import json, sys
from pathlib import Path
folder, imported = Path(sys.argv[1]), {}
for name, code, heavy in json.loads(sys.argv[2]):
    before = set(sys.modules)
    exec(code, {"folder": folder, "w": str(folder / "w.pth")})
    imported[name] = sorted(set(heavy) & (set(sys.modules) - before))
print(json.dumps(imported))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each of LIGHT imported that it may not, in one interpreter that ran all of them."""
    from evalkit.data.moments import write_moments

    folder = tmp_path_factory.mktemp("imports")
    (folder / "w.pth").touch()
    write_moments(folder / "m.npz", np.zeros(3), np.eye(3), n=9, features="x/y", extractor={})
    exec(FINISHED_SCORES, {"folder": folder})
    snippets = [(name, code, sorted(HEAVY | more)) for name, (code, more) in LIGHT.items()]
    command = [sys.executable, "-c", RUNNER, str(folder), json.dumps(snippets)]
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'helpers'}"
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", LIGHT)
def test_what_a_finished_run_does_imports_nothing_heavy(imported: dict[str, list[str]], name: str) -> None:
    assert imported[name] == []
