"""What ComfyUI's graph of nodes says of an image's making: read along its links, from what was saved up to its sampler.

A node's title says nothing (people name a negative prompt "Positive"), nor does its place in the file: the sampler is
the one that the saved image comes from, a prompt is the text that its link `positive` leads to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from evalkit.errors import DataError
from evalkit.utils.json_files import parse_json

_VALUES = {
    "seed": ("seed", "noise_seed"),
    "steps": ("steps",),
    "sampler": ("sampler_name",),
    "cfg": ("cfg",),
    "scheduler": ("scheduler",),
    "model": ("ckpt_name", "unet_name"),
}
_TEXTS = ("text", "text_g", "text_l", "t5xxl", "clip_l", "prompt", "string", "value")  # of an encoder: the first
_JOINED = ("text", "string", "prompt", "value", "str")  # beginnings of a string node's inputs, which it joins
_SETTING_LINKS = ("noise", "sampler", "sigmas", "guider", "model")  # what leads from a sampler to its settings
# What leads from a picture to the sampler that made it; other links bring conditions, networks and masks.
_PICTURE_LINKS = ("images", "image", "samples", "latent_image", "latent", "pixels", "upscaled_image", "any", "")
_NO_TEXTS = {
    *("clip", "model", "vae", "control_net", "image", "pixels", "mask", "latent_image", "samples", "noise", "sampler"),
    *("sigmas", "style_model", "clip_vision", "clip_vision_output"),
}
_DEEPEST = 100  # nodes in a row
_MOST_NODES = 20_000

Nodes = Mapping[str, Mapping[str, Any]]  # by name, the inputs and the class of each


def read_graph(text: str) -> dict[str, Any] | None:
    """Prompts and settings of the graph that a PNG of ComfyUI holds; none where it holds none, or no sampler."""
    try:
        graph = parse_json(text, "")
    except DataError:
        return None
    if not isinstance(graph, dict) or len(graph) > _MOST_NODES:
        return None
    nodes = {str(name): node for name, node in graph.items() if isinstance(node, dict) and _inputs(node)}
    sampler = _sampler(nodes)
    if sampler is None:
        return None
    above = list(_above(nodes, [sampler], _SETTING_LINKS))
    values: dict[str, Any] = {name: _value(nodes, above, theirs) for name, theirs in _VALUES.items()}
    values["prompt"] = _side(nodes, sampler, "positive")
    values["negative_prompt"] = _side(nodes, sampler, "negative")
    values["lora"] = ", ".join(sorted(lora for node in above for lora in _loras(node)))
    return values


def _inputs(node: Mapping[str, Any]) -> Mapping[str, Any]:
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _linked(nodes: Nodes, value: Any) -> Mapping[str, Any] | None:
    """The node that an input is linked to, as ["4", 0]."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int):
        return nodes.get(str(value[0]))
    return None


def _above(nodes: Nodes, starts: Iterable[Mapping[str, Any]], links: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The nodes and all that feed them by links of these names, nearest first, each once."""
    waiting = list(starts)
    seen = {id(node) for node in waiting}
    for node in waiting:  # it grows
        yield node
        for name in links:
            feeder = _linked(nodes, _inputs(node).get(name))
            if feeder is not None and id(feeder) not in seen:
                seen.add(id(feeder))
                waiting.append(feeder)


def _is_sampler(node: Mapping[str, Any]) -> bool:
    inputs = _inputs(node)
    guided = isinstance(inputs.get("positive"), list) or isinstance(inputs.get("guider"), list)
    return guided and any(name in inputs for name in ("latent_image", "seed", "noise_seed", "noise", "steps"))


def _sampler(nodes: Nodes) -> Mapping[str, Any] | None:
    """The sampler that an output's picture goes back to; of several passes the first, as of AUTOMATIC1111's."""
    fed = {str(value[0]) for node in nodes.values() for value in _inputs(node).values() if _linked(nodes, value)}
    ends = [node for name, node in nodes.items() if name not in fed]
    saving = [node for node in ends if "images" in _inputs(node)]
    for outputs in (saving, ends, list(nodes.values())):
        samplers = [node for node in _above(nodes, outputs, _PICTURE_LINKS) if _is_sampler(node)]
        if samplers:
            return samplers[-1]
    return None


def _value(nodes: Nodes, above: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str | int | float | None:
    """The nearest value of one of these names; what is linked is looked for where the link leads."""
    for node in above:
        for name in names:
            value = _inputs(node).get(name)
            for _ in range(_DEEPEST):
                feeder = _linked(nodes, value)
                if feeder is None:
                    break
                inputs = _inputs(feeder)
                value = next(
                    (inputs[key] for key in (*names, "value", "int", "float", "number") if key in inputs), None
                )
            if isinstance(value, str | int | float) and not isinstance(value, bool):
                return value
    return None


def _side(nodes: Nodes, sampler: Mapping[str, Any], side: str) -> str | None:
    """The prompt, or the negative one, that the sampler was given."""
    inputs = _inputs(sampler)
    if side not in inputs and (guider := _linked(nodes, inputs.get("guider"))) is not None:
        inputs = _inputs(guider)
        if side == "positive" and side not in inputs:
            return _text(nodes, inputs.get("conditioning", inputs.get("cond1")), side)
    return _text(nodes, inputs.get(side), side)


def _text(nodes: Nodes, value: Any, side: str) -> str | None:
    texts = list(dict.fromkeys(_texts(nodes, value, side, set(), 0)))
    return ", ".join(texts) or None


def _texts(nodes: Nodes, value: Any, side: str, seen: set[int], depth: int) -> list[str]:
    """The texts that a link leads to, in the order of the inputs."""
    if isinstance(value, str):
        return [value.strip()] if value.strip() else []
    node = _linked(nodes, value)
    if node is None or id(node) in seen or depth > _DEEPEST or node.get("class_type") == "ConditioningZeroOut":
        return []
    seen.add(id(node))
    inputs = _inputs(node)

    def of(name: str) -> list[str]:
        return _texts(nodes, inputs[name], side, seen, depth + 1)

    for name in (side, f"text_{side}", f"{side}_prompt", "populated_text"):  # a ControlNet's; loaders and wildcards
        if name in inputs:
            return of(name)
    if "clip" in inputs:
        return next((found for name in _TEXTS if name in inputs and (found := of(name))), [])
    named = [name for name in inputs if name.lower().startswith(_JOINED)]
    if named:
        delimiter = inputs.get("delimiter", inputs.get("separator"))
        parts = list(dict.fromkeys(part for name in named for part in of(name)))
        joined = (delimiter if isinstance(delimiter, str) else " ").join(parts)
        return [joined] if joined.strip() else []
    return [text for name in inputs if name not in _NO_TEXTS and isinstance(inputs[name], list) for text in of(name)]


def _loras(node: Mapping[str, Any]) -> Iterator[str]:
    """As name:strength, those of a loader's node."""
    inputs = _inputs(node)
    several = [value for value in inputs.values() if isinstance(value, dict) and value.get("on")]  # rgthree's loader
    for values in (inputs, *several):
        name = values.get("lora_name", values.get("lora"))
        strength = values.get("strength_model", values.get("strength", 1))
        if isinstance(name, str) and name not in ("", "None") and isinstance(strength, int | float):
            yield f"{name.removesuffix('.safetensors')}:{strength:g}"
