"""What judges' answers cost, from the scores that rest on them; and how far judges agree with known answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evalkit.extractors.base import Extractor
from evalkit.judges.calibration import in_words
from evalkit.numerics.judge_noise import SMALL
from evalkit.utils.devices import pick_device

if TYPE_CHECKING:
    from evalkit.results.rows import Outcome

COUNTS = ("calls", "unread", "sent", "received")  # details of a score that rests on a judge's answers
SHARE, ENOUGH = "judge_variance_share", "judge_repeats_enough"  # details where a question is asked several times
RUN = "judges"  # the key of a table's `run`

log = logging.getLogger(__name__)


def calibrations(extractors: Mapping[str, Extractor], device: str) -> dict[str, Any]:
    """{"judges": {name: calibration}}, for a table's `run`; of no judge with known answers {}.

    Answers that are stored are not asked for again.
    """
    found = {}
    for name, extractor in extractors.items():
        if extractor.calibrated:
            try:
                found[name] = extractor.calibrate(pick_device(device))
            finally:
                extractor.unload()
            log.info("%s", in_words(found[name]))
    return {RUN: found} if found else {}


def judge_notes(outcome: Outcome, run: Mapping[str, Any]) -> list[str]:
    """A note per judge: how it agrees with known answers; the answers behind the scores, their tokens, and how many
    could not be read."""
    totals: dict[str, dict[str, Mapping[str, float]]] = {}  # by judge and cell: metrics of one judge share its answers
    for (cell, name), scored in outcome.scored.items():
        details = scored.score.details
        if set(COUNTS) <= details.keys():
            judge = outcome.metrics[name].needs[0].partition("/")[0]
            totals.setdefault(judge, {})[cell] = details
    lines = [f"{in_words(each)}." for each in run.get(RUN, {}).values()]
    for judge, cells in totals.items():
        calls, unread, sent, received = (
            round(sum(each[name] * outcome.seeds.get(cell, 1) for cell, each in cells.items())) for name in COUNTS
        )
        tokens = f" ({sent:,} tokens sent, {received:,} received)" if sent else ""
        doubt = f"; {unread:,} could not be read, and count the lowest value" if unread else ""
        lines.append(f"{judge}: {calls:,} answers of the judge{tokens}{doubt}.")
    return lines + _noise_notes(outcome)


def _noise_notes(outcome: Outcome) -> list[str]:
    """A note per metric whose error is the judge's own to a part that counts."""
    lines = []
    for name in outcome.metrics:
        details = [scored.score.details for (_, other), scored in outcome.scored.items() if other == name]
        worst = max(details, key=lambda each: each.get(SHARE, 0.0), default={})
        if worst.get(SHARE, 0.0) > SMALL:
            enough = f": {worst[ENOUGH]:.0f} answers per sample would bring it to a tenth" if ENOUGH in worst else ""
            lines.append(
                f"{name}: up to {100 * worst[SHARE]:.0f} % of the squared standard error is the judge's own{enough}."
            )
    return lines
