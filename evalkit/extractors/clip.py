"""Any open_clip model: image and text embeddings, as the model gives them (not normalised).

Source: Radford et al. 2021; open_clip 3. The preprocessing is open_clip's own validation transform on PIL images.
Weights of transformers' CLIPModel (PickScore's, say) are read as well: see clip_convert.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.extractors.base import DECODER, Extractor, check_sha256, exact_float32
from evalkit.extractors.weights import HubFile, read_state
from evalkit.utils.files import PKG_SCHEME, resolve_path, sha256_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

LOCAL_DIR = "local-dir:"
CONFIG_NAME = "open_clip_config.json"
WEIGHTS_NAME = "open_clip_model.safetensors"
WEIGHTS_NAMES = (WEIGHTS_NAME, "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
RESIZE_MODES = ("shortest", "longest", "squash")
TOKENIZER_NAMES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class Clip(Extractor):
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
        quick_gelu: whether the network has QuickGELU; none: as its name or its tag says.
        resize_mode: how images that are not square become so: "shortest" (and centre crop), "longest" (and black
            borders) or "squash"; none: as the tag or the folder says.
        prefix: what stands before each text ("A photo depicts ").
        sha256: what the weights file's sha256 must begin with; none: anything.
        canonical: whether these are the weights that the metric's bare title stands for in the literature.
        download: whether weights that are not in the cache are fetched, once.
        batch_size: images in one forward pass.
    """

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
        batch_size: int = 32,
    ) -> None:
        super().__init__(name, batch_size)
        if resize_mode not in (None, *RESIZE_MODES):
            raise ConfigError(f"extractor.{name}.resize_mode={resize_mode}: choices are {', '.join(RESIZE_MODES)}")
        self.model = model
        self.pretrained = pretrained
        self.repo = repo
        self.filename = filename
        self.resize_mode = resize_mode
        self.prefix = prefix
        self.revision = revision
        self.quick_gelu = quick_gelu
        self.sha256 = sha256
        self.download = download
        self._canonical = canonical
        self._where = f"extractor '{name}'"
        self._weights: Path | None = None
        self._parts: tuple[Any, Any, Any] | None = None  # network, tokenizer, preprocessing
        self._device: str | None = None

    # -- what is where, without torch

    def _folder(self) -> Path | None:
        """The model's folder, where `model` names one."""
        if self.model.startswith(LOCAL_DIR):
            return resolve_path(self.model.removeprefix(LOCAL_DIR))
        return resolve_path(self.model) if self.model.startswith(PKG_SCHEME) else None

    def _config(self) -> dict[str, Any] | None:
        """The architecture's JSON: of the folder, or of open_clip's own collection."""
        folder = self._folder()
        if folder is not None:
            file = folder / CONFIG_NAME
            if not file.is_file():
                raise ConfigError(f"{self._where}: there is no {file}; a CLIP folder holds it and {WEIGHTS_NAME}")
            try:
                found: dict[str, Any] = json.loads(file.read_text("utf-8"))["model_cfg"]
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{self._where}: {file} is not JSON with a 'model_cfg'") from error
            return found
        spec = importlib.util.find_spec("open_clip")
        if spec is None or not spec.submodule_search_locations:
            raise ConfigError(f"{self._where}: open_clip is not installed: pip install open-clip-torch")
        file = Path(next(iter(spec.submodule_search_locations))) / "model_configs" / f"{self.model}.json"
        if file.is_file():
            config: dict[str, Any] = json.loads(file.read_text("utf-8"))
            return config
        if self.model.startswith("hf-hub:"):
            raise ConfigError(
                f"{self._where}: model '{self.model}': fetch it yourself (hf download "
                f"{self.model.removeprefix('hf-hub:')} --local-dir DIR), then extractor.{self.name}.model=local-dir:DIR"
            )
        from evalkit.errors import nearest

        near = nearest(self.model, [p.stem for p in file.parent.glob("*.json")])
        raise ConfigError(f"{self._where}: open_clip knows no model '{self.model}'. {near}")

    @property
    def layers(self) -> Mapping[str, int | None]:
        width = (self._config() or {}).get("embed_dim")
        return dict.fromkeys(("image", "text", "image_unit", "text_logit"), width)

    def _file(self) -> Path:
        """The weights file, with the right digest; fetched where it may be."""
        if self._weights is None:
            file = self._find()
            check_sha256(self._where, file, self.sha256, f"extractor.{self.name}.sha256")
            self._weights = file
        return self._weights

    def _find(self) -> Path:
        self._config()
        folder = self._folder()
        if folder is not None:
            files = [folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()]
            if not files:
                raise ConfigError(f"{self._where}: there are no weights in {folder}: put {WEIGHTS_NAME} there")
            return files[0]
        if self.pretrained is None:
            if self.repo is None:
                raise ConfigError(f"{self._where}: no weights: give extractor.{self.name}.pretrained=TAG or FILE")
            return self._from_repo(self.repo, self.filename)
        file = resolve_path(self.pretrained)
        if file.is_file():
            return file
        if "/" in self.pretrained or file.suffix in (".safetensors", ".pt", ".pth", ".bin"):
            raise ConfigError(f"{self._where}: there is no weights file {file} (extractor.{self.name}.pretrained)")
        return self._from_repo(self.repo, self.filename) if self.repo else self._from_tag()

    def _from_repo(self, repo: str, filename: str) -> Path:
        options = f"extractor.{self.name}"
        file = HubFile(repo, filename, self.revision)
        return file.find(self._where, options, self.download, f"give {options}.pretrained=FILE")

    def _from_tag(self) -> Path:
        """Where open_clip keeps a tag's weights. Imports open_clip and torch, which a `repo` in the YAML saves."""
        from open_clip import pretrained

        assert self.pretrained is not None
        found = pretrained.get_pretrained_cfg(self.model, self.pretrained)
        if not found:
            from evalkit.errors import nearest

            near = nearest(self.pretrained, pretrained.list_pretrained_tags_by_model(self.model))
            raise ConfigError(
                f"{self._where}: '{self.pretrained}' is neither a file nor a tag of '{self.model}'. {near}"
            )
        repo, _, filename = str(found.get("hf_hub", "")).rpartition("/")
        if repo:
            return self._from_repo(repo, filename or WEIGHTS_NAME)
        try:
            return Path(pretrained.download_pretrained_from_url(found["url"]))
        except Exception as error:
            raise ConfigError(
                f"{self._where}: fetching {found['url']} failed ({type(error).__name__}): put the file anywhere and "
                f"give extractor.{self.name}.pretrained=FILE"
            ) from error

    def check(self, *, fetch: bool = True) -> None:
        self.download = self.download and fetch
        self._file()

    def identity(self) -> dict[str, Any]:
        folder = self._folder()
        texts = [folder / name for name in TOKENIZER_NAMES if (folder / name).is_file()] if folder else []
        tag = None if folder or self.pretrained is None or resolve_path(self.pretrained).is_file() else self.pretrained
        return {
            "network": f"open_clip {version('open-clip-torch').rpartition('.')[0]}",
            "model": self._config() if folder else self.model,
            "pretrained": tag,
            "quick_gelu": self.quick_gelu,
            "weights": sha256_file(self._file()),
            "tokenizer": {file.name: sha256_file(file)[:16] for file in texts} or "open_clip's for the model",
            "preprocess": sha256_file(folder / CONFIG_NAME)[:16] if folder else "open_clip's for the model and tag",
            "resize": "PIL",
            "dtype": "float32",
            "embeddings": "not normalised",
            "text": "truncated to the context, end token kept",
            "decoder": DECODER,
            **({"resize_mode": self.resize_mode} if self.resize_mode else {}),
            **({"prefix": self.prefix} if self.prefix else {}),
        }

    def canonical(self) -> bool:
        return self._canonical and self.label() == self.name

    def label(self) -> str:
        own_file = self.pretrained is not None and resolve_path(self.pretrained).is_file()
        verified = self.sha256 is not None  # then `check` has seen that the file is the one asked for
        return f"{self.name}:{sha256_file(self._file())[:8]}" if own_file and not verified else self.name

    # -- the network

    def load(self, device: str) -> None:
        if self._parts is None:
            self._parts = self._load()
        if self._device != device:
            self._parts[0].to(device)
            self._device = device

    def _load(self) -> tuple[Any, Any, Any]:
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        from evalkit.extractors.clip_convert import from_transformers, is_transformers

        file = self._file()
        folder = self._folder()
        model = f"{LOCAL_DIR}{folder}" if folder else self.model
        # open_clip takes activation and preprocessing from a tag only where it fetches the tag's weights itself
        tag = open_clip.pretrained.get_pretrained_cfg(self.model, self.pretrained) if self.pretrained else {}
        preprocess = {k: tag[k] for k in ("mean", "std", "interpolation", "resize_mode") if k in tag}
        try:
            foreign = folder is None and is_transformers(file)
            network = open_clip.create_model(
                model,
                pretrained=None if folder or foreign else str(file),
                precision="fp32",
                force_quick_gelu=self.quick_gelu if self.quick_gelu is not None else bool(tag.get("quick_gelu")),
                force_preprocess_cfg=preprocess | ({"resize_mode": self.resize_mode} if self.resize_mode else {}),
                require_pretrained=not foreign,
                weights_only=True,
            )
            if foreign:
                network.load_state_dict(from_transformers(read_state(file, self._where)))
            tokenizer = open_clip.get_tokenizer(model)
        except Exception as error:  # open_clip raises RuntimeError, ValueError, OSError, pickle errors ...
            reason = " ".join(str(error).split())[:300]
            raise ConfigError(f"{self._where}: model '{self.model}' cannot be loaded from {file}: {reason}") from error
        network.eval().requires_grad_(False)
        return network, tokenizer, image_transform_v2(PreprocessCfg(**network.visual.preprocess_cfg), is_train=False)

    def unload(self) -> None:
        self._parts = None
        self._device = None

    def __call__(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[str], layers: Sequence[str]
    ) -> dict[str, Tensor]:
        import torch
        from PIL import Image
        from torch.nn.functional import normalize

        assert self._parts, "load() comes first"
        network, tokenizer, preprocess = self._parts
        features: dict[str, Tensor] = {}
        with exact_float32():
            if not {"image", "image_unit"}.isdisjoint(layers):
                x = torch.stack([preprocess(Image.fromarray(image)) for image in images])  # f32 [B,3,S,S]
                features["image"] = network.encode_image(x.to(self._device)).float().cpu()  # [B,D]
                features["image_unit"] = normalize(features["image"], dim=1)
            if not self.text_layers.isdisjoint(layers):
                tokens = tokenizer([self.prefix + text for text in prompts]).to(self._device)  # i64 [B,context]
                features["text"] = network.encode_text(tokens).float().cpu()  # [B,D]
                features["text_logit"] = normalize(features["text"], dim=1) * network.logit_scale.exp().float().cpu()
        return {layer: features[layer] for layer in layers}

    def prompt_warnings(self, prompts: Sequence[str]) -> dict[str, int]:
        """The number of prompts that are longer than the context; open_clip cuts them and keeps the end token."""
        assert self._parts, "load() comes first"
        tokenizer = self._parts[1]
        truncated = sum(token_count(tokenizer, self.prefix + text) > tokenizer.context_length for text in prompts)
        return {"prompt_truncated": truncated} if truncated else {}


def token_count(tokenizer: Any, text: str) -> int:
    """Tokens of a text with start and end, before truncation, by any of open_clip's tokenizers."""
    if hasattr(tokenizer, "encode"):  # SimpleTokenizer
        return len(tokenizer.encode(text)) + 2
    return len(tokenizer.tokenizer(tokenizer.clean_fn(text), truncation=False).input_ids)
