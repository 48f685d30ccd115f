"""The way `ocr`: the judge writes down the text in an image, and it is compared with the text that should be there.

The score is 1 - D / max(len(read), len(right)), D the edit distance of Levenshtein over characters: the normalised edit
distance of AnyText (Tuo et al. 2024, arXiv:2311.03054) and of ICDAR's competitions, turned so that 1 is right.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from evalkit.judges.asker import Answer
from evalkit.judges.questions import Question
from evalkit.judges.way import Way

FORM = (
    "Answer with that text alone, exactly as it is spelt in the image with all its mistakes, in reading order, without "
    "quotes or comments. If there is no text, answer (no text)."
)
NOTHING = "(no text)"
NORMALISATION = "Unicode NFKC, lower case, runs of white space as one space; punctuation counts"
_FENCE = re.compile(r"^```\w*\n(.*?)\n?```$", re.S)
_THOUGHT = "</think>"  # behind it is the answer of models that reason aloud
_QUOTES = {('"', '"'), ("'", "'"), ("“", "”"), ("„", "“"), ("«", "»"), ("‘", "’")}


class Ocr(Way):
    """How near the text that the judge reads comes to the right one (`Question.answer`), 0 to 1.

    Parts of one answer, in one call: edit, the score; words, the share of the right text's words that were read.
    """

    parts = ("edit", "words")
    needs_answer = True

    def texts(self, question: Question, prompt: str) -> tuple[str, ...]:
        return (f"{question.of(prompt)}\n{FORM}",) * len(self.parts)

    def read(self, answer: Answer, question: Question, part: int) -> float | None:
        text = text_of(answer)
        if text is None:
            return None
        return (similarity, word_accuracy)[part](text, question.answer or "")

    def about(self) -> list[str]:
        return [*super().about(), NORMALISATION]


def text_of(answer: Answer) -> str | None:
    """The text that a judge read, without the fence or the quotes around all of it; none of a refusal, or of nothing.

    An answer that was cut at its most tokens is what was read that far: a text too long for it scores low.
    """
    if answer.finish == "refusal":
        return None
    text = answer.text.rpartition(_THOUGHT)[2].strip()
    fenced = _FENCE.match(text)
    text = fenced[1].strip() if fenced else text
    if not text:
        return None
    if len(text) > 2 and (text[0], text[-1]) in _QUOTES and text[0] not in text[1:-1]:
        text = text[1:-1]
    return "" if normalised(text).strip("().") == NOTHING.strip("()") else text


def normalised(text: str) -> str:
    """As texts are compared: `NORMALISATION`."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def similarity(read: str, right: str) -> float:
    """1 - edit distance / the longer text's length, of both normalised; 1 of two empty texts."""
    a, b = normalised(read), normalised(right)
    return 1 - edit_distance(a, b) / max(len(a), len(b), 1)


def word_accuracy(read: str, right: str) -> float:
    """The share of the right text's words that were read, of both normalised; of a text without words 1 where none was.

    Words are what stands between spaces; of those read too often the right number counts (as in OneIG-Bench).
    """
    given, wanted = Counter(normalised(read).split()), Counter(normalised(right).split())
    if not wanted:
        return float(not given)
    return (given & wanted).total() / wanted.total()


def edit_distance(a: str, b: str) -> int:
    """Levenshtein's: the fewest insertions, deletions and replacements of characters that turn one into the other.

    Bit-parallel (Myers 1999, in the form of Hyyrö 2003), a column of the table per step as one long integer.
    """
    if not a or not b:
        return len(a) + len(b)
    places: dict[str, int] = {}
    for i, letter in enumerate(a):
        places[letter] = places.get(letter, 0) | 1 << i
    every, last = (1 << len(a)) - 1, 1 << len(a) - 1
    up, down, distance = every, 0, len(a)  # where the table grows and falls by one along `a`
    for letter in b:
        same = places.get(letter, 0)
        diagonal = (((same & up) + up) ^ up) | same | down
        grown, fallen = down | ~(diagonal | up) & every, up & diagonal
        distance += bool(grown & last) - bool(fallen & last)
        grown, fallen = (grown << 1 | 1) & every, fallen << 1 & every
        up, down = fallen | ~(diagonal | grown) & every, grown & diagonal
    return distance
