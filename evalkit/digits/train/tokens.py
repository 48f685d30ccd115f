"""A CLIP tokenizer of our own: every byte is a symbol, every word of the captions is one token."""

from __future__ import annotations

import json
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.digits import data

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
SUFFIX = "</w>"
WORDS = ("a", "on", "background", *data.DIGIT_WORDS, *data.COLOURS)


def _byte_symbols() -> list[str]:
    """The 256 printable stand-ins that byte-level BPE uses for bytes, in the order of CLIP's vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [256 + i for i in range(256 - len(plain))]
    return [chr(code) for code in (*plain, *moved)]


def _apply(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Plain BPE: the pieces of a word under the merges so far."""
    pieces = [*word[:-1], word[-1] + SUFFIX]
    while True:
        pairs = [(ranks[pair], i) for i, pair in enumerate(pairwise(pieces)) if pair in ranks]
        if not pairs:
            return pieces
        at = min(pairs)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]


def merges() -> list[tuple[str, str]]:
    """Merges that make each caption word one token.

    New merges come last, where they cannot disturb a word that earlier merges already complete.
    """
    ranks: dict[tuple[str, str], int] = {}
    for word in WORDS:
        pieces = _apply(word, ranks)
        while len(pieces) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    return list(ranks)


def vocabulary() -> dict[str, int]:
    """Symbols, symbols at a word's end, merged pieces, start and end (the highest id: open_clip pools there)."""
    symbols = _byte_symbols()
    pieces = [left + right for left, right in merges()]
    names = dict.fromkeys([*symbols, *(s + SUFFIX for s in symbols), *pieces, START, END])
    return {name: number for number, name in enumerate(names)}


def build(length: int) -> CLIPTokenizer:
    """The tokenizer, for at most ``length`` tokens with start and end."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer(vocab=vocabulary(), merges=merges(), model_max_length=length)


def ids(texts: list[str], length: int) -> Tensor:
    """Token ids int64 [N,length] of texts."""
    encoded = build(length)(texts, padding="max_length", truncation=True, return_tensors="pt")
    out: Tensor = encoded.input_ids
    return out


def caption_ids(length: int) -> Tensor:
    """Token ids int64 [10,8,8,length] of captions by digit, ink and background, those of equal colours among them."""
    texts = [data.Caption(*parts).text for parts in product(range(10), data.COLOURS, data.COLOURS)]
    return ids(texts, length).view(10, len(data.COLOURS), len(data.COLOURS), length)


def save(folder: Path, length: int) -> None:
    """Write the tokenizer's files, ``vocab.json`` and ``merges.txt`` (the classic form) among them."""
    build(length).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary(), ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges())]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
