"""The lint of a run: every cell and the reference, by themselves and next to one another."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from evalkit.data.moments import Moments
from evalkit.lint.cache import CacheEntry, Measured
from evalkit.lint.copies import check_copies
from evalkit.lint.finding import REFERENCE, SEVERITIES, Finding, lines, locations
from evalkit.lint.prompts import Asked, check_prompts
from evalkit.lint.rules import View, check_against, check_alone, check_asked_size, check_range, check_same
from evalkit.lint.watch import Watch

if TYPE_CHECKING:
    from evalkit.data.source import Headers, Source

log = logging.getLogger(__name__)

_UNLIKE = "are not what their metadata records (sha256): put them back, or write it anew"
_ALTERED = "are not the recorded ones (sha256): put them back, or delete their shard's folder to make it again"
_UNTRUE = "scores made from these files are not of the images that were generated: all metrics"


def lint(
    sources: Mapping[str, Source],
    reference: Source | Moments | None,
    *,
    watch: Watch,
    asked: Mapping[str, Asked] | None = None,
    made_from: Mapping[str, Mapping[str, Source]] | None = None,
) -> list[Finding]:
    """Looks over the sample sets and the reference. Findings stop nothing; unreadable files are logged at once.

    A set is decoded once, or evenly spread blocks of at most 4,096 images and a gigapixel of a larger one; what was
    measured is kept in the watch's cache by content, so that later runs read headers alone.

    Args:
        sources: each cell's images.
        reference: images, statistics (of which nothing can be told), or none.
        watch: the cache, and what was measured while the images were read for their features: the rest is decoded.
        asked: what the cells were asked for (`asked_of`).
        made_from: by cell and kind ("source", "control") the images that its samples were made from, one each.

    Returns:
        The most severe first; within a severity in the order of the cells, the reference last.
    """
    findings: list[Finding] = []
    views = [_view(name, source, watch, findings) for name, source in sources.items()]
    images = None if reference is None or isinstance(reference, Moments) else reference
    against = _view(REFERENCE, images, watch, findings) if images is not None else None
    texts = {view.name: frozenset(prompt for prompt in view.source.prompts if prompt is not None) for view in views}
    cells = Counter(texts.values())  # by what they show: hundreds of cells mostly show the same prompts
    for view in views:
        request, own = (asked or {}).get(view.name, Asked()), texts[view.name]
        others = [shown for shown, count in cells.items() if shown and (count > 1 or shown != own)]
        findings += check_alone(view)
        findings += check_asked_size(view, request.size)
        findings += check_prompts(view.name, view.source, request, others)
        findings += check_range(view, against)
        findings += check_copies(view.name, view.source, (made_from or {}).get(view.name, {}), watch.cache)
        findings += check_against(view, against) if against is not None else []
    findings += check_alone(against) if against is not None else []
    findings += check_same(views)
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _view(name: str, source: Source, watch: Watch, findings: list[Finding]) -> View:
    headers = source.headers()
    unlike = source.unlike_metadata()
    if unlike:
        findings.append(_unlike(name, source, unlike, _UNLIKE))
    return View(name, source, headers, _measure(name, source, headers, watch, findings))


def _measure(name: str, source: Source, headers: Headers, watch: Watch, findings: list[Finding]) -> Measured | None:
    """From the cache, else by decoding. Files that are not the recorded ones become a finding, logged at once."""
    entry = watch.entry(source.digest)
    now = headers.made.stamps() if headers.made is not None else []
    if entry is not None:
        if watch.rescan or entry.stamps != now:
            bad = headers.made.altered(() if watch.rescan else entry.stamps, now) if headers.made is not None else []
            if bad:
                _report(_unlike(name, source, bad, _ALTERED), findings)
            else:
                watch.keep(source.digest, CacheEntry(entry.measured, now))
        return entry.measured
    seen, unread = watch.scan_of(source, Counter(headers.sizes)).finish()
    if unread:
        indices = sorted(unread)
        if all("keep_images" in text for text in unread.values()):
            log.info("%s: of %d images the lint sees those alone that were kept (keep_images)", name, len(source))
        elif all("sha256" in text for text in unread.values()):
            _report(_unlike(name, source, indices, _ALTERED), findings)
        else:
            message = f"{len(indices)} files cannot be read: {unread[indices[0]]}"
            files = locations(source, indices)
            _report(Finding("damaged", "error", name, len(indices), files, message, _UNTRUE, len(source)), findings)
        return seen if seen.looked else None
    watch.keep(source.digest, CacheEntry(seen, now))
    return seen


def _unlike(name: str, source: Source, indices: list[int], words: str) -> Finding:
    message = f"{len(indices)} of {len(source)} files {words}"
    return Finding("checksum", "error", name, len(indices), locations(source, indices), message, _UNTRUE, len(source))


def _report(finding: Finding, findings: list[Finding]) -> None:
    """Scoring may stop at such a file before any result is printed."""
    findings.append(finding)
    for line in lines([asdict(finding)]):
        log.warning("%s", line)
