"""FID and IS of two folders by torch-fidelity and by evalkit, on the same files and the same weights file.

    python tests/bench/fidelity_folders.py FOLDER FOLDER [--weights FILE]

Without --weights, a seeded random file in the published format is made: it says nothing of the images' quality, but
both programs run the very same network. Prints one JSON object with both results, relative differences and seconds.

Give each folder more than 2,048 images: with fewer the covariances are singular, and torch-fidelity's eigenvalues of
their product bring rounding noise into its FID (8e-5 at 300 images; evalkit's value is the exact one there).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))  # tests/
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the checkout


def by_torch_fidelity(generated: Path, reference: Path, weights: Path) -> dict[str, float]:
    import torch
    import torch_fidelity

    found = torch_fidelity.calculate_metrics(
        input1=str(generated),
        input2=str(reference),
        fid=True,
        isc=True,
        cuda=torch.cuda.is_available(),
        cache=False,
        verbose=False,
        batch_size=32,
        feature_extractor_weights_path=str(weights),
    )
    return {
        "fid": found["frechet_inception_distance"],
        "is": found["inception_score_mean"],
        "is_std": found["inception_score_std"],
    }


def by_evalkit(generated: Path, reference: Path, weights: Path, store: Path) -> dict[str, float]:
    from evalkit.data.open import open_images
    from evalkit.extractors.inception import Inception
    from evalkit.metrics.frechet import FrechetDistance
    from evalkit.metrics.inception_score import InceptionScore
    from evalkit.samples.store import Store
    from evalkit.scoring import Against, score_sources

    results = score_sources(
        {"generated": open_images(generated)},
        metrics={"fid": ({}, FrechetDistance()), "is": ({}, InceptionScore())},
        extractors={"inception": Inception(weights=str(weights))},
        against=Against(open_images(reference)),
        store=Store(store),
    )
    fid, inception_score = results["generated", "fid"].score, results["generated", "is"].score
    assert fid.value is not None
    assert inception_score.value is not None
    return {"fid": fid.value, "is": inception_score.value, "is_std": inception_score.details["std"]}


def timed(call: Any, *arguments: Any) -> tuple[dict[str, float], float]:
    start = time.perf_counter()
    return call(*arguments), round(time.perf_counter() - start, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generated", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("--weights", type=Path, help="a .pth file of the FID Inception network")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = options.weights
        if weights is None:
            from seeded_inception import write_weights

            weights = Path(folder) / "seeded.pth"
            write_weights(weights)
        theirs, their_seconds = timed(by_torch_fidelity, options.generated, options.reference, weights)
        mine, my_seconds = timed(by_evalkit, options.generated, options.reference, weights, Path(folder) / "store")
    report = {
        "torch_fidelity": {**theirs, "seconds": their_seconds},
        "evalkit": {**mine, "seconds": my_seconds},
        "relative_difference": {name: abs(mine[name] / theirs[name] - 1) for name in theirs},
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
