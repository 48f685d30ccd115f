"""ImageReward (Xu et al. 2023, arXiv:2304.05977): BLIP's text encoder looks at image and prompt, an MLP gives a reward.

Source: the package image-reward 1.5 (Apache-2.0), which wants timm 0.6.13 and transformers 4 and so cannot be installed
next to open_clip; here its checkpoint is read into transformers' BLIP modules. On small random weights the rewards
equal those of the package's own modules (tests/extractors/test_image_reward.py); with the real weights it was not run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError
from evalkit.extractors.aesthetic import mlp, mlp_layers, on_device
from evalkit.extractors.base import DECODER, BatchSize, NetworkExtractor, Prepared, exact_float32
from evalkit.extractors.clip import normalised, split
from evalkit.utils.text import one_line
from evalkit.utils.weights import HubFile, Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from evalkit.extractors.base import Images
MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of the rewards of the authors' validation set
TOKENS = 35  # longer prompts are cut, [SEP] kept
HEAD_WIDTH = 64  # of every attention head, in BERT base and ViT-L alike
EPSILONS = {"vision": 1e-6, "text": 1e-12}  # of the layer norms


class ImageReward(NetworkExtractor):
    """Layer score (1), of an image and its prompt: higher is better, 0 the mean of the authors' validation set.

    Args:
        name: how scores are labelled.
        weights: ImageReward.pt as a local file; none: from `repo`.
        vocab: BERT's vocab.txt as a local file; none: from `vocab_repo`.
        repo, revision: the Hugging Face repository that holds the weights.
        vocab_repo, vocab_revision: the one that holds BERT's vocabulary.
        sha256: what the weights' sha256 must begin with; none: anything.
        download: whether files that are not in the cache are fetched, once.
        batch_size: images in one forward pass.
        precision: of the network: float32, tf32, bfloat16 (bf16) or float16 (fp16); see `NetworkExtractor`.
        weights_key: which of several state dicts in `weights` ("ema"); none: it holds one alone.
    """

    reentrant = True

    joint_layers = frozenset({"score"})
    _canonical = True

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        vocab: str | None = None,
        repo: str = "zai-org/ImageReward",
        revision: str | None = None,
        vocab_repo: str = "google-bert/bert-base-uncased",
        vocab_revision: str | None = None,
        sha256: str | None = None,
        download: bool = True,
        batch_size: BatchSize = 16,
        weights_key: str | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__(name, batch_size, precision)
        owner = f"extractor.{name}"
        self.weights = Weights(
            owner, "weights", weights, HubFile(repo, "ImageReward.pt", revision), sha256, download, key=weights_key
        )
        self.vocab = Weights(owner, "vocab", vocab, HubFile(vocab_repo, "vocab.txt", vocab_revision), download=download)

    @property
    def layers(self) -> Mapping[str, int | None]:
        return {"score": 1}

    def check(self, *, fetch: bool = True) -> None:
        super().check(fetch=fetch)
        self.vocab.find(fetch=fetch)

    def identity(self) -> dict[str, Any]:
        return {
            "network": "ImageReward-v1.0 (BLIP ViT-L, transformers)",
            "weights": self.weights.digest(),
            "vocab": self.vocab.digest()[:16],
            "resize": "PIL bicubic, shorter side, centre crop",
            "text": f"at most {TOKENS} tokens, end token kept",
            "dtype": self.dtype,
            "decoder": DECODER,
        }

    def _load(self) -> Any:
        import torch
        from open_clip.transform import PreprocessCfg, image_transform_v2
        from tokenizers import BertWordPieceTokenizer

        file = self.weights.find()
        state = self.weights.read()
        try:
            vision, text = build(state)
        except (KeyError, RuntimeError) as error:
            raise ConfigError(f"{self.where}: {file} does not hold ImageReward: {one_line(error)}") from error
        self._mlp = mlp_layers(state, "mlp.layers.", f"{self.where}: {file}")
        self._tokenizer = BertWordPieceTokenizer(str(self.vocab.find()), lowercase=True)
        # open_clip's default is the same as ImageReward's own: bicubic on PIL images, CLIP's mean and std
        self._resize, self._norm = split(image_transform_v2(PreprocessCfg(size=vision.config.image_size), False))
        return torch.nn.ModuleList([vision, text])

    def load(self, device: str) -> None:
        super().load(device)
        self._mlp = on_device(self._mlp, device)

    def prepare(self, image: NDArray[np.uint8]) -> Prepared:
        return Prepared(self._resize(image))

    def _tokens(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, i64 [B,T]: T is the longest prompt's, TOKENS at most; what follows a prompt is masked."""
        import torch

        tokenizer = self._tokenizer
        tokenizer.enable_truncation(TOKENS)
        tokenizer.enable_padding()
        encoded = tokenizer.encode_batch(list(prompts))
        return torch.tensor([e.ids for e in encoded]), torch.tensor([e.attention_mask for e in encoded])

    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        import torch

        vision, text = self.network
        ids, mask = self._tokens(prompts)
        with self.arithmetic():
            x = normalised(self.prepared(images), self._norm, self._device)  # f32 [B,3,S,S]
            seen = vision(pixel_values=x).last_hidden_state  # [B,patches+1,Dv]
            hidden = text(
                input_ids=ids.to(self._device),
                attention_mask=mask.to(self._device),
                encoder_hidden_states=seen,
                encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=self._device),
                is_decoder=False,
            ).last_hidden_state  # [B,T,Dt]
        with exact_float32():
            reward = mlp(self._mlp, hidden[:, 0].float())  # [B,1]
        return {"score": (reward - MEAN) / STD}

    def prompt_warnings(self, prompts: Sequence[str]) -> dict[str, int]:
        """The number of prompts that are longer than ImageReward reads."""
        tokenizer = self._tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        cut = sum(len(tokenizer.encode(text).ids) > TOKENS for text in prompts)
        return {"prompt_truncated": cut} if cut else {}


