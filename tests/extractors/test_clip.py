"""open_clip models: open_clip's own results on a tiny model made by the test, truncated texts, and wrong weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import RANDOM, Golden
from options import score_of

from evalkit.errors import ConfigError
from evalkit.extractors import clip as clip_module
from evalkit.extractors.clip import WEIGHTS_NAME, Clip
from evalkit.extractors.clip_convert import MARK, tells_quick_gelu
from evalkit.utils.files import resolve_path

CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with seeded random weights, as open_clip saves one."""
    import open_clip
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("clip")
    preprocess = {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": preprocess}))
    torch.manual_seed(0)
    config = json.loads(json.dumps(CONFIG))
    net = open_clip.CLIP(**config)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, str(path / WEIGHTS_NAME))
    return path


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((32, 32), (48, 40), (20, 64))]


def load(folder: Path, **more: Any) -> Clip:
    extractor = Clip("tiny", f"local-dir:{folder}", **more)
    extractor.check()
    extractor.load("cpu")
    return extractor


def test_equals_open_clip(folder: Path) -> None:
    """Images of any size through open_clip's own transform; embeddings as the model gives them."""
    import open_clip
    from PIL import Image

    net, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    net.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    texts = ["a red seven", "a blue one on a green background"]
    with torch.no_grad():
        image = net.encode_image(torch.stack([preprocess(Image.fromarray(x)) for x in images()]))
        text = net.encode_text(tokenizer(texts))
    extractor = load(folder)
    torch.testing.assert_close(extractor(images(), [], ["image"])["image"], image)
    torch.testing.assert_close(extractor([], texts, ["text"])["text"], text)
    assert extractor.layers == {"image": 24, "text": 24, "image_unit": 24, "text_logit": 24}


def test_the_models_own_logits(folder: Path) -> None:
    """image_unit and text_logit: their product is what the network itself returns as logits."""
    import open_clip
    from PIL import Image

    net, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    net.eval()
    texts = ["a red seven", "a blue one on a green background", "three"]
    with torch.no_grad():
        net.logit_scale.fill_(3.3)
        pixels = torch.stack([preprocess(Image.fromarray(x)) for x in images()])
        image, text, scale = net(pixels, open_clip.get_tokenizer(f"local-dir:{folder}")(texts))
    expected = scale * (image * text).sum(1)
    extractor = load(folder)
    extractor._net.logit_scale.fill_(3.3)
    unit = extractor(images(), [], ["image_unit"])["image_unit"]
    logit = extractor([], texts, ["text_logit", "text"])["text_logit"]
    torch.testing.assert_close((unit * logit).sum(1), expected, rtol=1e-5, atol=1e-5)


def test_a_prefix_stands_before_each_text(folder: Path) -> None:
    plain, prefixed = load(folder), load(folder, prefix="A photo depicts ")
    found = prefixed([], ["a red seven"], ["text"])["text"]
    torch.testing.assert_close(found, plain([], ["A photo depicts a red seven"], ["text"])["text"])
    assert plain.identity() | {"prefix": "A photo depicts "} == prefixed.identity()
    eight = "red " * 8  # 10 of 12 tokens; with three more it is cut, and counted
    assert plain.prompt_warnings([eight]) == {}
    assert prefixed.prompt_warnings([eight]) == {"prompt_truncated": 1}


def test_resize_mode(folder: Path) -> None:
    """ "longest" shows the whole image between black borders, and is part of the identity."""
    shortest, longest = load(folder), load(folder, resize_mode="longest")
    assert shortest.identity() | {"resize_mode": "longest"} == longest.identity()
    wide = np.full((16, 64, 3), 200, np.uint8)
    framed = np.zeros((32, 32, 3), np.uint8)
    framed[12:20] = 200  # 64x16 -> 32x8, in the middle
    found = longest([wide], [], ["image"])["image"]
    torch.testing.assert_close(found, shortest([framed], [], ["image"])["image"], rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="resize_mode=tallest: Choices: longest, shortest, squash"):
        Clip("tiny", f"local-dir:{folder}", resize_mode="tallest")


