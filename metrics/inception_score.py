"""Inception Score: exp(E KL(p(y|x) || p(y))) over a classifier's logits, mean over splits.

Salimans et al. 2016, arXiv:1606.03498. Conventions of torch-fidelity 0.4.0 (`metric_isc.py`): Inception's logits
without bias, shuffled by RandomState(2020), 10 splits [iN/10, (i+1)N/10), float64, spread over splits with ddof=0.
"""

from __future__ import annotations

from typing import Any

from evalkit.metric import Batch, Rows, SampleMetric, Score


class InceptionScore(SampleMetric):
    """1 (one class, or no certainty) to the number of classes; higher is better."""

    title = "IS"
    better = "higher"

    def __init__(self, features: str = "inception/logits_unbiased", splits: int = 10, seed: int = 2020) -> None:
        self.needs = (features,)
        self.splits = splits
        self.seed = seed
        self.min_samples = max(splits, 2)

    def constants(self) -> dict[str, Any]:
        return {"estimator": "inception score", "splits": self.splits, "shuffle": f"RandomState({self.seed})"}

    def observe(self, batch: Batch) -> Rows:
        return Rows(batch.index, {"logits": batch.features[self.needs[0]]})  # f32 [B,C]

    def score(self, *, generated: Rows) -> Score:
        import numpy as np

        n = len(generated)
        order = np.random.RandomState(self.seed).permutation(n)
        logits = generated["logits"][order].double()  # f64 [N,C]
        p, log_p = logits.softmax(1), logits.log_softmax(1)
        scores = []
        for i in range(self.splits):
            part = slice(i * n // self.splits, (i + 1) * n // self.splits)
            kl = (p[part] * (log_p[part] - p[part].mean(0, keepdim=True).log())).sum(1)  # [N/splits]
            scores.append(float(kl.mean().exp()))
        return Score(float(np.mean(scores)), n, details={"std": float(np.std(scores)), "splits": float(self.splits)})