def build(state: Mapping[str, Tensor]) -> tuple[Any, Any]:
    """Transformers' BLIP vision and text encoder with the weights of an ImageReward checkpoint; sizes are read off it.

    Raises:
        KeyError, RuntimeError: a tensor is missing or of another shape.
    """
    import torch
    from transformers import BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    seen = {vision_name(n.removeprefix("blip.visual_encoder.")): v for n, v in state.items() if ".visual_encoder." in n}
    read = {n.removeprefix("blip.text_encoder."): v for n, v in state.items() if ".text_encoder." in n}
    read = {n: v for n, v in read.items() if not n.endswith("position_ids")}
    patch = seen["embeddings.patch_embedding.weight"]  # [Dv,3,P,P]
    side = round((seen["embeddings.position_embedding"].shape[1] - 1) ** 0.5)
    words = read["embeddings.word_embeddings.weight"]  # [V,Dt]
    vision_config = BlipVisionConfig(
        hidden_size=len(patch),
        intermediate_size=len(seen["encoder.layers.0.mlp.fc1.weight"]),
        num_hidden_layers=_count(seen, "encoder.layers."),
        num_attention_heads=len(patch) // HEAD_WIDTH,
        image_size=side * patch.shape[-1],
        patch_size=patch.shape[-1],
        layer_norm_eps=EPSILONS["vision"],
    )
    text_config = BlipTextConfig(
        vocab_size=len(words),
        hidden_size=words.shape[1],
        encoder_hidden_size=len(patch),
        intermediate_size=len(read["encoder.layer.0.intermediate.dense.weight"]),
        num_hidden_layers=_count(read, "encoder.layer."),
        num_attention_heads=words.shape[1] // HEAD_WIDTH,
        max_position_embeddings=len(read["embeddings.position_embeddings.weight"]),
        layer_norm_eps=EPSILONS["text"],
        bos_token_id=None,
        eos_token_id=None,
        sep_token_id=None,
    )
    vision, text = BlipVisionModel(vision_config), BlipTextModel(text_config, add_pooling_layer=False)
    vision.load_state_dict({name: value.float() for name, value in seen.items()})
    text.load_state_dict({name: value.float() for name, value in read.items()})
    for network in (vision, text):
        network.to(torch.float32).eval().requires_grad_(False)
    return vision, text


def _count(state: Mapping[str, Tensor], start: str) -> int:
    return 1 + max(int(name.removeprefix(start).partition(".")[0]) for name in state if name.startswith(start))


def vision_name(name: str) -> str:
    """The name of a tensor of BLIP's own ViT in transformers' BlipVisionModel."""
    whole = {"cls_token": "embeddings.class_embedding", "pos_embed": "embeddings.position_embedding"}
    if name in whole:
        return whole[name]
    pieces = {
        "patch_embed.proj.": "embeddings.patch_embedding.",
        "blocks.": "encoder.layers.",
        ".attn.qkv.": ".self_attn.qkv.",
        ".attn.proj.": ".self_attn.projection.",
        ".norm1.": ".layer_norm1.",
        ".norm2.": ".layer_norm2.",
    }
    for old, new in pieces.items():
        name = name.replace(old, new)
    return f"post_layernorm.{name.removeprefix('norm.')}" if name.startswith("norm.") else name
