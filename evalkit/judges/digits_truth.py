"""A judge who knows the truth about the embedded captioned digits: the digit by the classifier, the colours by a rule.

It reads what is asked for as a sentence about digit, ink and background ("a red seven on a blue background", "Is the
digit a seven?", "Is the background blue?"), and answers in the form that the sentence asks for. So every way of scoring
can be run, and seen to move as it should, without an endpoint: `asker: {_target_: evalkit.judges.DigitsTruth}`.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit.digits.data import COLOURS, DIGIT_WORDS
from evalkit.digits.judge import colours
from evalkit.judges.asker import Answer, Asker, Item
from evalkit.utils.files import resolve_path, sha256_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WEIGHTS = "pkg://evalkit.digits/weights/classifier.safetensors"
ALIKE = 0.01  # a difference of two images' mean probabilities that is none
SURE = 30.0  # a logarithm of odds that is as good as certain
_COLOUR, _DIGIT = "|".join(COLOURS), "|".join(DIGIT_WORDS)
_GROUND = re.compile(rf"\b({_COLOUR})\W+(?:back)?ground|(?:back)?ground\W+(?:\w+\W+){{0,2}}?({_COLOUR})\b", re.I)
_SCALE = re.compile(r"from (\d+) to (\d+)", re.I)
_ITEM = re.compile(r"^\d+\. (.+)$", re.M)


@dataclass(frozen=True)
class Facts:
    """What an image shows: the digits' probabilities f64 [10], ink and background by name."""

    digits: tuple[float, ...]
    ink: str
    background: str

    def chances(self, text: str) -> list[float]:
        """How probable each statement of a text is: of the digit a probability, of a colour 0 or 1."""
        text = text.lower()
        grounds = _GROUND.findall(text)
        rest = _GROUND.sub(" ", text)
        stated = [float((before or after) == self.background) for before, after in grounds]
        stated += [self.digits[DIGIT_WORDS.index(word)] for word in re.findall(rf"\b({_DIGIT})\b", rest)]
        return stated + [float(word == self.ink) for word in re.findall(rf"\b({_COLOUR})\b", rest)]


@dataclass
class DigitsTruth(Asker):
    """See above. Pictures of another size than 32x32 are made smaller by the classifier's own resize.

    Args:
        weights: of `evalkit.digits.nets.DigitClassifier`.
    """

    weights: str = WEIGHTS
    at_once: int = 256

    def check(self, *, fetch: bool = True, first_token: bool = False) -> None:
        """The weights ship with the package."""

    def identity(self) -> dict[str, Any]:
        return {"judge": "digits truth", "revision": 1, "weights": sha256_file(resolve_path(self.weights))}

    def label(self) -> str:
        return "truth"

    def ask(self, items: Sequence[Item]) -> Sequence[Answer]:
        pictures = {digest: image for item in items for digest, image in zip(item.shown, item.images, strict=True)}
        facts = dict(zip(pictures, facts_of(list(pictures.values()), self.weights), strict=True))
        return [
            answer_of(item.text, facts[item.shown[0]])
            if len(item.shown) == 1
            else choice_of(item.text, *(facts[shown] for shown in item.shown))
            for item in items
        ]


@functools.cache
def _classifier(weights: str) -> Any:
    from evalkit.digits.nets import load_classifier

    return load_classifier(resolve_path(weights))


def facts_of(images: Sequence[NDArray[np.uint8]], weights: str = WEIGHTS) -> list[Facts]:
    """What images u8 [H,W,3] show."""
    import numpy as np
    import torch
    from torch.nn.functional import interpolate

    tensors = [torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() for image in images]  # [1,3,H,W]
    sized = [
        x if x.shape[2:] == (32, 32) else interpolate(x, (32, 32), mode="bilinear", antialias=True) for x in tensors
    ]
    batch = torch.cat(sized)  # f32 [B,3,32,32], 0 to 255
    with torch.inference_mode():
        chances = _classifier(weights)(batch / 127.5 - 1)["logits"].double().softmax(1)  # f64 [B,10]
    inks, grounds = colours(batch.round().clamp(0, 255).to(torch.uint8).numpy())
    return [
        Facts(tuple(row.tolist()), COLOURS[ink], COLOURS[ground])
        for row, ink, ground in zip(chances, inks, grounds, strict=True)
    ]


def answer_of(text: str, facts: Facts) -> Answer:
    """The truth in the form that a text asks for (`evalkit.judges.ways`)."""
    if '"score"' in text:  # VIEScore's two questions
        follows = "Text:" in text
        chances = facts.chances(text.partition("Text:")[2].partition("\n")[0]) if follows else [max(facts.digits)]
        score = [round(10 * _mean(chances))] * (1 if follows else 2)
        return Answer(json.dumps({"score": score, "reasoning": "seen"}))
    asked, _, form = text.partition("\nAnswer with")
    scale = _SCALE.search(form)
    if scale is not None:
        low, high = int(scale[1]), int(scale[2])
        return Answer(str(round(low + (high - low) * _mean(facts.chances(asked)))))
    items = _ITEM.findall(text)
    if items:
        said = ("yes" if _all(facts.chances(item)) >= 0.5 else "no" for item in items)
        return Answer("\n".join(f"{number}. {word}" for number, word in enumerate(said, 1)))
    chance = _all(facts.chances(text))
    return Answer("Yes" if chance >= 0.5 else "No", _tokens(chance))


def choice_of(text: str, first: Facts, second: Facts) -> Answer:
    """Which of two images shows more of what a text asks for, each statement by its probability."""
    asked = text.partition("Text:")[2].partition("\n")[0]
    gap = _mean(first.chances(asked)) - _mean(second.chances(asked))
    return Answer("tie" if abs(gap) < ALIKE else "first" if gap > 0 else "second")


def _tokens(chance: float) -> Mapping[str, float]:
    """Log probabilities of the two answers."""
    least = math.exp(-SURE)
    return {"Yes": math.log(max(chance, least)), "No": math.log(max(1 - chance, least))}


def _all(chances: Sequence[float]) -> float:
    """The probability that all statements hold; 0 where nothing is stated."""
    return math.prod(chances) if chances else 0.0


def _mean(chances: Sequence[float]) -> float:
    return math.fsum(chances) / len(chances) if chances else 0.0
