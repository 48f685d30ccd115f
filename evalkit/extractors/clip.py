"""Any open_clip model: image and text embeddings, as the model gives them (not normalised).

Source: Radford et al. 2021; open_clip 3. The preprocessing is open_clip's own validation transform on PIL images.
Weights of transformers' CLIPModel (PickScore's, say) are read as well: see clip_convert.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, DataError, EvalkitError, nearest
from evalkit.extractors.base import DECODER, PRECISIONS, BatchSize, NetworkExtractor, Prepared, per_channel, to_device
from evalkit.extractors.clip_convert import from_openai, from_transformers, is_transformers, tells_quick_gelu
from evalkit.utils.files import PKG_SCHEME, resolve_path, sha256_file
from evalkit.utils.json_files import read_json
from evalkit.utils.state_dict import is_torchscript, read_state, what_it_is
from evalkit.utils.text import one_line
from evalkit.utils.weights import HubFile, Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from evalkit.extractors.base import Images

LOCAL_DIR = "local-dir:"
QUICK = "-quickgelu"  # at the end of an architecture's name
CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"
WEIGHTS_NAMES = (WEIGHTS_NAME, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
RESIZE_MODES = ("shortest", "longest", "squash")
TOKENIZER_NAMES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class Clip(NetworkExtractor):
    """Layers image and text, and image_unit and text_logit, all of the model's embedding width.

    image and text are as the model gives them. image_unit has length 1 and text_logit length exp(logit_scale): their
    product is the model's own logit of an image and its text.

    Args:
        name: how scores are labelled ("clip_vit_b32").
        model: an architecture that open_clip knows ("ViT-B-32-quickgelu"), or a folder with open_clip_config.json and
            weights: `local-dir:PATH`, or a `pkg://package/path`.
        pretrained: with an architecture, a tag that open_clip knows ("openai") or a weights file.
        repo: the Hugging Face repository that holds the tag's weights. With it, they are found without importing torch.
        filename: the weights file in the repository.
        revision: the repository's commit, tag or branch; none: its main branch.
        quick_gelu: whether the network has QuickGELU; none: as its name, its tag or its file says. Of a file that says
            nothing, with a `model` that exists with and without it, it must be given.
        resize_mode: how images that are not square become so: "shortest" (and centre crop), "longest" (and black
            borders) or "squash"; none: as the tag or the folder says.
        prefix: what stands before each text ("A photo depicts ").
        sha256: what the weights file's sha256 must begin with; none: anything.
        canonical: whether these are the weights that the metric's bare title stands for in the literature.
        download: whether weights that are not in the cache are fetched, once.
        batch_size: images in one forward pass.
        precision: float32, tf32, bfloat16 (bf16) or float16 (fp16); see `NetworkExtractor`.
        weights_key: which of several state dicts in a weights file ("ema"); none: it holds one alone.
    """

    reentrant = True

    text_layers = frozenset({"text", "text_logit"})

    def __init__(
        self,
        name: str,
        model: str,
        pretrained: str | None = None,
        repo: str | None = None,
        filename: str = WEIGHTS_NAME,
        revision: str | None = None,
        quick_gelu: bool | None = None,
        resize_mode: str | None = None,
        prefix: str = "",
        sha256: str | None = None,
        canonical: bool = False,
        download: bool = True,
        batch_size: BatchSize = 32,
        weights_key: str | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__(name, batch_size, precision)
        if resize_mode is not None:
            self._choose("resize_mode", resize_mode, RESIZE_MODES)
        self.model, self.pretrained, self.prefix = model, pretrained, prefix
        self.repo, self.filename, self.revision = repo, filename, revision
        self.quick_gelu, self.resize_mode, self._canonical = quick_gelu, resize_mode, canonical
        self.sha256, self.download, self.weights_key = sha256, download, weights_key

    # -- what is where, without torch

    def _folder(self) -> Path | None:
        """The model's folder, where `model` names one."""
        if self.model.startswith(LOCAL_DIR):
            return resolve_path(self.model.removeprefix(LOCAL_DIR))
        return resolve_path(self.model) if self.model.startswith(PKG_SCHEME) else None

    def _config(self) -> dict[str, Any]:
        """The architecture's JSON: of the folder, or of open_clip's own collection."""
        folder = self._folder()
        if folder is not None:
            file = folder / CONFIG_NAME
            if not file.is_file():
                raise ConfigError(f"{self.where}: there is no {file}; a CLIP folder holds it and {WEIGHTS_NAME}")
            try:
                own: dict[str, Any] = dict(read_json(file)["model_cfg"])
            except (DataError, KeyError, TypeError, ValueError) as error:
                raise ConfigError(f"{self.where}: {file} is not JSON with a 'model_cfg'") from error
            return own
        spec = importlib.util.find_spec("open_clip")
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"{self.where}: open_clip is not installed: pip install open-clip-torch")
        file = Path(next(iter(spec.submodule_search_locations))) / "model_configs" / f"{self.model}.json"
        if file.is_file():
            config: dict[str, Any] = read_json(file)
            return config
        if self.model.startswith("hf-hub:"):
            raise ConfigError(
                f"{self.where}: model '{self.model}': fetch it yourself (hf download "
                f"{self.model.removeprefix('hf-hub:')} --local-dir DIR), then extractor.{self.name}.model=local-dir:DIR"
            )
        near = nearest(self.model, [p.stem for p in file.parent.glob("*.json")])
        raise ConfigError(f"{self.where}: open_clip knows no model '{self.model}'. {near}")

    @property
    def layers(self) -> Mapping[str, int | None]:
        width = self._config().get("embed_dim")
        return dict.fromkeys(("image", "text", "image_unit", "text_logit"), width)

    @functools.cached_property
    def weights(self) -> Weights:  # type: ignore[override]
        """The weights file: the folder's, a given one, or one on the hub, by `repo` or by the tag."""
        self._config()
        owner = f"extractor.{self.name}"
        folder = self._folder()
        if folder is not None:
            files = [folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()]
            if not files:
                raise ConfigError(f"{self.where}: there are no weights in {folder}: put {WEIGHTS_NAME} there")
            return Weights(owner, "model", str(files[0]), sha256=self.sha256)
        if self.pretrained is not None:
            file = resolve_path(self.pretrained)
            if file.is_file() or "/" in self.pretrained or file.suffix in (".safetensors", ".pt", ".pth", ".bin"):
                return Weights(owner, "pretrained", self.pretrained, sha256=self.sha256, key=self.weights_key)
        elif self.repo is None:
            raise ConfigError(f"{self.where}: no weights: give {owner}.pretrained=TAG or FILE")
        source = HubFile(self.repo, self.filename, self.revision) if self.repo else self._tag()
        return Weights(owner, "pretrained", None, source, self.sha256, self.download)

    def _tag(self) -> HubFile:
        """Where open_clip keeps a tag's weights. Imports open_clip and torch, which a `repo` in the YAML saves."""
        from open_clip import pretrained

        assert self.pretrained is not None
        on_hub = pretrained.get_pretrained_cfg(self.model, self.pretrained).get("hf_hub", "")
        repo, _, file = str(on_hub).rpartition("/")
        if not repo:
            near = nearest(self.pretrained, pretrained.list_pretrained_tags_by_model(self.model))
            raise ConfigError(
                f"{self.where}: '{self.pretrained}' is neither a file nor a tag of '{self.model}'. {near}"
            )
        return HubFile(repo, file or WEIGHTS_NAME, self.revision)

    def check(self, *, fetch: bool = True) -> None:
        super().check(fetch=fetch)
        self._activation()

    def _activation(self) -> bool | None:
        """Whether a weights file of one's own belongs to QuickGELU; none: there is none, or the option says so.

        OpenAI's weights do, and score otherwise without a word: 4.44 for 5.05 on the aesthetic predictor's example.

        Raises:
            ConfigError: the file does not tell, and the model exists with and without it.
        """
        if self._folder() is not None or self.weights.file is None or self.quick_gelu is not None:
            return None
        if self._config().get("quick_gelu"):
            return None
        file = self.weights.find()
        told = tells_quick_gelu(file)
        if told is None and f"{self.model}{QUICK}" in _architectures():
            raise ConfigError(
                f"{self.where}: {file} does not tell whether it has QuickGELU: give extractor.{self.name}.quick_gelu="
                "true (OpenAI's, MetaCLIP's and DFN's weights) or false (LAION's, DataComp's)"
            )
        return told

    def identity(self) -> dict[str, Any]:
        folder = self._folder()
        texts = [folder / name for name in TOKENIZER_NAMES if (folder / name).is_file()] if folder else []
        tag = None if folder or self.pretrained is None or resolve_path(self.pretrained).is_file() else self.pretrained
        return {
            "network": f"open_clip {version('open-clip-torch').rpartition('.')[0]}",
            "model": self._config() if folder else self.model,
            "pretrained": tag,
            "quick_gelu": self._activation()
            or self.quick_gelu
            or (False if tag and self.quick_gelu is False else None),
            "weights": self.weights.digest(),
            "tokenizer": {file.name: sha256_file(file)[:16] for file in texts} or "open_clip's for the model",
            "preprocess": sha256_file(folder / CONFIG_NAME)[:16] if folder else "open_clip's for the model and tag",
            "resize": "PIL",
            "dtype": self.dtype,
            "embeddings": "not normalised",
            "text": "truncated to the context, end token kept",
            "decoder": DECODER,
            **({"resize_mode": self.resize_mode} if self.resize_mode else {}),
            **({"prefix": self.prefix} if self.prefix else {}),
        }

    def label(self) -> str:
        if self._folder() is None:
            return super().label()
        return ":".join(filter(None, (self.name, PRECISIONS[self.precision])))

    # -- the network

    def _load(self) -> Any:
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        file = self.weights.find()
        folder = self._folder()
        model = f"{LOCAL_DIR}{folder}" if folder else self.model
        # open_clip takes activation and preprocessing from a tag only where it fetches the tag's weights itself
        tag = open_clip.pretrained.get_pretrained_cfg(self.model, self.pretrained) if self.pretrained else {}
        preprocess = {k: tag[k] for k in ("mean", "std", "interpolation", "resize_mode") if k in tag}
        quick_gelu = self.quick_gelu if self.quick_gelu is not None else self._activation() or tag.get("quick_gelu")
        try:
            own = None if folder else self._own_state(file)
            network = open_clip.create_model(
                model,
                pretrained=None if folder or own is not None else str(file),
                precision="fp32",
                force_quick_gelu=bool(quick_gelu),
                force_preprocess_cfg=preprocess | ({"resize_mode": self.resize_mode} if self.resize_mode else {}),
                require_pretrained=own is None,
                weights_only=True,
            )
            if own is not None:
                network.load_state_dict(own)
            self._tokenizer = open_clip.get_tokenizer(model)
        except EvalkitError:
            raise
        except Exception as error:  # open_clip raises RuntimeError, ValueError, OSError, pickle errors ...
            reason = one_line(error)
            raise ConfigError(f"{self.where}: model '{self.model}' cannot be loaded from {file}: {reason}") from error
        self._preprocess = image_transform_v2(PreprocessCfg(**network.visual.preprocess_cfg), is_train=False)
        self._resize, self._norm = split(self._preprocess)
        return network.eval().requires_grad_(False)

    def _own_state(self, file: Path) -> dict[str, Tensor] | None:
        """The network's tensors where open_clip does not read the file as it is: others' layouts, one of several."""
        if is_torchscript(file):
            return from_openai(file)
        if is_transformers(file):
            return from_transformers(read_state(file, self.where, self.weights.key))
        if self.weights.key is not None:
            return {name: value.float() for name, value in self.weights.read().items()}
        other = what_it_is(file)
        if other is not None:
            raise ConfigError(f"{self.where}: {file} is {other[0]}: {other[1]}")
        return None

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        return Prepared(self._resize(image))

    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        from torch.nn.functional import normalize

        network = self.network
        features: dict[str, Tensor] = {}
        with self.arithmetic():
            if not {"image", "image_unit"}.isdisjoint(layers):
                x = normalised(self.prepared(images), self._norm, self._device)  # f32 [B,3,S,S]
                features["image"] = network.encode_image(x).float()  # [B,D]
                features["image_unit"] = normalize(features["image"], dim=1)
            if not self.text_layers.isdisjoint(layers):
                tokens = self._tokenizer([self.prefix + text for text in prompts]).to(self._device)  # i64 [B,context]
                features["text"] = network.encode_text(tokens).float()  # [B,D]
                features["text_logit"] = normalize(features["text"], dim=1) * network.logit_scale.exp().float()
        return {layer: features[layer] for layer in layers}

    def prompt_warnings(self, prompts: Sequence[str]) -> dict[str, int]:
        """The number of prompts that are longer than the context; open_clip cuts them and keeps the end token."""
        tokenizer = self._tokenizer
        truncated = sum(token_count(tokenizer, self.prefix + text) > tokenizer.context_length for text in prompts)
        return {"prompt_truncated": truncated} if truncated else {}


