"""Who may import whom (DESIGN): data flows one way, and nothing heavy is imported before it is used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEAVES = {"errors", "paths", "devices"}  # may be imported from anywhere but metric.py
MATHS = {"gaussians", "blocks", "edges", "interpolation"}  # numerics that plugins share; they import nothing of ours
MODULES = {
    path.relative_to(ROOT / "evalkit").with_suffix("").as_posix().replace("/", "."): path
    for path in (ROOT / "evalkit").rglob("*.py")
}
PLUGINS = {f"metrics.{path.stem}": path for path in (ROOT / "metrics").glob("*.py")}


def imports_of(path: Path) -> set[str]:
    """Names below `evalkit` that a file imports when it runs (imports for type checking alone do not count)."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "evalkit":
                names |= {alias.name for alias in node.names}
            elif node.module.startswith("evalkit."):
                names.add(node.module.removeprefix("evalkit."))
        elif isinstance(node, ast.Import):
            names |= {a.name.removeprefix("evalkit.") for a in node.names if a.name.startswith("evalkit.")}
    return names


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def test_metric_imports_nothing_of_ours() -> None:
    assert imports_of(MODULES["metric"]) == set()


@pytest.mark.parametrize("plugin", sorted(PLUGINS))
def test_plugins_know_the_contract_alone(plugin: str) -> None:
    assert imports_of(PLUGINS[plugin]) <= {"metric", "errors", *MATHS}


@pytest.mark.parametrize("leaf", sorted(MATHS))
def test_shared_numerics_import_nothing_of_ours(leaf: str) -> None:
    assert imports_of(MODULES[leaf]) == set()


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m == "features" or below(m, "extractors")))
def test_features_and_extractors_know_little(module: str) -> None:
    allowed = {"metric", "features", *LEAVES}
    for name in imports_of(MODULES[module]):
        assert name in allowed or below(name, "extractors") or below(name, "digits"), f"{module} imports {name}"


def test_engine_knows_callables_only() -> None:
    assert imports_of(MODULES["engine"]) <= LEAVES


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nobody_imports_cli_nor_the_plugins(module: str) -> None:
    for name in imports_of(MODULES[module]):
        assert not below(name, "cli"), f"{module} imports cli"
        assert not below(name, "metrics"), f"{module} imports a plugin: only YAML names a metric"


@pytest.mark.parametrize("owner", ["samples", "table"])
def test_who_imports_the_stores(owner: str) -> None:
    allowed = {
        "samples": {
            "generate",
            "selfcheck",
            "scoring",
            "pipeline",
            "results",
            "reference",
            "readers",
            "samples",
            "lint.headers",
            "lint.prompts",
            "lint.run",
            "__init__",
            "models.folder",
        },
        "table": {"report", "gate", "track", "pipeline", "results", "render", "compare", "api", "cli", "__init__"},
    }[owner]
    users = {module for module, path in MODULES.items() if owner in imports_of(path)}
    others = sorted(user for user in users if not any(below(user, name) for name in allowed))
    assert not others, f"{others} import {owner}"


def test_help_and_config_import_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['evalkit', '--cfg', 'job']\n"
        "from evalkit.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'open_clip', 'pandas', 'scipy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "digits_ldm" in done.stdout
