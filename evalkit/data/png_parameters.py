"""What AUTOMATIC1111 and ComfyUI write into their PNGs: prompt, seed, steps, sampler, guidance scale, checkpoint.

AUTOMATIC1111 (and Forge, SD.Next) write one text "parameters": the prompt, a line "Negative prompt: ...", and a last
line "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, ...". ComfyUI writes its whole graph of nodes as JSON into
"prompt"; the values are found by going up from the sampler node along its links.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

MAX_TEXT = 1 << 20  # letters of a text; larger ones are left out
_SETTING = re.compile(r'\s*([A-Za-z][\w /-]*):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
_A1111 = {"Seed": "seed", "Steps": "steps", "Sampler": "sampler", "CFG scale": "cfg"}
_A1111 |= {"Schedule type": "scheduler", "Model": "model"}
_COMFY = {
    "seed": ("seed", "noise_seed"),
    "steps": ("steps",),
    "sampler": ("sampler_name",),
    "cfg": ("cfg",),
    "scheduler": ("scheduler",),
    "model": ("ckpt_name", "unet_name"),
}
_TEXTS = ("text", "text_g", "text_l", "t5xxl", "clip_l", "string", "value", "prompt")


def read_parameters(texts: Mapping[str, str]) -> dict[str, Any] | None:
    """What a PNG was made with, from its texts by keyword; none where they do not say so.

    Returns:
        `prompt` (str) and, where told, `negative_prompt`, `sampler`, `scheduler`, `model` (str), `seed`, `steps` (int),
        `cfg` (float).
    """
    short = {name: text for name, text in texts.items() if len(text) <= MAX_TEXT}
    if "parameters" in short:
        return _from_a1111(short["parameters"])
    if "prompt" in short:
        return _from_comfy(short["prompt"])
    return None


def _from_a1111(text: str) -> dict[str, Any] | None:
    lines = text.strip().split("\n")
    settings: dict[str, str] = {}
    if re.search(r"\bSteps: ", lines[-1]):
        settings = {name: value.strip().strip('"') for name, value in _SETTING.findall(lines.pop())}
    start = next((i for i, line in enumerate(lines) if line.startswith("Negative prompt:")), len(lines))
    prompt = "\n".join(lines[:start]).strip()
    negative = "\n".join(lines[start:]).removeprefix("Negative prompt:").strip()
    values = {"prompt": prompt, "negative_prompt": negative}
    values |= {ours: settings[theirs] for theirs, ours in _A1111.items() if theirs in settings}
    return _typed(values)


def _from_comfy(text: str) -> dict[str, Any] | None:
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(graph, dict):
        return None
    nodes = {str(name): node for name, node in graph.items() if isinstance(node, dict) and _inputs(node)}
    guided = (node for node in nodes.values() if {"positive", "guider"} & set(_inputs(node)))
    samplers = (n for n in guided if "latent_image" in _inputs(n) or "sampler" in str(n.get("class_type", "")).lower())
    sampler = next(samplers, None)
    if sampler is None:
        return None
    values: dict[str, Any] = {
        "prompt": _text_above(nodes, sampler, ("positive", "guider", "conditioning")),
        "negative_prompt": _text_above(nodes, sampler, ("negative", "guider")),
    }
    for ours, theirs in _COMFY.items():
        inputs = (_inputs(node).get(name) for node in _above(nodes, sampler) for name in theirs)
        values[ours] = next((v for v in inputs if isinstance(v, str | int | float) and not isinstance(v, bool)), None)
    return _typed(values)


def _inputs(node: Mapping[str, Any]) -> Mapping[str, Any]:
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


def _linked(nodes: Mapping[str, Any], value: Any) -> Mapping[str, Any] | None:
    """The node that an input is linked to, as ["4", 0]."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str | int):
        return nodes.get(str(value[0]))
    return None


def _above(nodes: Mapping[str, Any], start: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The node and all that feed it, nearest first, each once."""
    seen, waiting = {id(start)}, [start]
    while waiting:
        node = waiting.pop(0)
        yield node
        for value in _inputs(node).values():
            feeder = _linked(nodes, value)
            if feeder is not None and id(feeder) not in seen:
                seen.add(id(feeder))
                waiting.append(feeder)


def _text_above(nodes: Mapping[str, Any], sampler: Mapping[str, Any], sides: tuple[str, ...]) -> str | None:
    """The first text up the links called `sides`, and from there up all links that lead to a text or conditioning."""
    node, seen, followed = sampler, set[int](), set[str]()
    while id(node) not in seen:  # through guiders, and ControlNets between the sampler and the texts
        seen.add(id(node))
        links = {side: feeder for side in sides if (feeder := _linked(nodes, _inputs(node).get(side))) is not None}
        if links:
            side, node = next(iter(links.items()))
            followed.add(side)
    if followed <= {"guider"}:  # not linked, or a guider without this side
        return None
    for above in _above(nodes, node):
        for name in _TEXTS:
            value = _inputs(above).get(name)
            if isinstance(value, str) and value.strip():
                return value
    return None


def _typed(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Numbers as numbers, what is missing or blank left out; none without a prompt."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or value == "":
            continue
        if name not in ("seed", "steps", "cfg"):
            result[name] = str(value).strip()
            continue
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value) if name == "cfg" else int(value)
            if math.isfinite(number):
                result[name] = number
    return result if result.get("prompt") else None