Norm = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and deviation per channel, of images in 0 to 1."""


def split(transform: Any) -> tuple[Callable[[NDArray[np.uint8]], NDArray[np.uint8]], Norm]:
    """open_clip's preprocessing in two: by Pillow (u8 [H,W,3] -> u8 [S,S,3]), and what is left, in float32."""
    import numpy as np
    from PIL import Image

    *by_pillow, _, norm = transform.transforms  # the last two: to a tensor from 0 to 1, then its mean and deviation

    def resize(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        picture: Any = Image.fromarray(image)
        for step in by_pillow:
            picture = step(picture)
        return np.asarray(picture)

    return resize, (tuple(map(float, norm.mean)), tuple(map(float, norm.std)))


def normalised(images: Images, norm: Norm, device: str | None) -> Tensor:
    """Images of one size, each u8 [S,S,3], as the rest of open_clip's preprocessing makes them: f32 [B,3,S,S]."""
    x = to_device(images, device).contiguous().float().div_(255)
    return x.sub_(per_channel(norm[0], device)).div_(per_channel(norm[1], device))


def _architectures() -> set[str]:
    """The names of open_clip's architectures, without importing it."""
    spec = importlib.util.find_spec("open_clip")
    places = spec.submodule_search_locations if spec is not None else None
    return {file.stem for place in places or () for file in (Path(place) / "model_configs").glob("*.json")}


def token_count(tokenizer: Any, text: str) -> int:
    """Tokens of a text with start and end, before truncation, by any of open_clip's tokenizers."""
    if hasattr(tokenizer, "encode"):  # SimpleTokenizer
        return len(tokenizer.encode(text)) + 2
    return len(tokenizer.tokenizer(tokenizer.clean_fn(text), truncation=False).input_ids)
