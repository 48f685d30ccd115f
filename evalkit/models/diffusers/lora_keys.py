"""Which keys of a LoRA file have a layer in a pipeline, by the names that trainers give them.

Before anything is loaded the file's header is compared with the pipeline's: names of diffusers, of PEFT and of kohya's
scripts (`lora_unet_down_blocks_0_...`). What other trainers write (SGM's block numbers, FLUX as of xlabs, kohya or
ai-toolkit) is renamed by diffusers' converters alone; such files are counted once they are loaded.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import DataError
from evalkit.models.diffusers.checkpoint import Checkpoint, TensorHeader, read_header

log = logging.getLogger(__name__)

LORA_KEY = re.compile(r"[._](?:lora|lokr|hada|dora)_?")
_SCALAR = re.compile(r"(\.alpha|\.dora_scale|lora_magnitude_vector.*)$")
_FIRST = (".lora_A.weight", ".lora_down.weight")
_KOHYA = {"unet": ("lora_unet_",), "text_encoder": ("lora_te_", "lora_te1_"), "text_encoder_2": ("lora_te2_",)}
# Names that only diffusers' converters tell: SGM's blocks, and the layers of FLUX as of its makers.
_CONVERTED = re.compile(r"lora_unet_((input|output|double|single)_blocks|middle_block|time_embed_|label_emb|out_)")
# How diffusers called the layers of attention before it used PEFT.
_OLDER = (
    (".processor", ""),
    *((f"self_attn.to_{name}", f"self_attn.{name}_proj") for name in ("q", "k", "v", "out")),
)


@dataclass(frozen=True)
class Match:
    """How many of a file's keys have a layer.

    Attributes:
        keys: that carry weights (alphas are not counted).
        matched: of these.
        example: a layer that the pipeline has not, as the file names it; "" where none is known.
    """

    keys: int
    matched: int
    example: str = ""

    @property
    def poor(self) -> bool:
        """Whether half or more have none."""
        return self.keys >= 2 * self.matched

    def tell(self, file: Path, who: str) -> None:
        """Logs the counts. DataError: no key has a layer."""
        some = f", such as {self.example}" if self.example else ""
        if not self.matched:
            raise DataError(
                f"lora: {file} does not fit {who}: none of its {self.keys} keys has a layer there{some}; "
                "it was made for another model"
            )
        missing = self.keys - self.matched
        rest = f"; {missing} have none and change nothing{some}" if missing else ""
        more = ": was it made for another model?" if self.poor else ""
        log.log(
            logging.WARNING if self.poor else logging.INFO,
            *("lora: %s: %d of its %d keys have a layer in %s%s%s", file, self.matched, self.keys, who, rest, more),
        )


def match_header(header: Mapping[str, TensorHeader], base: Checkpoint, where: str) -> Match | None:
    """Counts by the headers of a LoRA and of a local pipeline; none: the names tell diffusers' converters alone.

    Args:
        header: of the LoRA's file.
        base: the pipeline.
        where: file and model, for messages.

    Raises:
        DataError: a layer of its UNet has another number of inputs.
    """
    layers = _layers(base)
    by_flat = {flat: name for name in layers for flat in _flat(name)}
    matched = keys = 0
    example = ""
    for key, tensor in header.items():
        if _SCALAR.search(key):
            continue
        given = LORA_KEY.split(key)[0]
        name = by_flat.get(given) if given.startswith("lora_") else _modern(given)
        if name is None and (_CONVERTED.match(given) or not given.startswith("lora_")):
            return None
        known = name in layers if name is not None else False
        if given.startswith("transformer.") and not known:
            return None  # diffusers splits, joins and widens layers of transformers
        keys += 1
        matched += known
        example = example or ("" if known else given)
        first = known and name is not None and name.startswith("unet.") and key.endswith(_FIRST)
        if first and name is not None and layers[name][1:] != tensor.shape[1:]:  # [out,in,...] and [rank,in,...]
            raise DataError(f"{where}: layer {given} takes {layers[name][1:]} inputs, the adapter's {tensor.shape[1:]}")
    return Match(keys, matched, example)


def _layers(base: Checkpoint) -> dict[str, list[int]]:
    """Shapes of the weights of a pipeline's parts, by part and layer; the text encoders' without "text_model."."""
    layers = {}
    for part in base.components():
        if part.has_weights and part.name.startswith(("unet", "transformer", "text_encoder")):
            for file in base.weight_files(part):
                for name, tensor in read_header(file).items():
                    if name.endswith(".weight"):
                        inner = name.removesuffix(".weight").removeprefix("text_model.")
                        layers[f"{part.name}.{inner}"] = tensor.shape
    return layers


def _flat(layer: str) -> list[str]:
    """kohya's names of a layer."""
    part, _, name = layer.partition(".")
    inner = f"text_model.{name}" if part.startswith("text_encoder") and name != "text_projection" else name
    return [prefix + inner.replace(".", "_") for prefix in _KOHYA.get(part, ())]


def _modern(layer: str) -> str | None:
    """A layer's name as of PEFT, with its part; none: it says no part."""
    part, _, name = layer.partition(".")
    if part not in ("unet", "transformer", "text_encoder", "text_encoder_2"):
        return None
    for old, new in _OLDER:
        name = name.replace(old, new)
    name = name.removeprefix("text_model.")
    return f"{part}.{name}.0" if re.search(r"attn\d?\.to_out$", name) else f"{part}.{name}"


def match_loaded(pipe: Any, adapter: str, state: Mapping[str, Any]) -> tuple[Match, bool]:
    """Counts what was put into a pipeline, and brings it to its parts' dtype.

    Args:
        pipe: with the adapter in it.
        adapter: its name.
        state: its tensors, as diffusers read them.

    Returns:
        The counts, and whether the adapter changes nothing since its last weights are all zero.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    keys = [key for key in state if LORA_KEY.search(key) and not key.endswith(".alpha")]
    loaded, names, zero = 0, set[str](), True
    parts = {n: part for n, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    for part_name, part in parts.items():
        for name, module in part.named_modules():
            if not isinstance(module, BaseTunerLayer) or adapter not in getattr(module, "scaling", {}):
                continue
            names.add(f"{part_name}.{name}")
            for inner, weight in module.named_parameters():
                if f".{adapter}." in inner or inner.endswith(f".{adapter}"):
                    loaded += 1
                    weight.data = weight.data.to(part.dtype)  # else a half precision file computes in half precision
                    zero &= not ("lora_B" in inner and bool(weight.any()))
            zero &= hasattr(module, "lora_B")  # of LoKr and others nothing is said
    strange = sorted({g for key in keys if (g := LORA_KEY.split(key)[0]) and _modern(g) not in names})
    return Match(len(keys), min(loaded, len(keys)), strange[0] if strange and names else ""), bool(loaded) and zero