def test_hpsv2(folder: Path, golden: Golden) -> None:
    """The preparation of hpsv2/src/open_clip/transform.py (ResizeMaxSize, written out) around open_clip's network."""
    import open_clip
    from PIL import Image
    from torchvision.transforms import functional as f

    def prepare(image: np.ndarray) -> torch.Tensor:
        shown = Image.fromarray(image)
        size = [round(side * 32 / max(shown.size)) for side in (shown.height, shown.width)]
        shown = f.resize(shown, size, f.InterpolationMode.BICUBIC)
        down, right = 32 - size[0], 32 - size[1]
        shown = f.pad(shown, [right // 2, down // 2, right - right // 2, down - down // 2], fill=0)
        return f.normalize(f.to_tensor(shown), [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])

    net = open_clip.create_model_and_transforms(f"local-dir:{folder}")[0].eval()
    texts = ["a red seven", "a blue one", "three"]
    with torch.no_grad():
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
        image, text, _ = net(torch.stack([prepare(x) for x in images()]), tokens)
    expected = 100 * (image * text).sum(1).mean()
    extractor = load(folder, resize_mode="longest")
    mine = extractor(images(), [], ["image"]) | extractor([], texts, ["text"])
    found = score_of("hpsv2", {"hpsv2/image": mine["image"], "hpsv2/text": mine["text"]}).value
    source = "hpsv2's preparation written out, open_clip's network, from images and texts"
    golden("hpsv2", found, expected, rel=1e-4, source=source, weights=RANDOM)


def test_a_training_checkpoint_of_half_precision(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of HPS v2.1's file: a .pt with 'state_dict', in float16, found by repository and file name."""
    import huggingface_hub
    import open_clip
    from safetensors.torch import load_file

    state = load_file(str(folder / WEIGHTS_NAME))
    file = tmp_path / "compressed.pt"
    torch.save({"epoch": 3, "state_dict": {name: value.half() for name, value in state.items()}}, file)
    (tmp_path / "tiny-half.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path / "tiny-half.json")
    monkeypatch.setattr(Clip, "_config", lambda self: CONFIG)
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda *a, **k: asked.append((*a, k["revision"])) or str(file)
    )
    extractor = Clip("hps", "tiny-half", repo="some/one", filename="compressed.pt", revision="abc", canonical=True)
    extractor.check()
    assert asked == [("some/one", "compressed.pt", "abc")]
    assert extractor.canonical()
    extractor.load("cpu")
    found = extractor([], ["a red seven"], ["text"])["text"]
    assert found.dtype == torch.float32
    expected = load(folder)([], ["a red seven"], ["text"])["text"]
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


def test_a_long_text_is_cut_with_its_end_token_and_counted(folder: Path) -> None:
    import open_clip

    extractor = load(folder)
    long = "red " * 30
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")([long, "red"])
    assert tokens.shape == (2, 12)
    end = int(tokens.max())
    assert int(tokens[0, -1]) == end
    assert extractor.prompt_warnings([long, "red", long + "blue", "red " * 10]) == {"prompt_truncated": 2}
    assert extractor.prompt_warnings(["red", "red " * 10]) == {}  # 10 tokens, start and end: just fits


def test_the_embedded_clip() -> None:
    """A Hugging Face tokenizer in the folder, the same code: knows its captions, cuts with the end token kept."""
    path = resolve_path("pkg://evalkit.digits/weights/clip")
    if not (path / WEIGHTS_NAME).is_file():
        pytest.skip("the embedded CLIP is not trained yet")
    from evalkit.digits.data import PROMPTS, reference_images

    extractor = Clip("digits_clip", "pkg://evalkit.digits/weights/clip", batch_size=64)
    extractor.check()
    assert extractor.label() == "digits_clip"
    extractor.load("cpu")
    pixels, captions = reference_images()
    shown = [np.ascontiguousarray(x.transpose(1, 2, 0)) for x in pixels[:64]]
    image = extractor(shown, [], ["image"])["image"]
    texts = [caption.text for caption in PROMPTS]
    text = extractor([], texts, ["text"])["text"]
    found = (torch.nn.functional.normalize(image) @ torch.nn.functional.normalize(text).T).argmax(1)
    right = sum(texts[i] == caption.text for i, caption in zip(found.tolist(), captions[:64], strict=True))
    assert right >= 56, f"{right} of 64 captions found among 560"
    tokenizer = extractor._tokenizer
    long = "red " * 100
    cut, short = tokenizer([long, "red"])
    assert int(cut[-1]) == int(short.max()), "the end token is the highest id"
    assert extractor.prompt_warnings([long, texts[0]]) == {"prompt_truncated": 1}


def test_weights_from_a_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An architecture by name and a weights file: labelled by the file's digest, unless its sha256 is given."""
    import open_clip

    (tmp_path / "tiny-arch.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path / "tiny-arch.json")
    monkeypatch.setattr(Clip, "_config", lambda self: CONFIG)
    file = folder / WEIGHTS_NAME
    extractor = Clip("tiny", "tiny-arch", pretrained=str(file), canonical=True)
    extractor.check()
    digest = extractor.identity()["weights"]
    assert extractor.label() == f"tiny:{digest[:8]}"
    assert not extractor.canonical()
    extractor.load("cpu")
    text = extractor([], ["a red seven"], ["text"])["text"]
    torch.testing.assert_close(text, load(folder)([], ["a red seven"], ["text"])["text"])
    known = Clip("tiny", "tiny-arch", pretrained=str(file), canonical=True, sha256=digest[:16])
    known.check()
    assert known.label() == "tiny"
    assert known.canonical()
    with pytest.raises(ConfigError, match=f"has sha256 {digest[:8]}..., but 12345678 is asked for"):
        Clip("tiny", "tiny-arch", pretrained=str(file), sha256="12345678").check()


@pytest.fixture
def named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Clip]:
    """Extractors of a tiny architecture that open_clip knows by name, with and without QuickGELU, as ViT-L-14 is."""
    import open_clip

    configs = {"tiny-both": CONFIG, "tiny-both-quickgelu": CONFIG | {"quick_gelu": True}}
    for name, config in configs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / f"{name}.json")
    monkeypatch.setattr(Clip, "_config", lambda self: configs[self.model])
    monkeypatch.setattr(clip_module, "_architectures", lambda: set(configs))

    def make(file: Path, model: str = "tiny-both", **more: Any) -> Clip:
        return Clip("tiny", model, pretrained=str(file), resize_mode="shortest", **more)

    return make


def values(extractor: Clip) -> torch.Tensor:
    extractor.check()
    extractor.load("cpu")
    return extractor([np.full((32, 32, 3), 99, np.uint8)], ["a seven"], ["image"])["image"]


class OpenAI(torch.nn.Module):
    """A file as OpenAI's: a TorchScript archive of the weights, in half precision, and three numbers."""

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        numbers = {"input_resolution": 32, "context_length": 12, "vocab_size": 49408}
        for name, value in {**state, **{k: torch.tensor(v) for k, v in numbers.items()}}.items():
            module: torch.nn.Module = self
            *path, last = name.split(".")
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = getattr(module, part)
            module.register_buffer(last, value.half() if value.is_floating_point() else value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.filterwarnings("ignore")  # torch's, that TorchScript is of yesterday
def test_openais_own_file_gets_quick_gelu(folder: Path, named: Callable[..., Clip], tmp_path: Path) -> None:
    """Whatever the model is called: with GELU the aesthetic predictor's own example scores 4.4425, not 5.0491."""
    from safetensors.torch import load_file

    state = load_file(folder / WEIGHTS_NAME)
    file = tmp_path / "ViT-tiny.pt"
    torch.jit.save(torch.jit.script(OpenAI(state)), file)  # type: ignore[no-untyped-call]
    halves = tmp_path / "halves.pt"
    torch.save({name: v.half().float() if v.is_floating_point() else v for name, v in state.items()}, halves)
    right = values(named(halves, "tiny-both-quickgelu"))
    wrong = values(named(halves, quick_gelu=False))
    assert not torch.allclose(right, wrong, atol=1e-3)
    for model in ("tiny-both", "tiny-both-quickgelu"):
        torch.testing.assert_close(values(named(file, model)), right)
    assert named(file).identity()["quick_gelu"] is True
    torch.testing.assert_close(values(named(file, quick_gelu=False)), wrong)  # who asks for it gets it


def test_a_file_that_does_not_tell_is_refused(folder: Path, named: Callable[..., Clip]) -> None:
    file = folder / WEIGHTS_NAME
    for read in (lambda clip: clip.check(), lambda clip: clip.identity(), lambda clip: clip.load("cpu")):
        with pytest.raises(
            ConfigError, match=r"does not tell whether it has QuickGELU: give extractor\.tiny\.quick_gelu="
        ):
            read(named(file))
    right = values(named(file, "tiny-both-quickgelu"))
    torch.testing.assert_close(values(named(file, quick_gelu=True)), right)
    assert not torch.allclose(values(named(file, quick_gelu=False)), right, atol=1e-3)


@pytest.mark.parametrize(("config", "expected"), [({}, True), ({"hidden_act": "gelu"}, False)])
def test_transformers_config_tells_it(config: dict[str, Any], expected: bool, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({MARK: torch.zeros(2, 2)}, str(tmp_path / "model.safetensors"))
    assert tells_quick_gelu(tmp_path / "model.safetensors") is None
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": config}))
    assert tells_quick_gelu(tmp_path / "model.safetensors") is expected


def test_one_of_several_state_dicts(folder: Path, named: Callable[..., Clip], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(folder / WEIGHTS_NAME)
    torch.save({"model": {k: torch.zeros_like(v) for k, v in state.items()}, "ema": state}, tmp_path / "all.pt")
    chosen = values(named(tmp_path / "all.pt", "tiny-both-quickgelu", weights_key="ema"))
    torch.testing.assert_close(chosen, values(named(folder / WEIGHTS_NAME, "tiny-both-quickgelu")))


def test_quick_gelu_is_part_of_the_network_and_of_the_identity(folder: Path) -> None:
    plain, quick = load(folder), load(folder, quick_gelu=True)
    assert plain.identity() != quick.identity()
    assert not torch.equal(plain(images(), [], ["image"])["image"], quick(images(), [], ["image"])["image"])


@pytest.mark.parametrize("name", ["clip_vit_b32", "clip_vit_b32_hessel", "clip_vit_l14", "aesthetic"])
def test_the_shipped_options_are_what_open_clip_knows(name: str) -> None:
    """OpenAI's weights want QuickGELU: open_clip only warns of an architecture without it, and scores wrongly."""
    import open_clip
    from omegaconf import OmegaConf

    option = OmegaConf.load(Path(__file__).resolve().parents[2] / "configs" / "extractor" / f"{name}.yaml")[name]
    tag = open_clip.pretrained.get_pretrained_cfg(option.model, option.pretrained)
    assert tag["hf_hub"].rstrip("/") == option.repo
    assert tag["quick_gelu"] == open_clip.get_model_config(option.model)["quick_gelu"]


def shipped(**more: Any) -> Clip:
    repo = "timm/vit_base_patch32_clip_224.openai"
    return Clip("clip_vit_b32", "ViT-B-32-quickgelu", pretrained="openai", repo=repo, **more)


@pytest.mark.parametrize("download", [True, False])
def test_weights_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, download: bool) -> None:
    import huggingface_hub

    def refuse(*args: object, **options: object) -> str:
        assert download, "must not try"
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args, **options: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(ConfigError) as caught:
        shipped(download=download).check()
    message = str(caught.value)
    assert "\n" not in message
    for part in (WEIGHTS_NAME, "timm/vit_base_patch32_clip_224.openai", "extractor.clip_vit_b32.pretrained=FILE"):
        assert part in message
    assert ("ConnectionError" if download else "download=false") in message


def test_weights_in_the_hub_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: str(folder / WEIGHTS_NAME))
    extractor = shipped(canonical=True)
    extractor.check()
    assert extractor.label() == "clip_vit_b32"
    assert extractor.canonical()
    with pytest.raises(ConfigError, match=r"model 'ViT-B-32-quickgelu' cannot be loaded from"):
        shipped().load("cpu")  # the tiny model's weights do not fit


def test_wrong_names_and_missing_files(tmp_path: Path, folder: Path) -> None:
    cases = {
        r"knows no model 'ViT-B-33'. Did you mean 'ViT-B-32'": Clip("c", "ViT-B-33", pretrained="openai"),
        r"no weights: give extractor\.c\.pretrained=TAG or FILE": Clip("c", "ViT-B-32"),
        r"'opnai' is neither a file nor a tag of 'ViT-B-32'. Did you mean 'openai'": Clip("c", "ViT-B-32", "opnai"),
        r"no weights file .*gone\.pt \(extractor\.c\.pretrained\)": Clip("c", "ViT-B-32", str(tmp_path / "gone.pt")),
        r"there is no .*open_clip_config\.json": Clip("c", f"local-dir:{tmp_path}"),
        r"fetch it yourself \(hf download someone/model": Clip("c", "hf-hub:someone/model"),
    }
    for message, extractor in cases.items():
        with pytest.raises(ConfigError, match=message):
            extractor.check()
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    with pytest.raises(ConfigError, match=rf"no weights in .*: put {WEIGHTS_NAME} there"):
        Clip("c", f"local-dir:{tmp_path}").check()
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is not JSON with a 'model_cfg'"):
        Clip("c", f"local-dir:{tmp_path}").check()
