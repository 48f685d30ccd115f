"""Small metrics for tests of runs: named by `_target_`, as people's own are."""

from __future__ import annotations

from evalkit.metric import Batch, Rows, SampleMetric, Score


class Brightness(SampleMetric[Rows]):
    """The mean level of a sample's pixels, of a metric of single samples."""

    title = "brightness"
    better = "higher"
    per_sample = True

    def observe(self, batch: Batch) -> Rows:
        assert batch.images is not None
        return Rows(batch.index, {"level": batch.images.double().mean((1, 2, 3))})  # u8 [B,3,H,W] -> f64 [B]

    def score(self, *, generated: Rows) -> Score:
        level = generated["level"]
        return Score(float(level.mean()), len(level), float(level.std() / len(level) ** 0.5), tuple(level.tolist()))
