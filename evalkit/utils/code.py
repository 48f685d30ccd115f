"""Digests of the code that a value rests on, so that an edited file or another release of a library finds no old value.

Nobody has to remember it: of the classes and modules given, the files are digested, and those of the modules that they
import, as far as these can change a value; of other packages that they import, the versions. Nothing is imported here,
and each file is read once per process.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from evalkit.utils.files import sha256_bytes, sha256_json

# Of evalkit's own modules only these can change a feature or a score; the others name, find, store and show them.
_VALUES = (
    *("evalkit.extractors", "evalkit.digits.nets", "evalkit.numerics", "evalkit.metric", "evalkit.metrics"),
    *("evalkit.judges.questions", "evalkit.judges.way", "evalkit.judges.ways", "evalkit.judges.ocr"),
    *("evalkit.data.codec", "evalkit.data.profiles", "evalkit.data.center_crop"),
)

# These hand values on (pixels, weights, files): none of them computes a feature or a score.
_CARRIERS = {"numpy", "safetensors", "fpng"}
# A patch release of these fixes bugs; a minor one may bring other kernels, whose sums round differently. Of all others
# every release counts: Pillow's wheels bring another libjpeg-turbo or libwebp with any of them, timm and open_clip
# change networks and how texts are cut.
_BY_MINOR = {"torch", "scipy"}
_DISTRIBUTIONS = {"PIL": "pillow", "open_clip": "open_clip_torch"}  # where the name differs; saves a search

# Statements of import, wherever they stand: parsing takes ten times as long. A docstring's "from x import y" passes for
# one as well, and costs nothing but a longer digest.
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+([.\w]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#;]+)|import[ \t]+([^\n#;]+))", re.M
)
_NAME = re.compile(r"(?:^|,|\()\s*([\w.]+)")


def class_digest(kind: type, *modules: str) -> str:
    """Digest of the code of a class and its bases, and of some modules."""
    return _digest(
        tuple(base for base in kind.__mro__ if base.__module__ not in ("builtins", "abc", "typing")), modules
    )


def module_digest(*modules: str) -> str:
    """Digest of the code of some modules, by their full names."""
    return _digest((), modules)


@functools.cache
def package_digest(package: str) -> str:
    """Digest of all modules of an imported package, wherever they lie."""
    root = Path(str(sys.modules[package].__file__)).parent
    files = sorted(root.rglob("*.py"))
    return sha256_json({path.relative_to(root).as_posix(): sha256_bytes(path.read_bytes()) for path in files})


@functools.cache
def _digest(kinds: tuple[type, ...], modules: tuple[str, ...]) -> str:
    start = dict.fromkeys(modules)
    sources: dict[str, str] = {}
    for kind in kinds:
        if _file_of(kind.__module__) is None:  # of an interactive session
            sources[kind.__qualname__] = _source_of(kind)
        start[kind.__module__] = None
    files, libraries = _closure(tuple(start))
    return sha256_json({"files": files, "classes": sources, "libraries": libraries})


def _closure(start: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Digests of the modules' files and of those that they import, and the versions of other packages."""
    files: dict[str, str] = {}
    libraries: dict[str, str] = {}
    own = {"evalkit", *(name.partition(".")[0] for name in start)}
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        file = _file_of(name)
        if name in files or file is None:
            continue
        files[name], imports = _read(file, name if file.name == "__init__.py" else name.rpartition(".")[0])
        for imported in imports:
            top = imported.partition(".")[0]
            version = None if top in own else _version(top)
            if version is not None:
                libraries[top] = version
            elif top != "evalkit" or any(imported == v or imported.startswith(f"{v}.") for v in _VALUES):
                own.add(top)
                waiting.append(imported)
    return files, {name: version for name, version in libraries.items() if version}


@functools.cache
def _read(file: Path, package: str) -> tuple[str, tuple[str, ...]]:
    """A file's digest, and the full names of what it imports: modules, and names in them that may be modules."""
    data = file.read_bytes()
    return sha256_bytes(data), tuple(dict.fromkeys(_imports(data.decode("utf-8", "replace"), package)))


def _imports(text: str, package: str) -> Iterator[str]:
    for base, names, plain in _IMPORT.findall(text):
        if base:
            level = len(base) - len(base.lstrip("."))
            parent = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            module = ".".join(filter(None, [*parent, base.lstrip(".")]))
            found = [module, *(f"{module}.{name}" for name in _NAME.findall(names))]
        else:
            found = _NAME.findall(plain)
        yield from (name for name in found if name.partition(".")[0] not in sys.stdlib_module_names)


@functools.cache
def _file_of(module: str) -> Path | None:
    """The file of a module's source; found below its package's folders, so that nothing is imported."""
    loaded = getattr(sys.modules.get(module), "__file__", None)
    if loaded is not None:
        return Path(loaded) if loaded.endswith(".py") and Path(loaded).is_file() else None
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # __main__ has none
        return None
    folders = getattr(sys.modules.get(top), "__path__", None) or (spec and spec.submodule_search_locations) or ()
    candidates = [Path(folder).joinpath(*inner) for folder in folders]
    if not inner and spec is not None and spec.origin:
        candidates.insert(0, Path(spec.origin).with_suffix(""))
    for path in candidates:
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    return None


def _source_of(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return kind.__qualname__


@functools.cache
def _version(top: str) -> str | None:
    """What counts of an installed package's version; "": nothing does, or it is not there; none: it has none."""
    if top in _CARRIERS:
        return ""
    try:
        version = importlib.metadata.version(_DISTRIBUTIONS.get(top, top))
    except importlib.metadata.PackageNotFoundError:
        if importlib.util.find_spec(top) is None:
            return ""
        distributions = importlib.metadata.packages_distributions().get(top)
        if not distributions:
            return None
        version = importlib.metadata.version(distributions[0])
    return ".".join(version.split("+")[0].split(".")[:2]) if top in _BY_MINOR else version
