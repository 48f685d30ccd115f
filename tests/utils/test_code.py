"""Digests of code: what counts, what does not, and that nothing is imported for it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, environment

from evalkit.utils import code
from evalkit.utils.code import class_digest, module_digest

FILES = {
    "__init__.py": "",
    "extractor.py": "from __future__ import annotations\nfrom .nets import deep as net\nfrom house.base import Base\n\n"
    "class Own(Base):\n    def late(self):\n        import house.late\n        from PIL import Image\n",
    "base.py": "class Base:\n    pass\n",
    "late.py": "import torch\nfrom house import (\n    other,\n)\n",
    "other.py": "VALUE = 1\n",
    "unused.py": "VALUE = 1\n",
    "nets/__init__.py": "",
    "nets/deep.py": "from . import deeper\n",
    "nets/deeper.py": "VALUE = 1\n",
}


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Somebody's own package, and a function that gives the digest of its class as a new process would."""
    for name, text in FILES.items():
        file = tmp_path / "house" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))

    def digest() -> str:
        for cached in (code._digest, code._read, code._file_of, code._version):
            cached.cache_clear()
        for name in [name for name in sys.modules if name.partition(".")[0] == "house"]:
            del sys.modules[name]
        return class_digest(importlib.import_module("house.extractor").Own)

    yield tmp_path / "house", digest
    for cached in (code._digest, code._read, code._file_of, code._version):
        cached.cache_clear()


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("__init__.py", "nets/__init__.py")])
def test_a_class_rests_on_its_bases_files_and_what_they_import(house: Any, name: str) -> None:
    folder, digest = house
    before = digest()
    assert digest() == before
    file = folder / name
    file.write_text(file.read_text() + "# edited\n")
    assert (digest() == before) == (name == "unused.py")


def test_it_rests_on_the_versions_of_what_it_imports(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, digest = house
    before, real = digest(), importlib.metadata.version
    versions = {"torch": real("torch"), "pillow": real("pillow"), "timm": "1"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions.get(name) or real(name))
    assert digest() == before
    versions["timm"] = "2"
    assert digest() == before  # it does not import timm
    major, minor, *_ = real("torch").split(".")
    versions["torch"] = f"{major}.{minor}.99+cu999"
    assert digest() == before  # a patch release
    versions["torch"] = f"{major}.{int(minor) + 1}.0"
    assert digest() != before
    versions |= {"torch": real("torch"), "pillow": real("pillow") + ".1"}
    assert digest() != before


@pytest.mark.parametrize(
    ("kind", "files"),
    [
        ("evalkit.extractors.digits:Digits", {"evalkit.digits.nets", "evalkit.extractors.resizing"}),
        ("evalkit.extractors.inception:Inception", {"evalkit.extractors.inception_net", "evalkit.extractors.resizing"}),
        ("evalkit.extractors.clip:Clip", {"evalkit.extractors.clip_convert"}),
        ("evalkit.extractors.lpips:Lpips", {"evalkit.extractors.lpips_net"}),
        ("evalkit.extractors.aesthetic:Aesthetic", {"evalkit.extractors.clip"}),
        ("evalkit.metrics.frechet:FrechetDistance", {"evalkit.numerics.gaussians", "evalkit.metric"}),
    ],
)
def test_what_evalkits_own_rest_on(kind: str, files: set[str]) -> None:
    module, _, name = kind.partition(":")
    modules = tuple(base.__module__ for base in getattr(importlib.import_module(module), name).__mro__)
    found, libraries = code._closure(tuple(m for m in modules if m.startswith("evalkit")))
    assert files <= set(found)
    assert not {name for name in found if name.startswith(("evalkit.utils", "evalkit.config", "evalkit.errors"))}
    assert "torch" in libraries


def test_a_class_of_an_interactive_session_has_a_digest() -> None:
    kinds = []
    for text in ("class A:\n    x = 1\n", "class A:\n    x = 1\n", "class B:\n    x = 1\n"):
        space = {"__name__": "nowhere"}
        exec(text, space)
        kinds.append(next(value for value in space.values() if isinstance(value, type)))
    assert class_digest(kinds[0]) == class_digest(kinds[1]) != class_digest(kinds[2])


def test_nothing_heavy_is_imported_for_it() -> None:
    lines = (
        "import sys; from evalkit.utils.code import class_digest, module_digest",
        "from evalkit.extractors.clip import Clip",
        "class_digest(Clip, 'evalkit.data.codec'); module_digest('evalkit.extractors.timm')",
        "assert not {'torch', 'numpy', 'PIL', 'open_clip', 'timm'} & set(sys.modules)",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, cwd=ROOT, env=environment())


def test_a_module_that_is_not_there_is_no_matter() -> None:
    assert module_digest("evalkit.data.codec") != module_digest("evalkit.nowhere")
