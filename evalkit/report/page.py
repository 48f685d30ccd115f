"""The page itself: everything that the templates need, and one self-contained HTML text of it."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.report import (
    categories,
    fullsize,
    gallery,
    judges,
    modes,
    parity,
    plots,
    profile,
    ratings,
    summary,
    tables,
)
from evalkit.report.later import Later
from evalkit.report.run_folder import Run, clean, nearest_sheets, short
from evalkit.results import headline, thumbnails

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"
_PARTS = ("state", "theme", "table", "plots", "copy", "cards", "parity", "lightbox", "map", "xyz", "links")
SCRIPTS = tuple(f"{part}.js" for part in _PARTS)
_BLOCKS = (
    "table|caption|thead|tbody|tr|th|td|ul|ol|li|dl|dt|dd|div|figure|figcaption|details|select|option|section|svg|g"
)
MAX_SHEETS, SHEET_BYTES = 12, 60_000  # of nearest training images; of each without loss


def make_page(run: Run, mark: str) -> str:
    """The report as HTML; `mark` stands in its head."""
    table = tables.make_table(run)
    shown = gallery.make_gallery(run, [entry.cell for entry in table.entries])
    full = fullsize.full_size(run, shown)
    said = headline.headline(run.table, headline.winners(run.table))
    feature_map, pairs = modes.make_map(run), parity.make_parity(run)
    won, reference = headline.winners(run.table), run.file("reference.png")
    context = {
        "run": run,
        "keys": run.keys,
        "mark": mark,
        "name": str(run.table.run.get("name") or run.path.stem),
        "counted": summary.counted(run),
        "facts": summary.compared(run),
        "winners": won,
        "headline": said,
        "strip": summary.strip(run, won, said.cells),
        "series": headline.series_lines(run.table),
        "warnings": summary.warnings(run),
        "table": table,
        "rows_shown": tables.PAGE,
        "later": Later(),
        "plots": plots.make_plots(run),
        "profile": profile.make_profile(run),
        "gallery": shown,
        "script_data": lambda later: (
            _script_data(run, table, shown, full, later, feature_map)
            | {"parity": pairs.script(run.keys) if pairs else None}
        ),
        "first_pictures": gallery.first_pictures(run, shown, said.cells),
        "reference": thumbnails.sheet(reference) if reference else None,
        "nearest": _nearest(run),
        "maps": categories.make_maps(run),
        "map": feature_map,
        "parity": pairs,
        "judges": judges.make_judges(run),
        "ratings": ratings.make_ratings(run),
        "voter_heads": ratings.VOTER_HEADS,
        "gate": tables.make_gate(run),
        "findings": tables.make_findings(run),
        "linted": isinstance(config := run.table.run.get("config"), dict) and bool(config.get("lint")),
        "provenance": tables.make_provenance(run),
        "css": palette() + _text("page.css"),
        "js": _script(),
        "js_hash": base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode(),
    }
    return _tight(_environment().get_template("page.html").render(context))


def _script_data(
    run: Run,
    table: tables.TableView,
    shown: gallery.Gallery,
    full: fullsize.FullSize,
    later: Later,
    feature_map: modes.MapView | str | None,
) -> dict[str, Any]:
    """What the page's script works with; what the templates kept back is known once they were rendered."""
    return {
        "rows": table.script(run.keys),
        "row_page": tables.PAGE,
        "gallery": shown.script(run.keys) | {"full": full.embedded, "files": full.linked},
        "names": {key: short(cell) for cell, key in run.keys.items()},
        "folds": later.folds,
        "lists": later.lists,
        "map": feature_map.script if isinstance(feature_map, modes.MapView) else None,
    }


def _script() -> str:
    """The page's one script: its parts share their names, and nothing of them is seen from outside."""
    return "".join(['"use strict";\n(() => {\n', *map(_text, SCRIPTS), "})();\n"])


def palette() -> str:
    """The colours that all of evalkit's pages share, light and dark, as CSS."""
    return _text("palette.css")


def _text(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@functools.cache  # the compiled templates stay in it
def _environment() -> jinja2.Environment:
    """Everything is escaped, and what HTML cannot hold is replaced, wherever a template shows a value."""
    import jinja2
    from markupsafe import Markup, escape

    def finalize(value: Any) -> Any:
        return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
    environment.filters["short"] = short
    environment.filters["minus"] = lambda text: str(text).replace("-", "−")
    environment.filters["title"] = lambda text: short(text, 40).replace(" ↓", "\u00a0↓").replace(" ↑", "\u00a0↑")
    environment.filters["breakable"] = lambda text: escape(text).replace("_", Markup("_<wbr>"))  # a long name wraps
    environment.filters["data"] = _data
    environment.filters["raw"] = Markup  # for this package's own CSS and script alone
    return environment


def _data(value: Any) -> Markup:
    """JSON for a <script>: of what HTML reads there only "<" matters, and in markup that "tojson" escapes all is."""
    from markupsafe import Markup

    return Markup(clean(json.dumps(value, ensure_ascii=False, separators=(",", ":"))).replace("<", "\\u003c"))


def _tight(page: str) -> str:
    """Without the lines' ends between blocks: each would be a node of the page."""
    return re.sub(rf"(</?(?:{_BLOCKS})\b[^<>]*>)\s+(?=</?(?:{_BLOCKS})\b)", r"\1", page)


def _nearest(run: Run) -> list[dict[str, Any]]:
    """The sheets of nearest training images, with captions."""
    labels = {row.metric: row.label for row in run.table.rows}
    sheets = []
    for cell, metric, path in nearest_sheets(run)[:MAX_SHEETS]:
        image = thumbnails.sheet(path, SHEET_BYTES)
        if image is not None:
            caption = f"{run.keys.get(cell, '')}  {short(cell)}: {short(labels.get(metric, metric), 40)}"
            sheets.append({"image": image, "caption": caption})
    return sheets
