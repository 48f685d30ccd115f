"""Autoencoders as reconstruction models: the real classes of diffusers, tiny, and the digits' own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLFlux2, AutoencoderTiny, VQModel

from evalkit.data.codec import encode_png
from evalkit.errors import ConfigError, DataError
from evalkit.models.base import Request
from evalkit.models.vae import VaeReconstruction

BLOCKS: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
}
LIGHT: dict[str, Any] = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
MAKERS: dict[str, Callable[[], Any]] = {
    "AutoencoderKL": lambda: AutoencoderKL(latent_channels=4, sample_size=16, **BLOCKS),
    "AutoencoderKLFlux2": lambda: AutoencoderKLFlux2(latent_channels=4, layers_per_block=1, **BLOCKS),
    "VQModel": lambda: VQModel(latent_channels=3, num_vq_embeddings=16, **BLOCKS),
    "AutoencoderTiny": lambda: AutoencoderTiny(num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), **LIGHT),
    "AutoencoderDC": lambda: AutoencoderDC(
        latent_channels=8,
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        **LIGHT,
    ),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny autoencoder by class, with random weights. Do not change it."""
    root = tmp_path_factory.mktemp("autoencoders")

    def get(kind: str) -> Path:
        if not (root / kind).is_dir():
            torch.manual_seed(0)
            made = MAKERS[kind]()
            with torch.no_grad():  # else the random network's answers are all the same grey
                for parameter in made.parameters():
                    parameter.mul_(1.5)
            made.save_pretrained(root / kind)
        return root / kind

    return get


def pictures(n: int, height: int = 12, width: int = 16, seed: int = 0) -> list[np.ndarray]:
    """Smooth, u8 [height,width,3] each."""
    from PIL import Image

    coarse = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)) for image in coarse]


