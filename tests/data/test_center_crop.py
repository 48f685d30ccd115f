"""Images fitted to a square: by hand, what stays as it is, and whose digest is whose."""

from __future__ import annotations

import numpy as np
import pytest

from evalkit.data.arrays import ArrayImages
from evalkit.data.center_crop import CenterCropped, fit
from evalkit.errors import ConfigError


def test_the_middle_is_kept() -> None:
    """6x2, fitted to 2: nothing to resize; columns 2 and 3 stay. Upright likewise."""
    wide = np.arange(36, dtype=np.uint8).reshape(2, 6, 3)
    assert (fit(wide, 2) == wide[:, 2:4]).all()
    assert (fit(wide.transpose(1, 0, 2), 2) == wide.transpose(1, 0, 2)[2:4]).all()
    square = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    assert (fit(square, 5) == square).all()


@pytest.mark.parametrize("shape", [(7, 13), (13, 7), (100, 99), (3, 3), (1, 50)])
def test_every_image_comes_to_the_size_and_keeps_its_proportions(shape: tuple[int, int]) -> None:
    flat = np.full((*shape, 3), 77, np.uint8)
    assert (fit(flat, 8) == np.full((8, 8, 3), 77)).all()
    ramp = np.broadcast_to(np.linspace(0, 255, shape[1]).astype(np.uint8)[None, :, None], (*shape, 3))
    middle = fit(np.ascontiguousarray(ramp), 8)[:, 3:5].mean()
    assert middle == pytest.approx(127, abs=20)  # cut evenly on both sides


def test_as_a_source() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 10, 12, 3), dtype=np.uint8)
    plain = ArrayImages("set", pixels, ["a", "b", "c"])
    found = CenterCropped(plain, 4)
    assert [image.shape for image in found.read(range(3))] == [(4, 4, 3)] * 3
    assert (found.read(range(1, 2))[0] == fit(pixels[1], 4)).all()
    assert (len(found), list(found.prompts), found.location(2)) == (3, ["a", "b", "c"], "set[2]")
    assert len({plain.digest, found.digest, CenterCropped(plain, 5).digest, found.head(2).digest}) == 4
    assert found.digest == CenterCropped(ArrayImages("elsewhere", pixels), 4).digest
    digests = {source.chunk_digest(range(3)) for source in (plain, found, CenterCropped(plain, 5))}
    assert len(digests) == 3
    for wrong in (0, 2.5, True):
        with pytest.raises(ConfigError, match=r"size=.*: give a whole number >= 1"):
            CenterCropped(plain, wrong)  # type: ignore[arg-type]
