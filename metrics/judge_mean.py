"""The mean of a judge's score of each image (`evalkit.extractors.judge`), and what it rests on.

The judge's own noise: with k repeats per sample their mean is the sample's value, so that the standard error over
samples (clustered by prompt) holds the judge's variance already; `judge_variance_share` says how much of it that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from evalkit.metric import Batch, Better, Rows, SampleMetric, Score, mean_score
from evalkit.numerics.judge_noise import judge_noise

COUNTS = ("calls", "unread", "sent", "received")


class JudgeMean(SampleMetric[Rows]):
    """The mean of a judge's layer of width 1.

    `Score.details`: calls, answers that could not be read after all attempts ("unread"; each counts the lowest value of
    its scale), tokens sent and received; with repeats judge_variance_share, the share of the squared standard error
    that is the judge's own, and judge_repeats_enough, how many repeats bring it to a tenth; means of `further` layers.

    Args:
        judge: the extractor's name.
        layer: score, or a part of the way ("sc", "pq").
        title: how the score is called.
        needs_prompts: whether the questions are about the prompts.
        further: layers of width 1 whose means stand in the details, by name ("words").
    """

    title = "judge"
    better: Better = "higher"
    per_sample = True

    def __init__(
        self,
        judge: str = "judge",
        layer: str = "score",
        title: str | None = None,
        needs_prompts: bool = True,
        further: Sequence[str] = (),
    ) -> None:
        self.judge, self.further = judge, tuple(further)
        self.needs = tuple(f"{judge}/{each}" for each in (layer, "repeats", "calls", *self.further))
        self.needs_prompts = needs_prompts
        self.title = title or self.title
        self._of_score = layer == "score"

    def constants(self) -> dict[str, Any]:
        return {"estimator": "mean", "unread": "the scale's lowest value"}

    def observe(self, batch: Batch) -> Rows:
        x, repeats, calls, *more = (batch.features[address].double() for address in self.needs)  # [B,1], [B,k], [B,4]
        values = {"score": x[:, 0], "repeats": repeats, "calls": calls}
        values |= {name: each[:, 0] for name, each in zip(self.further, more, strict=True)}
        return Rows(batch.index, values, batch.clusters)

    def score(self, *, generated: Rows) -> Score:
        score = mean_score(generated["score"], generated.clusters)
        totals = generated["calls"].sum(0).tolist()
        details = dict(zip(COUNTS, totals, strict=True))
        details |= {name: float(generated[name].nanmean()) for name in self.further}
        noise = judge_noise(generated["repeats"].numpy(), score.stderr) if self._of_score and score.stderr else None
        if noise is not None:
            details["judge_variance_share"] = noise.share()
            if (enough := noise.enough()) is not None:
                details["judge_repeats_enough"] = float(enough)
        unread = int(details["unread"])
        note = f"{unread} answers could not be read, and count the lowest value" if unread else None
        return replace(score, details=details, note=note)
