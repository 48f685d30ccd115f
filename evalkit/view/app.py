"""The pages: runs, a run, a cell's samples, one sample of all cells, an image. GET alone, for this machine alone."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from evalkit.errors import DataError
from evalkit.history.board_page import page_css
from evalkit.history.html import environment
from evalkit.history.registry import PastRun, Registry
from evalkit.results.headline import sentences
from evalkit.results.render import format_value, table_lines
from evalkit.utils.files import read_file, sha256_bytes
from evalkit.view.samples import Sample, image_of, samples_of

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

TEMPLATES = Path(__file__).parent / "templates"
HOSTS = ["127.0.0.1", "localhost"]  # a name that another page had resolved to this address is refused
PER_PAGE = 60
_POLICY = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; form-action 'self'; "
_REPORT_POLICY = "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Viewer:
    """What the pages show.

    Args:
        place: the folder with runs; it is looked through anew for each list of runs.
        also: further folders whose images may be shown.
    """

    def __init__(self, place: Path, also: Sequence[Path] = ()) -> None:
        self.place = place
        self.roots = [folder.resolve() for folder in (place, *also)]
        self._runs: dict[str, PastRun] = {}
        self.registry()

    def registry(self) -> Registry:
        """Looks through the folder."""
        registry = Registry.read(self.place)
        self._runs = {key_of(run): run for run in registry.runs}
        return registry

    def run(self, key: str) -> PastRun:
        """The run of an address; a KeyError where there is none."""
        if key not in self._runs:
            self.registry()
        return self._runs[key]


def key_of(run: PastRun) -> str:
    """What stands for a run in addresses: nothing of a path is read from these."""
    return sha256_bytes(str(run.path).encode())[:12]


def make_app(viewer: Viewer) -> Starlette:
    """The pages as an ASGI application."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.routing import Route

    routes: Mapping[str, Callable[[Viewer, Request], Response]] = {
        "/": _index,
        "/run/{run}": _run,
        "/run/{run}/cell/{cell:int}": _cell,
        "/run/{run}/sample/{index:int}": _sample,
        "/run/{run}/image/{cell:int}/{index:int}": _image,
        "/run/{run}/folder/{path:path}": _file,
    }
    return Starlette(
        routes=[Route(path, _endpoint(viewer, page), methods=["GET"]) for path, page in routes.items()],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)],
    )


def _endpoint(viewer: Viewer, page: Callable[[Viewer, Request], Response]) -> Callable[[Request], Awaitable[Response]]:
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import PlainTextResponse

    async def answer(request: Request) -> Response:
        if is_foreign(request):
            return PlainTextResponse("This page is for itself alone.", 403, ALWAYS)
        try:
            return await run_in_threadpool(page, viewer, request)
        except LookupError:
            return PlainTextResponse("There is no such page.", 404, ALWAYS)
        except (DataError, OSError, ValueError) as error:
            return PlainTextResponse(str(error), 404, ALWAYS)

    return answer


def is_foreign(request: Request) -> bool:
    """Whether another site's page asks, by an <img>, a script or a form; one may come from there by a link."""
    site, mode = (request.headers.get(f"sec-fetch-{name}", "") for name in ("site", "mode"))
    return site in ("cross-site", "same-site") and (mode != "navigate" or request.method != "GET")


def _html(template: str, **context: Any) -> Response:
    from starlette.responses import HTMLResponse

    text = environment(TEMPLATES).get_template(template).render(css=_css(), key_of=key_of, **context)
    policy = f"{_POLICY}base-uri 'none'; frame-ancestors 'none'"
    return HTMLResponse(text, headers={**ALWAYS, "Content-Security-Policy": policy})


@functools.cache
def _css() -> str:
    return page_css() + (TEMPLATES / "view.css").read_text(encoding="utf-8")


def _index(viewer: Viewer, request: Request) -> Response:
    registry = viewer.registry()
    words = request.query_params.get("q", "")
    runs = [run for run in registry.runs if all(word in _words_of(run) for word in words.lower().split())]
    return _html("index.html", registry=registry, runs=runs, q=words)


def _words_of(run: PastRun) -> str:
    return " ".join([run.name, str(run.table.run.get("name")), run.day, *run.table.cells]).lower()