def write(folder: Path, images: list[np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        (folder / f"{i:03}.png").write_bytes(encode_png(image))
    return folder


def loaded(*args: Any, **options: Any) -> VaeReconstruction:
    model = VaeReconstruction(*args, **options)
    model.check()
    model.check_call(None, {})
    model.load("cpu")
    return model


def made(model: VaeReconstruction, *indices: int, **request: Any) -> np.ndarray:
    return model.generate([Request(i, 0, **request) for i in indices], sampler=None, settings={}).images


def by_hand(vae: Any, image: np.ndarray) -> np.ndarray:
    """diffusers' own way there and back: its image processor, encode, decode, its image processor."""
    from diffusers.image_processor import VaeImageProcessor
    from PIL import Image

    processor = VaeImageProcessor(do_resize=False)
    with torch.no_grad():
        encoded = vae.encode(processor.preprocess(Image.fromarray(image)))
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded[0]
        return np.asarray(processor.postprocess(vae.decode(latents).sample)[0])


@pytest.mark.parametrize("kind", MAKERS)
def test_each_class_there_and_back(saved: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    """As diffusers does it by hand, image by image; a batch changes nothing beyond floating point."""
    images = pictures(5)
    model = loaded(str(saved(kind)), images=str(write(tmp_path / "images", images)))
    found = made(model, 0, 1, 2, 3, 4)
    expected = np.stack([by_hand(model._vae, image) for image in images])
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert found.std() > 3, "the network answers with one grey"
    assert np.abs(made(model, 3).astype(int) - found[3]).max() <= 1
    assert np.abs(made(model, 4, 1).astype(int) - found[[4, 1]]).max() <= 1
    assert model.num_available() == 5
    model.unload()
    with pytest.raises(RuntimeError, match="load"):
        made(model, 0)


def test_the_posterior_is_drawn_by_each_samples_own_generator(saved: Callable[[str], Path], tmp_path: Path) -> None:
    images = str(write(tmp_path / "images", [pictures(1)[0]] * 3))  # one image: only the noise tells them apart
    model = loaded(str(saved("AutoencoderKL")), images=images, posterior="sample")
    found = made(model, 0, 1, 2)
    assert (found[0] != found[1]).any()
    assert np.abs(made(model, 2).astype(int) - found[2]).max() <= 1
    mode = loaded(str(saved("AutoencoderKL")), images=images)
    assert (made(mode, 0, 1)[0] == made(mode, 0, 1)[1]).all()
    assert model.identity() != mode.identity()


def test_the_images_that_prompts_name(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = write(tmp_path / "images", pictures(2))
    model = loaded(str(saved("AutoencoderKL")))
    assert (model.conditioning, model.num_available(), model.own_images("target", 2)) == ("text", None, None)
    from_folder = loaded(str(saved("AutoencoderKL")), images=str(folder))
    assert (made(model, 7, source=str(folder / "001.png"))[0] == made(from_folder, 1)[0]).all()
    with pytest.raises(DataError, match=r"prompt of sample 3 names no source image: .*source=COLUMN"):
        made(model, 3)


def test_each_reconstruction_belongs_to_its_own_image(saved: Callable[[str], Path], tmp_path: Path) -> None:
    """With `size` the images are those that the network was given; the reference of that size is the very same set."""
    from evalkit.data.reference import FolderReference

    wide, tall = pictures(2, 24, 40), pictures(2, 41, 25, seed=1)
    folder = write(tmp_path / "images", wide + tall)
    model = loaded(str(saved("AutoencoderKL")), images=str(folder), size=16)
    own = model.own_images("target", 4)
    assert own is not None
    assert made(model, 0, 1, 2, 3).shape == (4, 16, 16, 3)
    given = own.read(range(4))
    assert np.abs(made(model, 2)[0].astype(int) - by_hand(model._vae, given[2])).max() <= 1
    assert own.digest == FolderReference(folder, size=16).open().digest
    assert own.location(2) == str(folder / "002.png")
    first = model.own_images("source", 3)
    assert first is not None
    assert (len(first), first.digest) == (3, FolderReference(folder, size=16, num_samples=3).open().digest)
    assert model.own_images("control", 4) is None


def test_what_changes_a_pixel_is_in_the_identity(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = write(tmp_path / "images", pictures(3))
    other = write(tmp_path / "other", pictures(3, seed=1))
    path = str(saved("AutoencoderKL"))
    changes: list[dict[str, Any]] = [
        {},
        {"images": str(other)},
        {"size": 8},
        {"dtype": "bfloat16"},
        {"tiling": True},
        {"path": str(saved("VQModel"))},
    ]
    found = [VaeReconstruction(**{"path": path, "images": str(folder), **change}).identity() for change in changes]
    assert len({json.dumps(identity, sort_keys=True) for identity in found}) == len(changes)
    copy = write(tmp_path / "copy", pictures(3))
    assert VaeReconstruction(path, images=str(copy)).identity() == found[0], "content counts, not where it lies"


def test_bfloat16_and_tiles_are_near(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = str(write(tmp_path / "images", pictures(1)))
    plain, half, tiled = (
        made(loaded(str(saved("AutoencoderKL")), images=folder, **options), 0).astype(int)
        for options in ({}, {"dtype": "bfloat16"}, {"tiling": True})
    )
    assert 0 < np.abs(half - plain).mean() < 3
    assert np.abs(tiled - plain).max() <= 1  # smaller than a tile


def damaged(folder: Path, tmp_path: Path, change: Callable[[Path], Any]) -> str:
    import shutil

    shutil.copytree(folder, tmp_path / "damaged")
    change(tmp_path / "damaged")
    return str(tmp_path / "damaged")


def other_class(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DModel"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), r"config\.json is missing; give a folder that save_pretrained wrote"),
        (other_class, r"UNet2DModel is no autoencoder of images that is known: AutoencoderKL, "),
        (lambda f: next(f.glob("*.safetensors")).rename(f / "model.bin"), r"only pickled weights \(model\.bin\)"),
    ],
)
def test_weights_that_cannot_be_used(
    saved: Callable[[str], Path], tmp_path: Path, change: Callable[[Path], Any], message: str
) -> None:
    path = damaged(saved("AutoencoderKL"), tmp_path, change)
    with pytest.raises(ConfigError, match=message) as caught:
        VaeReconstruction(path).check()
    assert "\n" not in str(caught.value)


def test_broken_weights(saved: Callable[[str], Path], tmp_path: Path) -> None:
    def cut(folder: Path) -> None:
        file = next(folder.glob("*.safetensors"))
        file.write_bytes(file.read_bytes()[:-100])

    with pytest.raises(DataError, match=r"its end is missing .*: get it again"):
        VaeReconstruction(damaged(saved("AutoencoderKL"), tmp_path, cut)).check()


def test_what_is_refused_before_the_first_sample(saved: Callable[[str], Path], tmp_path: Path) -> None:
    path = str(saved("AutoencoderKL"))
    odd = write(tmp_path / "odd", pictures(2, 13, 16))
    with pytest.raises(ConfigError, match=r"images of 16x13, but .* multiples of 2: size=PIXELS resizes them"):
        VaeReconstruction(path, images=str(odd)).check()
    mixed = write(tmp_path / "mixed", [*pictures(1), *pictures(1, 16, 16)])
    with pytest.raises(DataError, match="images of different sizes"):
        VaeReconstruction(path, images=str(mixed)).check()
    with pytest.raises(ConfigError, match="pipeline the autoencoder is subfolder=vae"):
        VaeReconstruction("pkg://evalkit.digits/weights/ldm").check()
    with pytest.raises(ConfigError, match="VQModel knows no tiling: set tiling: false"):
        VaeReconstruction(str(saved("VQModel")), tiling=True).check_call(None, {})
    for wrong, message in (
        ({"dtype": "float8"}, "dtype 'float8' is not known"),
        ({"posterior": "mean"}, "posterior 'mean' is not known. Choices: mode, sample"),
        ({"size": 16}, "size goes with images=PATH"),
        ({"images": "no/such/folder"}, "no/such/folder"),
        ({"images": str(odd), "size": 0}, "size=0: give a whole number >= 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            VaeReconstruction(path, **wrong).check()  # type: ignore[arg-type]


def test_a_hub_id_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = VaeReconstruction("madebyollin/taesd", images=str(write(tmp_path / "images", pictures(1))))
    with pytest.raises(ConfigError, match=r"'madebyollin/taesd' \(revision main\) is not in the cache"):
        model.check()
    assert model.identity()["weights"] == {"hub": "madebyollin/taesd", "revision": "main", "subfolder": None}


def test_prompts_of_different_sizes_in_a_batch(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = write(tmp_path / "images", [*pictures(1), *pictures(1, 16, 16)])
    model = loaded(str(saved("AutoencoderKL")))
    requests = [Request(i, 0, source=str(folder / f"{i:03}.png")) for i in range(2)]
    with pytest.raises(DataError, match=r"images of different sizes \(16x12, 16x16\): resize them to one"):
        model.generate(requests, sampler=None, settings={})


def test_the_digits_own_autoencoder() -> None:
    """Trained to reconstruct: far nearer to its own image than to the next one."""
    images: Any = {"_target_": "evalkit.data.reference.DigitsReference"}
    model = loaded("pkg://evalkit.digits/weights/ldm", subfolder="vae", images=images)
    assert model.num_available() == 5000
    own = model.own_images("target", 32)
    assert own is not None
    given = np.stack(own.read(range(32))).astype(float)
    found = made(model, *range(32)).astype(float)
    error = np.square(found - given).mean(axis=(1, 2, 3))
    wrong = np.square(found - np.roll(given, 1, axis=0)).mean(axis=(1, 2, 3))
    assert 10 * np.log10(255**2 / error).mean() > 22  # dB
    assert (error < wrong / 5).all()
