"""What image tools write into their files: prompt, seed, steps, sampler, guidance scale, checkpoint, LoRAs.

AUTOMATIC1111 (and Forge, SD.Next) write one text "parameters" (JPEG and WebP: EXIF's UserComment): the prompt, a line
"Negative prompt: ...", a line "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, ...", and after it what extensions
add ("Template: ..." of Dynamic Prompts). ComfyUI writes its graph (`evalkit.data.comfyui_graph`). Other tools' texts
are read by sd-parsers where that is installed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evalkit.data.comfyui_graph import read_graph
from evalkit.utils.json_files import parse_json

if TYPE_CHECKING:
    from PIL.Image import Image

log = logging.getLogger(__name__)

MAX_TEXT = 1 << 20  # letters of a text; larger ones are left out
_EXIF, _USER_COMMENT = 0x8769, 0x9286
_COMFY_TAGS = (0x010E, 0x010F, 0x0110)  # description, make and model: ComfyUI's WebPs hold "prompt:{...}" in one
_ENCODINGS = {b"ASCII\0\0\0": "ascii", b"UNICODE\0": "utf-16-be", b"\0" * 8: "utf-8"}
_KEY = re.compile(r"[A-Za-z][\w /-]{0,63}")
_QUOTED = re.compile(r'"(?:[^"\\]++|\\.)*+"')
_A1111 = {"Seed": "seed", "Steps": "steps", "Sampler": "sampler", "CFG scale": "cfg"}
_A1111 |= {"Schedule type": "scheduler", "Model": "model"}
# AUTOMATIC1111's emphasis, as its prompt_parser.py reads it: escapes, brackets, the weight that ends one.
_EMPHASIS = re.compile(r"\\.|:\s*+[+-]?[.\d]++\s*+[)\]]|[()\[\]:|]|[^\\()\[\]:|]++|\\", re.DOTALL)
_EXTRA_NET = re.compile(r"<(\w{1,32}):([^<>]{1,256})>")  # <lora:name:weight>
_LORAS = ("lora", "lyco")
_OTHER_TOOLS = ("invokeai_metadata", "sd-metadata", "Dream", "Comment", "parameters", "fooocus_scheme")


def texts_of(image: Image) -> dict[str, str]:
    """The texts of an image file, by keyword: a PNG's before its pixels; of a JPEG, WebP or AVIF what EXIF holds.

    EXIF's are called as PNG's would be: "parameters", "prompt".
    """
    if image.format == "PNG":
        return {str(name): value for name, value in image.info.items() if isinstance(value, str)}
    if image.format not in ("JPEG", "MPO", "WEBP", "AVIF") or "exif" not in image.info:
        return {}
    try:
        exif = image.getexif()
        comment = exif.get_ifd(_EXIF).get(_USER_COMMENT)
        tags = [exif.get(tag) for tag in _COMFY_TAGS]
    except Exception:  # damaged EXIF: Pillow raises anything
        return {}
    graphs = [tag[7:] for tag in tags if isinstance(tag, str) and tag[:7].lower() == "prompt:"]
    texts = {"prompt": graphs[0]} if graphs else {}
    text = _user_comment(comment)
    if re.search(r"^Steps: \d|^Negative prompt:", text, re.MULTILINE) or text.startswith(
        "{"
    ):  # cameras comment as well
        texts["parameters"] = text
    return texts


def _user_comment(value: Any) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        return ""
    encoding = _ENCODINGS.get(value[:8])
    text = value[8:].decode(encoding, "replace") if encoding else value.decode("utf-8", "replace")
    if encoding == "utf-16-be" and (value[8:10] == b"\xff\xfe" or (value[9:10] == b"\0" and value[8:9] != b"\0")):
        text = value[8:].decode("utf-16-le", "replace")
    return text.strip("\0\ufeff ")


def read_parameters(texts: Mapping[str, str]) -> dict[str, Any] | None:
    """What an image was made with, from its texts by keyword; none where they do not say so.

    Returns:
        `prompt` (str, as the tool was given it) and, where told, `plain_prompt` (what of it a reader is to see, where
        that differs: without weights, LoRAs and BREAK), `negative_prompt`, `sampler`, `scheduler`, `model`, `lora`
        (str), `seed`, `steps` (int), `cfg` (float).
    """
    short = {name: text for name, text in texts.items() if len(text) <= MAX_TEXT}
    values: dict[str, Any] | None = None
    if "parameters" in short and not short["parameters"].lstrip().startswith("{"):  # Fooocus writes JSON there
        values = _from_a1111(short["parameters"])
    elif "prompt" in short:
        values = read_graph(short["prompt"])
        if values and values["prompt"]:
            values["plain_prompt"] = plain_prompt(values["prompt"], square=False)
    values = _typed(values or {})
    return values or (_by_sd_parsers(short) if any(name in short for name in _OTHER_TOOLS) else None)


def plain_prompt(prompt: str, *, square: bool = True) -> str:
    """A prompt without what only the tool reads: weights `(word:1.2)` and brackets, `<lora:name:1>`, BREAK, escapes.

    Of prompt editing `[from:to:0.5]` and alternation `[a|b]` all words stay. White space becomes single spaces. To
    ComfyUI square brackets are none of its syntax (`square`).
    """
    text = re.sub(r"\bBREAK\b", " ", _EXTRA_NET.sub(" ", prompt))
    parts: list[str] = []
    opened = {")": 0, "]": 0}  # by what closes them
    for token in _EMPHASIS.findall(text):
        if token[0] == "\\" and len(token) == 2 and token[1] in "()[]{}\\":
            parts.append(token[1])
        elif token == "(" or (token == "[" and square):
            opened[")" if token == "(" else "]"] += 1
        elif opened.get(token[-1]) and (len(token) == 1 or token[0] == ":"):  # ")", "]", ":1.2)", ":0.5]"
            opened[token[-1]] -= 1
        elif token in (":", "|") and opened["]"]:
            parts.append(" ")
        else:
            parts.append(token)
    words = " ".join("".join(parts).split())
    if words == " ".join(prompt.split()):
        return prompt
    return re.sub(r"(?: ?,){2,}", ",", words).replace(" ,", ",").strip(" ,")


def _from_a1111(text: str) -> dict[str, Any]:
    lines = text.strip().split("\n")
    at = _settings_line(lines)
    settings = _settings(lines[at]) if at < len(lines) else {}
    lines = lines[:at]  # what follows is of extensions: Dynamic Prompts' templates
    start = next((i for i, line in enumerate(lines) if line.startswith("Negative prompt:")), len(lines))
    prompt = "\n".join(lines[:start]).strip()
    nets = [(kind.lower(), name) for kind, name in _EXTRA_NET.findall(prompt)]
    return {
        "prompt": prompt,
        "plain_prompt": plain_prompt(prompt),
        "negative_prompt": "\n".join(lines[start:]).removeprefix("Negative prompt:").strip(),
        "lora": ", ".join(sorted(name for kind, name in nets if kind in _LORAS)),
        **{ours: settings[theirs] for theirs, ours in _A1111.items() if theirs in settings},
    }


def _settings_line(lines: list[str]) -> int:
    """Which line holds the settings: the last that begins with Steps, else a last line that has them in it."""
    for i in range(len(lines) - 1, -1, -1):
        if lines[i].startswith("Steps: "):
            return i
    return len(lines) - 1 if re.search(r"\bSteps: ", lines[-1]) else len(lines)


def _settings(line: str) -> dict[str, str]:
    """`Steps: 20, Lora hashes: "x: 1, y: 2"` by name, in one pass; a value with a comma in it is a JSON string."""
    values: dict[str, str] = {}
    position, quotes = 0, True
    while position < len(line):
        end = line.find(",", position)
        end = len(line) if end < 0 else end
        name, colon, value = line[position:end].partition(":")
        if quotes and value.lstrip().startswith('"'):
            quoted = _QUOTED.match(line, end - len(value.lstrip()))
            quotes = quoted is not None  # else none is closed that comes after it
            if quoted is not None:
                value = _unquoted(quoted[0])
                end = line.find(",", quoted.end())
                end = len(line) if end < 0 else end
        if colon and _KEY.fullmatch(name.strip()):
            values[name.strip()] = value.strip()
        position = end + 1
    return values


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        return text.strip('"')


def _typed(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Numbers as numbers, what is missing, blank or no character left out; none without a prompt."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if value is None or value == "":
            continue
        if name not in ("seed", "steps", "cfg"):
            result[name] = str(value).encode("utf-8", "replace").decode().strip()
            continue
        with contextlib.suppress(ValueError, OverflowError, TypeError):
            number = float(value) if name == "cfg" else int(value)
            if math.isfinite(number) and abs(number) < 2**64:
                result[name] = number
    if result.get("plain_prompt", "") in ("", result.get("prompt")):
        result.pop("plain_prompt", None)
    return result if result.get("prompt") else None


@functools.cache
def _parsers() -> list[Any]:
    """sd-parsers' own, without those of the two tools that are read here; empty where it is not installed."""
    try:
        from sd_parsers.parsers import MANAGED_PARSERS
    except ImportError:
        return []
    known = ("AUTOMATIC1111", "COMFYUI")
    return [kind() for kind in MANAGED_PARSERS if kind.generator.name not in known]


def _by_sd_parsers(texts: Mapping[str, str]) -> dict[str, Any] | None:
    """What InvokeAI, NovelAI or Fooocus wrote."""
    for parser in _parsers():
        try:
            for text in texts.values():
                if text.lstrip().startswith(("{", "[")):
                    parse_json(text, "")  # it would recurse
            found = parser.parse(dict(texts))
            sampler = found.samplers[0]
            more = {str(name): value for name, value in sampler.parameters.items()}
            values = {
                "prompt": found.full_prompt,
                "negative_prompt": found.full_negative_prompt,
                "sampler": sampler.name,
                "model": sampler.model.name if sampler.model else None,
                "seed": more.get("seed"),
                "steps": more.get("steps"),
                "cfg": more.get("cfg_scale"),
                "scheduler": more.get("scheduler"),
            }
            if typed := _typed(values):
                return typed
        except Exception:  # of our reader, and whatever theirs raise on what they do not know
            continue
    return None
