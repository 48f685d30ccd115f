"""A judge: a model that looks at images and answers questions about them, pinned and stored as any network's features.

Who is asked is the option `asker` (`evalkit.judges.chat.Chat`: an endpoint), what is asked is a question or a file of
them, how answers become numbers a way (`evalkit.judges.ways`). Every raw answer is stored; features are computed from
answers, so that another way of reading them, or a change here, asks nothing again.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from evalkit.config.build import accepted_keys, build
from evalkit.data.codec import decode
from evalkit.errors import ConfigError, UnsuitedError, whole_number
from evalkit.extractors.base import DECODER, BatchSize, Edit, Extractor
from evalkit.judges.answers import Answers
from evalkit.judges.asker import Asker, Item, digest_of
from evalkit.judges.asking import answers_to, sized
from evalkit.judges.benchmark_file import pictures_by_prompt, questions_by_prompt
from evalkit.judges.calibration import KnownItem, compare, read_items
from evalkit.judges.place import AnswerPlace
from evalkit.judges.questions import PLACE, Question, question_of, read_questions, weighted_mean, with_parents
from evalkit.judges.tiles import tiles
from evalkit.judges.way import REMINDER, Way
from evalkit.judges.ways import way_of
from evalkit.utils.files import read_file, resolve_path, sha256_json
from evalkit.utils.text import one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from evalkit.extractors.base import Images

log = logging.getLogger(__name__)

CALLS = ("calls", "unread", "sent", "received")  # columns of the layer "calls"


@dataclass
class _Ask:
    """One question about one image, once: an item, and what came of it."""

    item: Item
    question: Question
    way: Way
    part: int
    value: float | None = None
    calls: int = 0
    sent: int = 0
    received: int = 0


class Judge(Extractor):
    """Layers of an image and its prompt, Q questions and k repeats:

    score: f32 [B,1], the mean over repeats of the weighted mean over questions; 0 to 1, or the rubric's own scale.
    answers: f32 [B,Q], the mean over repeats of each question's value, in the file's order; NaN beyond a prompt's own.
    repeats: f32 [B,k], the score of each repeat.
    calls: f32 [B,4], of all answers behind them: calls, answers that could not be read, tokens sent, tokens received.
    sc, pq: f32 [B,1], parts of the way "viescore"; edit, words: of "ocr". NaN where no question is asked so.

    An answer that is not in the form asked for is asked for again, `reask` times at most; then it counts the lowest
    value of its scale, and is counted.

    Args:
        asker: who is asked: a `_target_` with its options, or an `Asker`.
        way: how `question` is asked, of `evalkit.judges.ways.WAYS`.
        question: of every image; {prompt} stands for its prompt.
        questions: instead: a file of them, by prompt (`evalkit.judges.questions`); or how a benchmark's file is read
            (`evalkit.judges.benchmark_file`).
        repeats: how often each question is asked.
        reask: see above.
        image_size: the longest side, in pixels, that larger images are made smaller to (Lanczos); none: as they are.
        calibration: a file of items whose answers are known (`evalkit.judges.calibration`), each asked once.
        answers: a folder of answers, where that is not the store's.
        grid: an image is so many times so many of one prompt, side by side: each is asked about, and the means count.
        cascade: whether a question that counts 0 for its parents' sake takes its own children with it.
        batch_size: images whose questions are asked together.
        name: how scores are labelled.

    Raises:
        ConfigError: an option makes no sense.
        DataError: the file of questions, or of known answers, cannot be read.
    """

    asks = True

    def __init__(
        self,
        asker: Mapping[str, Any] | Asker,
        way: str = "yes_no",
        question: str | None = None,
        questions: str | Mapping[str, Any] | None = None,
        repeats: int = 1,
        reask: int = 2,
        image_size: int | None = None,
        calibration: str | None = None,
        answers: str | None = None,
        batch_size: BatchSize = 64,
        name: str = "judge",
        grid: int = 1,
        cascade: bool = True,
    ) -> None:
        super().__init__(name, batch_size)
        where = f"extractor.{name}"
        self.repeats, self.reask = whole_number(repeats, f"{where}.repeats"), whole_number(reask, f"{where}.reask", 0)
        self.image_size = None if image_size is None else whole_number(image_size, f"{where}.image_size", 16)
        self.grid = whole_number(grid, f"{where}.grid")
        self.cascade = cascade and (not isinstance(questions, Mapping) or questions.get("cascade") is not False)
        if (question is None) == (questions is None):
            raise ConfigError(f"{where}: give question (a text) or questions (a file), one of them")
        self._every = None if question is None else (question_of({"id": "q", "text": question, "way": way}, where),)
        self._of = _by_prompt(questions) if questions is not None else {}
        asked = self._every or [one for each in self._of.values() for one in each]
        self.originals = any(one.images == 2 for one in asked)
        self._pictures = pictures_by_prompt(questions) if isinstance(questions, Mapping) and self.originals else {}
        self._ways = {used: way_of(used, f"{where}.way") for used in dict.fromkeys(one.way for one in asked)}
        scales = {each.scale for each in self._ways.values()}
        if len(scales) > 1:
            raise ConfigError(f"{where}: the ways {', '.join(self._ways)} have several scales: judge each by itself")
        (self.scale,) = scales
        lacking = next((one for one in asked if one.answer is None and self._ways[one.way].needs_answer), None)
        if lacking is not None:
            fix = "give it in a file of questions (questions=FILE)"
            raise ConfigError(
                f"{where}: '{one_line(lacking.text)}': the way {lacking.way} needs the right answer: {fix}"
            )
        self._width = max(map(len, self._of.values()), default=1)
        self._parts = tuple(dict.fromkeys(part for each in self._ways.values() for part in each.parts))
        self.asker: Asker = _asker(asker, f"{where}.asker") if isinstance(asker, Mapping) else asker
        self._place = None if answers is None else AnswerPlace(resolve_path(answers))
        self._fixed_place = self._place is not None
        if self._place is not None:
            self.asker.keep_in(self._place)
        self._stored: Answers | None = None
        self._device: str | None = None
        own = self._every[0] if self._every else None
        self._known = None if calibration is None else read_items(calibration, own, way, f"{where}.calibration")
        self.calibrated = self._known is not None
        prompted = self._every is None or any(PLACE in one.text for one in self._every) or "viescore" in self._ways
        self.joint_layers = frozenset(self.layers) if prompted else frozenset()
        self.sparse_layers = frozenset({"answers", *self._parts})

    @property
    def layers(self) -> Mapping[str, int | None]:
        shared = {"score": 1, "answers": self._width, "repeats": self.repeats, "calls": len(CALLS)}
        return shared | dict.fromkeys(self._parts, 1)

    @property
    def stored_in(self) -> AnswerPlace | None:
        """Where its answers lie; none: in memory."""
        return self._place

    def keep_in(self, answers: AnswerPlace) -> None:
        if not self._fixed_place:
            self._place = answers
            self.asker.keep_in(answers)

    def check(self, *, fetch: bool = True) -> None:
        ways = [*self._ways.values(), *(self._known.ways if self._known else ())]
        self.asker.check(fetch=fetch, first_token=any(way.first_token for way in ways))
        if self._known is not None:
            self._known.check()
        if self.repeats > 1 and self.asker.identity().get("temperature", 1) == 0:
            log.warning("%s: repeats=%d at temperature 0 show no variance of the judge", self.where, self.repeats)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        missing = [] if self._every else [text for text in dict.fromkeys(prompts) if text.strip() not in self._of]
        if missing:
            count = f"{len(missing)} prompts have" if len(missing) > 1 else "a prompt has"
            first = one_line(missing[0], 80)
            raise ConfigError(f"extractor.{self.name}.questions: {count} no questions in the file, such as '{first}'")

    def forecast(self, prompts: Sequence[str | None]) -> str:
        texts = [text or "" for text in prompts if text is not None or not self.joint_layers]
        asked = {text: [self._ways[q.way].texts(q, text) for q in self.questions_of(text)] for text in set(texts)}
        per = {text: sum(len(set(each)) for each in of) for text, of in asked.items()}  # parts may read one answer
        calls = self.repeats * self.grid**2 * sum(per[text] for text in texts)
        again = f" (at most {calls * (1 + self.reask):,} calls, with those asked again)" if self.reask else ""
        stored, sent, received = Answers(self._place, self.asker.identity()).usage()
        tokens = "they count no tokens" if stored else "tokens are known once there are answers"
        if sent:
            tokens = f"about {calls * sent:,.0f} tokens sent and {calls * received:,.0f} received, as in stored answers"
        return f"{calls:,} questions about {len(texts):,} samples{again}; {stored:,} answers are stored; {tokens}"

    @property
    def place(self) -> str:
        return f"{self.asker.place} (extractor.{self.name}.asker)"

    def identity(self) -> dict[str, Any]:
        template = [[used, way.about()] for used, way in self._ways.items()]
        every = {"": self._every} if self._every else self._of
        asked = {prompt: [asdict(question) for question in each] for prompt, each in every.items()}
        return {
            "judge": self.asker.identity(),
            "ways": list(self._ways),
            "template": sha256_json([template, asked]),
            "question": self._every[0].text if self._every else f"{len(self._of)} prompts' own",
            "repeats": self.repeats,
            "reask": self.reask,
            "image_size": self.image_size,
            **({"grid": self.grid} if self.grid > 1 else {}),
            **({} if self.cascade else {"parents": "their own answers"}),
            "decoder": DECODER,
        }

    def label(self) -> str:
        return f"{self.name}:{self.asker.label()}"

    def load(self, device: str) -> None:
        if self._stored is None or self._stored.identity != self.asker.identity():
            self._stored = Answers(self._place, self.asker.identity())
        self._device = device  # the asker is loaded with the first question that is not answered yet

    def unload(self) -> None:
        self.asker.unload()
        if self._stored is not None:
            self._stored.close()
        self._stored = None

    def questions_of(self, prompt: str) -> tuple[Question, ...]:
        """What is asked about an image of a prompt. UnsuitedError: the file has no such prompt."""
        questions = self._every or self._of.get(prompt.strip())
        if questions is None:
            raise UnsuitedError(
                f"extractor.{self.name}.questions has none for the prompt '{one_line(prompt)}'", self.name
            )
        return questions

    def __call__(self, images: Images, prompts: Sequence[str], layers: Sequence[str]) -> dict[str, Tensor]:
        import numpy as np
        import torch

        prompts = prompts or [""] * len(images)
        asks = [list(self._asks(image, prompt)) for image, prompt in zip(images, prompts, strict=True)]
        self._answer([ask for each in asks for ask in each])
        rows = [self._row(prompt, each) for prompt, each in zip(prompts, asks, strict=True)]
        return {layer: torch.from_numpy(np.array([row[layer] for row in rows], np.float32)) for layer in layers}

    def _asks(self, image: NDArray[np.uint8], prompt: str) -> Iterator[_Ask]:
        """By repeat, picture of the grid, question and part."""
        questions = self.questions_of(prompt)
        pictures = [sized(picture, self.image_size) for picture in tiles(image, self.grid)]
        digests = [digest_of(picture) for picture in pictures]
        before = self._original(prompt) if any(one.images == 2 for one in questions) else None
        for repeat in range(self.repeats):
            for picture, digest in zip(pictures, digests, strict=True):
                for question in questions:
                    way = self._ways[question.way]
                    first = [] if before is None or question.images == 1 else [before]
                    shown, known = (*first, picture), (*map(digest_of, first), digest)
                    for part, text in enumerate(way.texts(question, prompt)):
                        item = Item(shown, text, way.first_token, repeat, 0, way.max_tokens, known)
                        yield _Ask(item, question, way, part)

    def _original(self, prompt: str) -> NDArray[np.uint8]:
        """The picture that was to be edited, as it is sent: the sample's own, or the one that the prompt stands for."""
        file = prompt.original if isinstance(prompt, Edit) else self._pictures.get(prompt.strip())
        if file is None:
            raise UnsuitedError(
                f"{self.where}: which picture was edited by '{one_line(prompt)}' is not known", self.name
            )
        return sized(decode(read_file(file), str(file)), self.image_size)

    def _answer(self, asks: Sequence[_Ask]) -> None:
        """Asks until each has a value, or has been asked often enough."""
        assert self._stored is not None, "load() comes first"
        open_asks = list(asks)
        for attempt in range(self.reask + 1):
            if attempt:
                open_asks = [ask for ask in open_asks if ask.value is None]
                for ask in open_asks:
                    text = ask.item.text if attempt > 1 else f"{ask.item.text}\n{REMINDER}"
                    ask.item = replace(ask.item, text=text, attempt=attempt)
            answers = answers_to(self.asker, self._stored, [ask.item for ask in open_asks], self._load_asker)
            for ask, answer in zip(open_asks, answers, strict=True):
                ask.value = ask.way.read(answer, ask.question, ask.part)
                ask.calls += 1
                ask.sent, ask.received = ask.sent + answer.sent, ask.received + answer.received

    def _load_asker(self) -> None:
        assert self._device is not None
        self.asker.load(self._device)

    def calibrate(self, device: str) -> dict[str, Any]:
        assert self._known is not None
        self.load(device)
        values: list[float | None] = []
        batch = self.batch_on(device)
        for start in range(0, len(self._known.items), batch):
            asks = [self._ask_known(item) for item in self._known.items[start : start + batch]]
            self._answer(asks)
            values += [ask.value for ask in asks]
        return compare(self.label(), self._known, values).to_json()

    def _ask_known(self, known: KnownItem) -> _Ask:
        shown, way = sized(decode(known.image), self.image_size), way_of(known.question.way, self.where)
        text = way.texts(known.question, known.prompt)[0]
        item = Item((shown,), text, way.first_token, 0, 0, way.max_tokens, (digest_of(shown),))
        return _Ask(item, known.question, way, 0)

    def _row(self, prompt: str, asks: Sequence[_Ask]) -> dict[str, list[float]]:
        """By layer the values of one image, from its answers by repeat, question and part."""
        questions = self.questions_of(prompt)
        low = self.scale[0]
        given = iter([low if ask.value is None else ask.value for ask in asks])
        parts: dict[str, list[float]] = {part: [] for part in self._parts}
        values: list[list[float]] = []  # by repeat and question
        for _ in range(self.repeats):
            pictures = []
            for _ in range(self.grid**2):
                raw = []
                for question in questions:
                    way = self._ways[question.way]
                    of_parts = [next(given) for _ in way.parts or ("",)]
                    for part, value in zip(way.parts, of_parts, strict=False):
                        parts[part].append(value)
                    raw.append(way.join(of_parts))
                pictures.append(with_parents(questions, raw, cascade=self.cascade))
            values.append([math.fsum(each) / self.grid**2 for each in zip(*pictures, strict=True)])
        repeats = [weighted_mean(questions, each) for each in values]
        answers = [math.fsum(each) / self.repeats for each in zip(*values, strict=True)]
        made = list({ask.item.key(): ask for ask in asks}.values())  # parts may read one answer
        unread = sum(ask.value is None for ask in made)
        counts = [sum(a.calls for a in made), unread, sum(a.sent for a in made), sum(a.received for a in made)]
        return {
            "score": [math.fsum(repeats) / self.repeats],
            "answers": [*answers, *[math.nan] * (self._width - len(answers))],
            "repeats": repeats,
            "calls": [float(count) for count in counts],
            **{part: [math.fsum(each) / len(each) if each else math.nan] for part, each in parts.items()},
        }


def _by_prompt(questions: str | Mapping[str, Any]) -> Mapping[str, tuple[Question, ...]]:
    return read_questions(questions) if isinstance(questions, str) else questions_by_prompt(questions)


def _asker(option: Mapping[str, Any], where: str) -> Asker:
    """The asker of an option, which knows what messages are to call it."""
    named = "where" in accepted_keys(str(option.get("_target_")))
    asker: Asker = build({**option, "where": where} if named else option, where, Asker)
    return asker
