"""What the documentation's site is given beyond docs/*.md: pages of the root, and the configuration reference.

The reference is made of the options' YAML files and of the docstrings and constructors that their `_target_`s name,
each time the site is built. The code is read, never imported, so that the site is built without torch.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import griffe
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
GROUPS = {
    "model": "What makes the images, or where images that exist lie.",
    "sampler": "Schedulers of diffusers; each is swapped into the models that take one.",
    "prompts": "What is asked of the models, sample by sample.",
    "metric": "What is computed. What each number is and what it was checked against: [Metrics](../metrics.md).",
    "extractor": "Networks that give metrics their features. Only those that a metric needs are built.",
    "reference": "What samples are compared with; `reference@training=` takes the same options.",
    "engine": "Who does the work: this process, one per GPU, or [many machines](../scale.md).",
    "gate": "Rules on scores; how they are written and judged: [The gate](../gate.md).",
    "export": "The cells' images for other tools: [Exports](../formats.md#exports).",
    "tracker": "Where a finished run is pushed: [Trackers](../trackers.md).",
    "benchmark": "Published [benchmarks](../benchmarks/README.md): their prompts, questions and scores, by one word.",
    "experiment": "Whole runs, one for each [recipe](../recipes/README.md); `experiment=digits` is the default.",
}
# Keys that build an object or steer Hydra, not arguments of the constructor.
HYDRA_KEYS = {"_target_", "_args_", "_partial_", "_recursive_", "_convert_"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """MkDocs' hook: adds the generated pages."""
    for source, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=root_page((ROOT / source).read_text("utf-8"))))
    reference = Reference()
    for name, text in reference.pages().items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    for schema in sorted((ROOT / "evalkit" / "schemas").glob("*.json")):
        files.append(File.generated(config, f"schemas/{schema.name}", content=schema.read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """MkDocs' hook: links that climb out of docs/ to a page of the root lead to that page of the site."""
    up = "../" * page.file.src_uri.count("/")
    for source, name in ROOT_PAGES.items():
        markdown = markdown.replace(f"](../{up}{source}", f"]({up}{name}")
    return markdown


def root_page(text: str) -> str:
    """A page of the root as one of docs/: links are relative to docs/, those to files that are no pages become text."""
    text = re.sub(r"\[([^]]*)\]\((?:LICENSE|CITATION\.cff)\)", r"\1", text).replace("](docs/", "](")
    for source, page in ROOT_PAGES.items():
        text = text.replace(f"]({source}", f"]({page}")
    return text


@dataclass(frozen=True)
class Option:
    """One YAML file of a group: its name, the comment at its head, and the file's text below that."""

    name: str
    comment: str
    body: str
    values: Any = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Option:
        lines = path.read_text("utf-8").splitlines()
        head = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
        comment = " ".join(line.lstrip("# ") for line in lines[:head] if "@package" not in line)
        return cls(path.stem, comment, "\n".join(lines[head:]).strip("\n"), yaml.safe_load("\n".join(lines)))

    @property
    def target(self) -> str | None:
        option = self.values.get(self.name) if isinstance(self.values, dict) else None
        return option.get("_target_") if isinstance(option, dict) else None


class Reference:
    """The configuration reference: a page per group, and one of the run's own settings."""

    def __init__(self) -> None:
        options: Any = {"warnings": False}  # "a, b: see X" is one entry of our docstrings for two arguments
        loader = griffe.GriffeLoader(
            search_paths=[ROOT], docstring_parser=griffe.Parser.google, docstring_options=options
        )
        self._packages = {name: loader.load(name) for name in ("evalkit", "metrics")}
        loader.resolve_aliases()

    def pages(self) -> dict[str, str]:
        found = {folder.name for folder in (ROOT / "configs").iterdir() if folder.is_dir() and folder.name[0] != "_"}
        if found != set(GROUPS):
            raise PluginError(f"docs/hooks/site.py: GROUPS names {sorted(GROUPS)}, configs/ has {sorted(found)}")
        return {"index": self._settings(), **{group: self._group(group) for group in GROUPS}}

    def _settings(self) -> str:
        """The root's own settings, out of `RunConfig`."""
        root = self._packages["evalkit"]["config.schema.RunConfig"]
        texts = argument_texts(root)
        lines = [
            "# Settings of a run",
            "",
            "Given as `NAME=VALUE` on the command line, in an experiment, or in `settings=` of `evalkit.evaluate`.",
            "Every option below a group is set by its dotted key: `model.diffusers.guidance_scale=3`.",
            "`{sweep: [...]}` in place of a value makes an axis of the grid. `--cfg job` prints all that is in force.",
            "",
            *table(
                (p.name, p.annotation, plain(p.default), texts.get(p.name, ""))
                for p in root.parameters
                if p.name not in {"self", *GROUPS, "training"}
            ),
            "",
            "## Groups",
            "",
            *(f"- [`{group}`]({group}.md): {text}" for group, text in GROUPS.items()),
        ]
        return "\n".join(lines) + "\n"

    def _group(self, group: str) -> str:
        options = [Option.read(path) for path in sorted((ROOT / "configs" / group).glob("*.yaml"))]
        lines = [f"# {group}", "", GROUPS[group], ""]
        if group not in ("gate", "experiment", "benchmark"):
            names = " ".join(f"[`{option.name}`](#{option.name})" for option in options)
            lines += [f"`{group}=[NAME, ...]` chooses; `{group}.NAME.KEY=VALUE` sets. Options: {names}", ""]
        targets = list(dict.fromkeys(option.target for option in options))
        for target in targets:
            same = [option for option in options if option.target == target]
            if target:
                lines += self._target(group, target, same)
            for option in same:
                lines += [f"### {option.name} {{ #{option.name} }}", "", prose(option.comment), ""]
                lines += ["```yaml", option.body, "```", ""]
        return "\n".join(lines)

    def _target(self, group: str, target: str, options: list[Option]) -> list[str]:
        """The heading, docstring and arguments of what a `_target_` names."""
        cls = self._find(target)
        texts = argument_texts(cls)
        variadic = {griffe.ParameterKind.var_positional, griffe.ParameterKind.var_keyword}
        parameters = [p for p in cls.parameters if p.name != "self" and p.kind not in variadic]
        settings = call_settings(cls)
        if not any(p.kind in variadic for p in cls.parameters):
            for option in options:
                unknown = set(option.values[option.name]) - {p.name for p in parameters} - settings - HYDRA_KEYS
                if unknown - {"samplers", "latents", "threshold", "env"}:
                    raise PluginError(f"configs/{group}/{option.name}.yaml: {target} takes no {sorted(unknown)}")
        rows = [(p.name, p.annotation, p.default, texts.get(p.name, "")) for p in parameters]
        return [f"## {target.rpartition('.')[2]}", "", f"`{target}`", "", *docstring_texts(cls), *table(rows), ""]

    def _find(self, target: str) -> griffe.Class:
        package, _, path = target.removeprefix("evalkit.").partition(".")
        root = self._packages["metrics"] if package == "metrics" else self._packages["evalkit"][package]
        try:
            found = root[path]
        except KeyError as error:
            raise PluginError(f"_target_ '{target}': there is no such class") from error
        return found.final_target if found.is_alias else found


def lineage(cls: griffe.Class) -> list[griffe.Class]:
    """A class and those that it inherits from, as far as they are ours, nearest first."""
    return [cls, *(base for base in cls.mro() if isinstance(base, griffe.Class))]


def argument_texts(cls: griffe.Class) -> dict[str, str]:
    """What the docstrings say of each argument; one entry may name several, with commas between.

    "see `Base`" is answered by the base class itself.
    """
    texts: dict[str, str] = {}
    for owner in lineage(cls):
        for section in owner.docstring.parsed if owner.docstring else ():
            if section.kind in (griffe.DocstringSectionKind.parameters, griffe.DocstringSectionKind.attributes):
                for item in section.value:
                    for name in map(str.strip, item.name.split(",")):
                        if texts.get(name, "see `").startswith("see `"):
                            texts[name] = item.description
    return texts


def docstring_texts(cls: griffe.Class) -> list[str]:
    """The docstring's prose; its arguments are in the table."""
    sections = cls.docstring.parsed if cls.docstring else ()
    return [line for s in sections if s.kind is griffe.DocstringSectionKind.text for line in (s.value, "")]


def call_settings(cls: griffe.Class) -> set[str]:
    """The names in `call_settings`: YAML keys that go to `generate` instead of the constructor."""
    names: set[str] = set()
    for owner in lineage(cls):
        value = owner.members.get("call_settings")
        if value is not None and value.value is not None:
            names |= literals(str(value.value), owner)
            break
    return names


def literals(expression: str, owner: griffe.Class) -> set[str]:
    """The texts in an expression of sets, those of module constants that it names included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(expression, mode="eval")):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
        elif isinstance(node, ast.Attribute | ast.Name):
            constant = _constant(ast.unparse(node), owner)
            names |= literals(str(constant), owner) if constant is not None else set()
    return names


def _constant(name: str, owner: griffe.Class) -> Any:
    try:
        found = owner.module[name]
    except KeyError:
        return None
    found = found.final_target if found.is_alias else found
    return getattr(found, "value", None)


def table(rows: Any) -> list[str]:
    """Arguments as a Markdown table; nothing where there are none."""
    lines = [f"| `{name}` | {code(kind)} | {code(default)} | {prose(text)} |" for name, kind, default, text in rows]
    return ["| key | type | default | what |", "|---|---|---|---|", *lines] if lines else []


def plain(default: Any) -> str:
    """A dataclass field's default as YAML would have it: griffe gives its factory, called."""
    text = re.sub(r"^\(lambda: (.*)\)\(\)$", r"\1", str(default))
    return {"list()": "[]", "dict()": "{}"}.get(text, text)


def code(value: Any) -> str:
    return "" if value is None else f"`{value}`"


def prose(text: str) -> str:
    """A text on one line, safe within a table: outside of code, angles are no markup."""
    parts = re.sub(r"\s+", " ", text).strip().split("`")
    return "`".join(part if i % 2 else part.replace("|", "\\|").replace("<", "&lt;") for i, part in enumerate(parts))
