"""ImageReward: the rewards of the authors' own package on the same small random weights, and wrong files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from golden import RANDOM, Golden
from options import score_of
from seeded_reward import state, write_reward

from evalkit.errors import ConfigError
from evalkit.extractors.image_reward import ImageReward
from evalkit.utils.files import sha256_file

# What image-reward 1.5 gives for these weights, images and texts, each pair alone: its `ImageReward.score` on the CPU,
# run with transformers 4.40.2 and timm 0.6.13, `seeded_reward.state()` loaded, its tokenizer on the same vocabulary.
TEXTS = ("a red seven", "The cats on the mat, blue", "red " * 50)
REWARDS = (-0.08844124525785446, -0.15896302461624146, -0.25730767846107483)
REWARDS_OF_A = (-0.09503597021102905, -0.16311714053153992, -0.2367304414510727)


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((32, 32), (48, 40), (20, 64))]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    weights, vocab = write_reward(tmp_path_factory.mktemp("reward"))
    return str(weights), str(vocab)


@pytest.fixture(scope="module")
def extractor(files: tuple[str, str]) -> ImageReward:
    found = ImageReward("image_reward", *files)
    found.check()
    found.load("cpu")
    return found


def test_equals_the_authors_package(extractor: ImageReward, golden: Golden) -> None:
    """In one batch, padded and cut at 35 tokens: to 1e-5."""
    found = extractor(images(), TEXTS, ["score"])["score"]
    assert found.shape == (3, 1)
    assert found.flatten().tolist() == pytest.approx(REWARDS, abs=1e-5)
    source = "image-reward 1.5 run beforehand (test_image_reward.py says how), images and texts"
    mean = score_of("image_reward", found).value
    golden("image_reward", mean, sum(REWARDS) / 3, abs=1e-5, source=source, weights=RANDOM)
    of_a = extractor(images(), ["a"] * 3, ["score"])["score"]
    assert of_a.flatten().tolist() == pytest.approx(REWARDS_OF_A, abs=1e-5)


def test_long_prompts_are_counted(extractor: ImageReward) -> None:
    fits = "red " * 33  # 35 tokens with start and end
    assert extractor.prompt_warnings(["a", fits]) == {}
    assert extractor.prompt_warnings(["a", fits + "red", "red " * 50]) == {"prompt_truncated": 2}


def test_contract(extractor: ImageReward, files: tuple[str, str]) -> None:
    assert extractor.layers == {"score": 1}
    assert extractor.joint_layers == {"score"}
    digest = sha256_file(Path(files[0]))
    assert extractor.label() == f"image_reward:{digest[:8]}"
    assert not extractor.canonical()
    assert ImageReward("image_reward", *files, sha256=digest[:8]).label() == "image_reward"


def test_files_from_the_hub(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    found = {"ImageReward.pt": files[0], "vocab.txt": files[1]}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda repo, file, **k: found.get(file))
    shipped = ImageReward("image_reward", revision="abc")
    shipped.check()
    assert shipped.canonical()
    del found["vocab.txt"]
    with pytest.raises(ConfigError, match=r"vocab\.txt of .*bert.* give extractor\.image_reward\.vocab=FILE"):
        ImageReward("image_reward", download=False).check()


def test_wrong_files(files: tuple[str, str], tmp_path: Path) -> None:
    whole = state()
    cases = {
        "lacks 'mlp.layers.7.bias'": {n: v for n, v in whole.items() if n != "mlp.layers.7.bias"},
        "does not hold ImageReward: .*embeddings.patch_embedding.weight": {"mlp.layers.0.bias": torch.zeros(3)},
        "does not hold ImageReward: .*cls|class_embedding": {n: v for n, v in whole.items() if "cls_token" not in n},
    }
    for message, tensors in cases.items():
        torch.save(tensors, tmp_path / "wrong.pt")
        with pytest.raises(ConfigError, match=message):
            ImageReward("image_reward", str(tmp_path / "wrong.pt"), files[1]).load("cpu")
    with pytest.raises(ConfigError, match=r"no weights file .*gone\.pt \(extractor\.image_reward\.weights\)"):
        ImageReward("image_reward", str(tmp_path / "gone.pt"), files[1]).check()
    with pytest.raises(ConfigError, match="but 00000000 is asked for"):
        ImageReward("image_reward", *files, sha256="00000000").check()
