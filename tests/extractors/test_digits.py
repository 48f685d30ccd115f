"""The classifier of the embedded digits as an extractor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from evalkit.errors import ConfigError
from evalkit.extractors.digits import Digits


@pytest.fixture(scope="module")
def extractor() -> Digits:
    found = Digits()
    found.check()
    found.load("cpu")
    return found


def digits(n: int) -> tuple[list[np.ndarray], list[int]]:
    from evalkit.digits.data import reference_images

    pixels, captions = reference_images()
    return [np.ascontiguousarray(x.transpose(1, 2, 0)) for x in pixels[:n]], [c.digit for c in captions[:n]]


def test_layers(extractor: Digits) -> None:
    images, labels = digits(64)
    found = extractor(images, [], ["features", "logits"])
    assert found["features"].shape == (64, 64)
    assert found["features"].dtype == torch.float32
    assert found["logits"].shape == (64, 10)
    assert int((found["logits"].argmax(1) == torch.tensor(labels)).sum()) >= 60
    assert extractor.layers == {"features": 64, "logits": 10}


def test_equals_the_classifier(extractor: Digits) -> None:
    from evalkit.digits.nets import load_classifier

    images, _ = digits(8)
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = load_classifier()(x)
    found = extractor(images, [], ["features", "logits"])
    for layer in found:
        torch.testing.assert_close(found[layer], expected[layer])


def test_other_sizes_are_resized(extractor: Digits) -> None:
    images, _ = digits(2)
    large = np.repeat(np.repeat(images[1], 2, 0), 2, 1)
    found = extractor([images[0], large], [], ["logits"])["logits"]
    assert found.shape == (2, 10)
    assert int(found[1].argmax()) == int(extractor(images, [], ["logits"])["logits"][1].argmax())


def test_labels_and_wrong_files(tmp_path: Path, extractor: Digits) -> None:
    assert extractor.label() == "digits"
    assert not extractor.canonical()
    with pytest.raises(ConfigError, match=r"no weights file .*extractor\.digits\.weights"):
        Digits(weights=str(tmp_path / "gone.safetensors")).check()
    with pytest.raises(ConfigError, match="but 00000000 is asked for"):
        Digits(sha256="00000000").check()
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    other = Digits(weights=str(tmp_path / "w.safetensors"))
    assert other.label().startswith("digits:")
    with pytest.raises(ConfigError, match="is not the digit classifier"):
        other.load("cpu")