def _run(viewer: Viewer, request: Request) -> Response:
    run = viewer.run(request.path_params["run"])
    about = run.table.run
    facts = {
        "made": f"{run.day} UTC",
        "host": run.made.get("host"),
        "commit": run.made.get("git"),
        "command": about.get("command"),
        "reference": about.get("reference"),
        "versions": ", ".join(f"{name} {version}" for name, version in (about.get("versions") or {}).items()),
        "file": str(run.path),
    }
    heads = [*run.table.grid[0], *(column.title for column in run.table.columns)]
    lines = [[_marked(text) for text in line] for line in table_lines(run.table, ("\x01", "\x02"))]
    samples = samples_of(run)
    return _html(
        "run.html",
        run=run,
        facts={name: value for name, value in facts.items() if value},
        said=sentences(run.table),
        heads=heads,
        lines=list(zip(run.table.cells, lines, strict=True)),
        notes=run.table.footnotes(),
        report=run.path.with_name("report.html").is_file(),
        missing=samples if isinstance(samples, str) else "",
    )


def _marked(text: str) -> tuple[str, bool]:
    """A cell of the table, and whether it is among the best."""
    return text.replace("\x01", "").replace("\x02", ""), "\x01" in text


def _cell(viewer: Viewer, request: Request) -> Response:
    run, number = viewer.run(request.path_params["run"]), request.path_params["cell"]
    name = run.table.cells[number]
    asked = request.query_params
    words, sort = asked.get("q", "").lower().split(), asked.get("sort", "")
    found = samples_of(run)
    if isinstance(found, str):
        raise DataError(found)
    every = found.get(name, [])
    metrics = list(dict.fromkeys(metric for sample in every for metric in sample.scores))
    shown = [s for s in every if all(word in f"{s.prompt} {s.category}".lower() for word in words)]
    metric = sort.lstrip("-")
    if metric in metrics:
        shown = [sample for sample in shown if metric in sample.scores]
        shown.sort(key=lambda sample: sample.scores[metric], reverse=sort.startswith("-"))
    pages = max(1, -(-len(shown) // PER_PAGE))
    page = min(max(1, int(asked.get("page", "1"))), pages)
    here = f"/run/{key_of(run)}/cell/{number}"

    def to(page: int) -> str:
        return f"{here}?{urlencode({'q': asked.get('q', ''), 'sort': sort, 'page': page})}"

    return _html(
        "cell.html",
        run=run,
        number=number,
        name=name,
        metrics=metrics,
        labels={row.metric: row.label for row in run.table.rows},
        q=asked.get("q", ""),
        sort=sort,
        page=page,
        pages=pages,
        count=len(shown),
        of=len(every),
        before=to(page - 1) if page > 1 else None,
        after=to(page + 1) if page < pages else None,
        samples=[_tile(sample) for sample in shown[(page - 1) * PER_PAGE : page * PER_PAGE]],
    )


def _tile(sample: Sample) -> dict[str, Any]:
    scores = {metric: format_value(value) for metric, value in sample.scores.items()}
    return {"sample": sample, "scores": scores}


def _sample(viewer: Viewer, request: Request) -> Response:
    run, index = viewer.run(request.path_params["run"]), request.path_params["index"]
    found = samples_of(run)
    if isinstance(found, str):
        raise DataError(found)
    tiles, last = [], 0
    for number, cell in enumerate(run.table.cells):
        samples = found.get(cell, [])
        last = max(last, len(samples) - 1)
        if index < len(samples):
            tiles.append({"number": number, "name": cell, **_tile(samples[index])})
    if not tiles:
        raise LookupError(index)
    labels = {row.metric: row.label for row in run.table.rows}
    return _html("sample.html", run=run, index=index, last=last, tiles=tiles, labels=labels)


def _image(viewer: Viewer, request: Request) -> Response:
    from starlette.responses import Response

    run, about = viewer.run(request.path_params["run"]), request.path_params
    found = samples_of(run)
    if isinstance(found, str):
        raise DataError(found)
    sample = found[run.table.cells[about["cell"]]][about["index"]]
    data, kind = image_of(sample, run, viewer.roots)
    return Response(data, media_type=kind, headers={**ALWAYS, "Content-Security-Policy": "default-src 'none'"})


def _file(viewer: Viewer, request: Request) -> Response:
    """report.html and the pictures that it names, from the run's own folder."""
    from starlette.responses import Response

    run = viewer.run(request.path_params["run"])
    folder = run.path.parent.resolve()
    path = (folder / request.path_params["path"]).resolve()
    if not path.is_relative_to(folder) or not path.is_file():
        raise LookupError(path)
    if path == folder / "report.html":
        policy = f"{_REPORT_POLICY}base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        return Response(
            path.read_bytes(), media_type="text/html", headers={**ALWAYS, "Content-Security-Policy": policy}
        )
    if path.suffix not in (".png", ".jpg", ".jpeg", ".webp"):
        raise LookupError(path)
    kind = f"image/{path.suffix[1:].replace('jpg', 'jpeg')}"
    return Response(
        read_file(path), media_type=kind, headers={**ALWAYS, "Content-Security-Policy": "default-src 'none'"}
    )
