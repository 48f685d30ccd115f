"""The ink styles: what a style does to a digit, and its reference."""

from __future__ import annotations

import numpy as np
import pytest

from evalkit.data.reference import DigitsReference
from evalkit.digits.data import STYLES, reference_digits, reference_images, styled
from evalkit.errors import ConfigError


def test_striped_ink_is_bold_and_has_gaps() -> None:
    grey, _ = reference_digits()
    plain = np.pad(grey[:200], ((0, 0), (2, 2), (2, 2)))
    images = styled(grey[:200], "striped")
    assert images.dtype == np.uint8
    inked = np.arange(32) // 4 % 2 == 0
    assert not images[:, ~inked].any()
    assert (images[:, inked] >= plain[:, inked]).all()
    assert images[:, inked].mean() > 1.3 * plain[:, inked].mean()
    dot = np.zeros((1, 32, 32), np.uint8)
    dot[0, 17, 9] = 255
    assert sorted(zip(*np.nonzero(styled(dot, "striped")[0]), strict=True)) == [
        (16, 9),
        (17, 8),
        (17, 9),
        (17, 10),
        (18, 9),
    ]
    with pytest.raises(ValueError, match="unknown style 'stripes'"):
        styled(grey, "stripes")


@pytest.mark.parametrize("style", STYLES)
def test_the_styles_reference_shows_the_same_digits_and_captions(style: str) -> None:
    plain, captions = reference_images()
    images, same = reference_images(style=style)
    assert same == captions
    assert images.shape == plain.shape
    assert (images != plain).any(axis=(1, 2, 3)).mean() > 0.99
    reference = DigitsReference(style)
    reference.check()
    assert (reference.open().read(range(3))[2] == images[2].transpose(1, 2, 0)).all()
    with pytest.raises(ConfigError, match=rf"no style '{style}s'. Did you mean '{style}'"):
        DigitsReference(f"{style}s").check()
