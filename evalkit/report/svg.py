"""matplotlib's SVG made fit to stand in a page: the page's colours and fonts, tooltips, ids that are unique."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup

from evalkit.report.run_folder import clean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that figures are drawn with stand for the page's CSS variables, which differ in light and dark.
INK, MUTED, LINE, PAPER = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#0500{number:02x}" for number in range(1, 9))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
_VARIABLES = {INK: "--ink", MUTED: "--muted", LINE: "--line", PAPER: "--paper"}
_VARIABLES |= {colour: f"--s{number}" for number, colour in enumerate(SERIES, 1)}

_STYLE: Any = {  # of matplotlib, whose type names every key
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "evalkit",  # the same figure is the same bytes
    "text.parse_math": False,  # a "$" in a name is a "$"
    **dict.fromkeys(("font.size", "axes.labelsize"), 10),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), 9),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("axes.linewidth", "xtick.major.width", "ytick.major.width"), 0.7),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("axes.grid", "axes.axisbelow", "axes.unicode_minus"), True),
    **{"grid.color": LINE, "grid.linewidth": 0.6, "lines.linewidth": 1.4, "lines.markersize": 5.5},
}


@contextmanager
def drawing() -> Iterator[None]:
    """Figures are made within it: the report's style, and no word on glyphs that matplotlib's font lacks."""
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def to_svg(figure: Figure, *, key: str, label: str, marks: Sequence[ElementTree.Element]) -> Markup:
    """A figure as an <svg> element.

    Args:
        figure: drawn in INK, MUTED, LINE, PAPER and SERIES only.
        key: unique in the page: ids begin with it.
        label: what a screen reader says of the figure.
        marks: elements to stand in it, over the axes, in 1/72 inch from the upper left.
    """
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    root = ElementTree.fromstring(out.getvalue())
    _strip(root)
    root.extend(marks)
    names = {old: f"{key}-{number}" for number, old in enumerate(sorted(_references(root)))}
    for element in root.iter():
        _restyle(element, names)
    _flatten(root)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"role": "img", "aria-label": clean(label)}
    text = ElementTree.tostring(root, encoding="unicode")
    return Markup(re.sub(r">\s+<", "><", text))


def _strip(root: ElementTree.Element) -> None:
    """Namespaces, metadata and the global style: an inline <svg> needs none, and the style would reach the page."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name in [name for name in element.attrib if name.startswith("{")]:
            element.attrib[name.rpartition("}")[2]] = element.attrib.pop(name)
    for parent in root.iter():
        for child in [c for c in parent if c.tag in ("metadata", "style")]:
            parent.remove(child)


def _flatten(parent: ElementTree.Element) -> None:
    """Takes out groups that say nothing, and what only they and other empty ones hold."""
    children = []
    for child in parent:
        _flatten(child)
        bare = child.tag == "g" and not child.attrib
        children += list(child) if bare else [child]
    parent[:] = [child for child in children if len(child) or child.tag not in ("g", "defs")]


def _references(root: ElementTree.Element) -> set[str]:
    values = " ".join(value for element in root.iter() for value in element.attrib.values())
    links = {element.attrib["href"][1:] for element in root.iter() if element.attrib.get("href", "").startswith("#")}
    return set(re.findall(r"url\(#([^)]+)\)", values)) | links


def _restyle(element: ElementTree.Element, names: dict[str, str]) -> None:
    """Colours, fonts and ids of one element."""
    old = element.attrib.pop("id", None)
    if old in names:
        element.attrib["id"] = names[old]
    for name, value in list(element.attrib.items()):
        if name == "href":
            value = f"#{names.get(value[1:], value[1:])}"
        elif name in ("style", "clip-path"):
            value = re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{names.get(m[1], m[1])})", value)
            value = re.sub(r"#[0-9a-f]{6}", lambda m: f"var({_VARIABLES.get(m[0], '--ink')})", value)
            value = re.sub(r"font: ([^;]*?)([\d.]+)px [^;]*", r"font-size: \2px", value)
            value = re.sub(r"font-family: [^;]*;? ?", "", value)
        if name in ("d", "x", "y", "transform", "width", "height", "style"):
            value = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", value)
        element.attrib[name] = " ".join(value.split()) if name == "d" else value
    if element.attrib.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    if element.tag == "text":
        element.text = clean(element.text or "")
