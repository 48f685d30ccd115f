"""Weights of transformers' CLIPModel and of OpenAI's own files under the names of open_clip's CLIP.

All are the same network; open_clip keeps query, key and value in one matrix, and its projections transposed, as OpenAI
does. OpenAI's files are TorchScript archives, and hold three numbers next to the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import DataError
from evalkit.utils.json_files import read_json
from evalkit.utils.state_dict import is_torchscript

if TYPE_CHECKING:
    from torch import Tensor

MARK = "text_model.embeddings.token_embedding.weight"  # a tensor that only transformers' CLIPModel has
_NUMBERS = ("input_resolution", "context_length", "vocab_size")  # that OpenAI's files hold next to the weights
_NAMES = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.": "ln_final.",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",  # transformers' own spelling
    "vision_model.post_layernorm.": "visual.ln_post.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
}
_INSIDE = {
    ".self_attn.out_proj.": ".attn.out_proj.",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
}
_PROJECTIONS = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}


def is_transformers(file: Path) -> bool:
    """Whether a .safetensors file holds a CLIPModel of transformers. Reads the file's header alone."""
    if file.suffix != ".safetensors":
        return False
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="np") as tensors:
            return MARK in tensors.keys()  # noqa: SIM118  # not a mapping
    except SafetensorError:
        return False  # reading it says what is wrong


def tells_quick_gelu(file: Path) -> bool | None:
    """Whether a weights file belongs to a network with QuickGELU; none: it does not tell. No weights are read.

    OpenAI's own archives do; of transformers' models the config.json next to them says so.
    """
    if is_torchscript(file):
        return True
    config = file.with_name("config.json")
    if not (is_transformers(file) and config.is_file()):
        return None
    try:
        activation = read_json(config)["vision_config"].get("hidden_act", "quick_gelu")  # transformers' default
    except (DataError, KeyError, TypeError, AttributeError):
        return None
    return str(activation) == "quick_gelu"


def from_openai(file: Path) -> dict[str, Tensor]:
    """The state dict of open_clip's CLIP, f32, of a TorchScript archive of OpenAI's.

    Raises:
        RuntimeError: it is damaged.
    """
    import torch

    state = torch.jit.load(str(file), map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    return {name: value.float() for name, value in state.items() if name not in _NUMBERS}


def from_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of open_clip's CLIP with a ViT, f32.

    Args:
        state: of transformers' CLIPModel.
    """
    import torch

    converted: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith("position_ids") or ".k_proj." in name or ".v_proj." in name:
            continue
        if name in _PROJECTIONS:
            converted[_PROJECTIONS[name]] = value.T.contiguous().float()
            continue
        start = next((start for start in _NAMES if name.startswith(start)), "")
        new = _NAMES.get(start, "") + name.removeprefix(start)
        for old, inside in _INSIDE.items():
            new = new.replace(old, inside)
        if ".q_proj." in name:
            value = torch.cat([state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            new = new.replace(".self_attn.q_proj.", ".attn.in_proj_")
        converted[new] = value.float()
    return converted
