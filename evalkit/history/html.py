"""Pages of templates: everything is escaped, what HTML cannot hold is replaced, scripts are named by their hash."""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.report.run_folder import clean, short

if TYPE_CHECKING:
    import jinja2


@functools.cache  # the compiled templates stay in it
def environment(folder: Path) -> jinja2.Environment:
    """Templates of a folder, and of this one's."""
    import jinja2
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent / "templates"]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=finalize,
    )
    made.filters["short"] = short
    made.filters["raw"] = Markup  # for this package's own CSS and scripts alone
    return made


def digest(script: str) -> str:
    """What a Content-Security-Policy calls a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
