"""Does a sample show the subject? Its cosine with the subject's real images: CLIP-I and DINO of DreamBooth.

Ruiz et al. 2023, arXiv:2208.12242: the mean pairwise cosine between embeddings of generated and of real images, by CLIP
ViT-B/32 (CLIP-I) and DINO ViT-S/16, next to a row "real images": the same among the subject's own. Copies of a training
image score best of all, so the share of samples that lie nearer to a real image than real ones to one another is told.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from evalkit.metric import Batch, ReferenceMetric, Rows, Score, cluster_ids, mean_score

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(eq=False)
class SubjectSimilarity(ReferenceMetric[Rows]):
    """-1 to 1, higher is more alike; what real images of one subject have among themselves stands in the note.

    The reference holds a folder per subject (`reference.folder.categories=folder`), and a prompt's `category` names its
    sample's. A reference without categories is of one subject, that of all samples.

    Args:
        features: the address of the embeddings, f32 [B,D].
        title: how the score is called.
        copy: the cosine with a real image above which a sample counts as its copy; none: the greatest between two
            different real images of the subject.
    """

    features: str = "clip_vit_b32/image"
    title: str = "CLIP-I"
    copy: float | None = None

    better = "higher"
    needs = (features,)
    per_sample = True
    by_category: ClassVar[bool] = True
    sides: ClassVar[tuple[str, ...]] = ("reference",)

    def __post_init__(self) -> None:
        if self.copy is not None and not -1 <= self.copy <= 1:
            raise ValueError(f"copy={self.copy}: give a cosine, -1 to 1, or null")
        self.needs = (self.features,)

    def constants(self) -> dict[str, Any]:
        copy = "the greatest between real images" if self.copy is None else self.copy
        return {"estimator": "mean over samples of the mean cosine with the subject's images", "copy": copy}

    def observe(self, batch: Batch) -> Rows:
        import torch
        from torch.nn.functional import normalize

        x = normalize(batch.features[self.features].double(), dim=1)  # f64 [B,D]
        names = list(batch.categories) or [None] * len(batch.index)
        # a category's digest; -1 without one
        subject = torch.tensor([max(number, -1) for number in cluster_ids(names, batch.index.tolist())])
        return Rows(batch.index, {"x": x, "subject": subject}, batch.clusters)

    def score(self, *, generated: Rows, reference: Rows) -> Score:
        import torch

        x, real = generated["x"], reference["x"]
        subject, of_real = generated["subject"], reference["subject"]
        if bool((of_real == -1).all()):
            if len(torch.unique(subject)) > 1:
                fix = "reference.folder.categories=folder takes an image's folder for its subject"
                raise ValueError(f"the samples are of several subjects, and no reference image has a category: {fix}")
            subject, of_real = torch.zeros_like(subject), torch.zeros_like(of_real)
        each, nearest = torch.zeros(len(x), dtype=x.dtype), torch.zeros(len(x), dtype=x.dtype)
        among, most = each.clone(), each.clone()  # of each sample's subject: among its real images, mean and greatest
        for one in torch.unique(subject):
            mine, theirs = (subject == one).nonzero()[:, 0], real[of_real == one]  # [M,D]
            if not len(theirs):
                self._refuse(generated, mine, int(one))
            cosines = x[mine] @ theirs.T  # f64 [n,M]
            each[mine], nearest[mine] = cosines.mean(1), cosines.max(1).values
            among[mine], most[mine] = _among(theirs)
        limit = most if self.copy is None else torch.full_like(most, self.copy)
        known = ~limit.isnan()  # a subject with one image has none to compare with
        details = {"copies": float((nearest > limit)[known].double().mean())} if bool(known.any()) else {}
        note = "a subject has a single real image: nothing to compare with"
        if not bool(among.isnan().any()):
            details["real"] = float(among.mean())
            note = f"real images of the subjects among themselves: {details['real']:.4f}"
        if details.get("copies"):
            note += f"; {details['copies']:.0%} of the samples lie nearer to a real image than those: copies?"
        return replace(mean_score(each, generated.clusters), details=details, note=note)

    def _refuse(self, generated: Rows, mine: Tensor, subject: int) -> None:
        first = int(generated.index[mine[0]])
        why = "has no category" if subject == -1 else "is of a category that is no folder of the reference"
        more = f" (and {len(mine) - 1} more)" if len(mine) > 1 else ""
        raise ValueError(
            f"sample {first}{more} {why}: a prompt's category names its subject, a folder of the reference"
        )


def _among(real: Tensor) -> tuple[float, float]:
    """Mean and greatest cosine between different rows of f64 [M,D]; NaN of a single one."""
    m = len(real)
    if m < 2:
        return float("nan"), float("nan")
    cosines = real @ real.T
    cosines.fill_diagonal_(float("-inf"))
    return float((real.sum(0).square().sum() - m) / (m * (m - 1))), float(cosines.max())
