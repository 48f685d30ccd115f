"""A vision-language model of transformers in this process: Qwen-VL, InternVL, LLaVA, SmolVLM, Gemma 3 and the like.

Whatever `AutoModelForImageTextToText` loads and whose processor has a chat template. Weights are safetensors, found by
path or hub id; code that lies next to them is never run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError, nearest, whole_number
from evalkit.judges.asker import Answer, Asker, Item
from evalkit.numerics.precision import float32_arithmetic
from evalkit.utils.hub import WeightsLocation
from evalkit.utils.pretrained import Pretrained, quiet
from evalkit.utils.text import one_line
from evalkit.utils.weights import TAG_LENGTH

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = ("bfloat16", "float16", "float32")
ALTERNATIVES = 20  # of the first token: as many as endpoints give
SPELT = ("yes", "no")  # of these every spelling is given, however improbable


class LocalVlm(Asker):
    """Asks a model of transformers, several questions at a time.

    A question is one message of the user: the images, then the text, in the model's own chat template. Marks of that
    template in a text ("<|im_end|>") are left out, so that no prompt can end its question.

    The first token's probabilities are the softmax of the logits at the place where the answer begins, in float32 and
    before any temperature, over the whole vocabulary. Given are the 20 most probable tokens and every one that spells
    yes or no ("Yes", "yes", " Yes", "YES", as far as the tokenizer has them), decoded; tokens that decode to one text
    are one. So P(yes), their sum, is exact: nothing is cut off as by an endpoint that gives 20 alternatives.

    Decoding is greedy, without penalties, whatever the model's generation_config says. With a temperature, tokens are
    drawn from softmax(logits / temperature) by each question's own random numbers (of its digest, repeat and attempt;
    Gumbel's way): an answer does not depend on what is asked next to it.

    Args:
        path: a folder as save_pretrained or `hf download` writes it, "pkg://package/folder", or a hub id.
        revision: commit, tag or branch of a hub id; none: the main branch.
        dtype: of weights and arithmetic: bfloat16, float16 or float32.
        batch_size: questions in one forward pass.
        max_new_tokens: of an answer, where its way needs no fewer.
        temperature: 0: greedy; then each repeat gives the same answer.
        system: a message of the system before each question; none: none.
        processor: options of the model's processor, such as {max_pixels: 1003520} of Qwen's.
        where: how messages name it.
    """

    def __init__(
        self,
        path: str | None = None,
        revision: str | None = None,
        dtype: str = "bfloat16",
        batch_size: int = 8,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        system: str | None = None,
        processor: Mapping[str, Any] | None = None,
        where: str = "asker",
    ) -> None:
        if dtype not in DTYPES:
            raise ConfigError(f"{where}.dtype={dtype}: {nearest(dtype, DTYPES)}")
        if isinstance(temperature, bool) or not 0 <= temperature < math.inf:
            raise ConfigError(f"{where}.temperature={temperature}: give 0 (greedy) or a number above it")
        self.at_once = whole_number(batch_size, f"{where}.batch_size")
        self.max_new_tokens = whole_number(max_new_tokens, f"{where}.max_new_tokens")
        if not path:
            raise ConfigError(f"{where}.path is not set: give a folder or a hub id (Qwen/Qwen3-VL-8B-Instruct)")
        self.weights = Pretrained(f"{where}.path", WeightsLocation(str(path), revision))
        self.dtype, self.temperature, self.system = dtype, float(temperature), system
        self.processor_options = dict(processor or {})
        self._model: Any = None
        self._processor: Any = None
        self._device: str | None = None

    @property
    def place(self) -> str:
        return self.weights.location.path

    def check(self, *, fetch: bool = True, first_token: bool = False) -> None:
        """Looks for all files of a folder; a repository is fetched once."""
        self.weights.check(fetch=fetch)
        if not self.weights.location.on_hub or fetch:
            self.weights.check_sees()

    def identity(self) -> dict[str, Any]:
        return {
            "model": self.weights.identity(),
            "network": f"transformers {version('transformers').rpartition('.')[0]} AutoModelForImageTextToText",
            "dtype": self.dtype,
            "temperature": self.temperature,
            "max_new_tokens": self.max_new_tokens,
            "decoding": "drawn per question" if self.temperature else "greedy",
            "template": "the model's own: images, then the text",
            "system": self.system,
            "processor": self.processor_options,
        }

    def label(self) -> str:
        about = self.weights.identity()
        tag = str(about.get("weights") or about.get("commit") or about.get("revision"))
        return f"{Path(self.weights.location.path).name}@{tag[:TAG_LENGTH]}"

    def load(self, device: str) -> None:
        if self._model is None:
            self._load()
        if self._device != device:
            self._model.to(device)
            self._device = device

    def _load(self) -> None:
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        folder, dtype = self.weights.folder(), getattr(torch, self.dtype)
        given = f"{self.weights.option}={self.weights.location.path}"  # in messages
        no_code: dict[str, Any] = {"trust_remote_code": False}  # left open, transformers would ask on the terminal
        try:
            with quiet():
                processor = AutoProcessor.from_pretrained(folder, **self.processor_options, **no_code)
                model = AutoModelForImageTextToText.from_pretrained(
                    folder, torch_dtype=dtype, use_safetensors=True, **no_code
                )
        except Exception as error:  # of many kinds: an unknown class, a missing file, tensors that do not fit
            raise ConfigError(f"{given} cannot be loaded: {one_line(error)}") from error
        if not getattr(processor, "chat_template", None) or getattr(processor, "tokenizer", None) is None:
            fix = "it was not trained to answer; take its instruct or chat version"
            raise ConfigError(f"{given} has no chat template: {fix}")
        if model.config.is_encoder_decoder:
            raise ConfigError(f"{given}: encoder-decoders are not asked here")
        processor.tokenizer.padding_side = "left"  # answers begin where the questions end
        self._processor, self._model = processor, model.eval().requires_grad_(False)
        self._marks = marks(processor)
        self._spelt = spelt(processor.tokenizer)

    def unload(self) -> None:
        self._model = self._processor = self._device = None

    # -- questions

    def ask(self, items: Sequence[Item]) -> Sequence[Answer]:
        """One forward pass per kind of question (a first token, or a text of so many tokens)."""
        answers: dict[int, Answer] = {}
        kinds: dict[tuple[bool, int], list[int]] = {}
        for place, item in enumerate(items):
            most = min(item.max_tokens or self.max_new_tokens, self.max_new_tokens)
            kinds.setdefault((item.first_token, most), []).append(place)
        for (first, most), places in kinds.items():
            answers |= zip(places, self._answers([items[place] for place in places], first, most), strict=True)
        return [answers[place] for place in range(len(items))]

    def inputs(self, items: Sequence[Item]) -> Any:
        """What the model is given: token ids and mask, i64 [B,T], padded on the left, and what it needs of images."""
        from PIL import Image

        texts = [
            self._processor.apply_chat_template(self._messages(item), add_generation_prompt=True) for item in items
        ]
        images = [[Image.fromarray(image) for image in item.images] for item in items]
        options = {"add_special_tokens": False} if self._begins(texts[0]) else {}
        made = self._processor(text=texts, images=images, padding=True, return_tensors="pt", **options)
        return made.to(self._device, getattr(self._model, "dtype", None))

    def _begins(self, text: str) -> bool:
        """Whether the template writes the mark that a tokenizer would set before a text once more."""
        mark = self._processor.tokenizer.bos_token
        return bool(mark) and text.startswith(mark)

    def _messages(self, item: Item) -> list[dict[str, Any]]:
        text = item.text
        while found := [mark for mark in self._marks if mark in text]:  # what is left may be one again
            text = text.replace(found[0], "")
        content = [*({"type": "image"} for _ in item.images), {"type": "text", "text": text}]
        asked: dict[str, Any] = {"role": "user", "content": content}
        if self.system is None:
            return [asked]
        return [{"role": "system", "content": [{"type": "text", "text": self.system}]}, asked]

    def _answers(self, items: Sequence[Item], first: bool, most: int) -> list[Answer]:
        import torch

        with torch.inference_mode(), float32_arithmetic(), quiet():
            given = self.inputs(items)
            made = self._model.generate(
                **given,
                generation_config=self._decoding(most, first),
                logits_processor=[_Drawn(items, self.temperature)] if self.temperature else [],
            )
        tokens = made.sequences[:, given["input_ids"].shape[1] :]  # i64 [B,<=most]
        counts = given["attention_mask"].sum(1).tolist()
        logs = made.logits[0].float().log_softmax(-1).cpu() if first else [None] * len(items)  # f32 [B,V]
        return [self._answer(*each) for each in zip(tokens, counts, logs, strict=True)]

    def _decoding(self, most: int, first: bool) -> Any:
        """Greedy, with the model's own marks of beginning and end and nothing else of its generation_config."""
        from transformers import GenerationConfig

        own, tokenizer = self._model.generation_config, self._processor.tokenizer
        names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_bos_token_id")
        marks = {name: getattr(own, name, None) for name in names}
        if marks["eos_token_id"] is None:
            marks["eos_token_id"] = tokenizer.eos_token_id
        if marks["pad_token_id"] is None:
            marks["pad_token_id"] = tokenizer.pad_token_id or tokenizer.eos_token_id
        return GenerationConfig(
            max_new_tokens=most,
            do_sample=False,
            num_beams=1,
            return_dict_in_generate=True,
            output_logits=first,
            **marks,
        )

    def _answer(self, tokens: Tensor, sent: int, logs: Tensor | None) -> Answer:
        """Of one question: tokens i64 [T] that came, and the first one's log probabilities f32 [V]."""
        config = self._model.generation_config
        ends = config.eos_token_id if config.eos_token_id is not None else self._processor.tokenizer.eos_token_id
        ids = tokens.tolist()
        stops = set(ends if isinstance(ends, list) else [ends])
        length = next((place for place, one in enumerate(ids) if one in stops), len(ids))
        text = self._processor.tokenizer.decode(ids[:length], skip_special_tokens=True)
        first = None if logs is None else self._first(logs)
        finish = "stop" if length < len(ids) or first is not None else "length"
        return Answer(text, first=first, finish=finish, sent=sent, received=min(length + 1, len(ids)))

    def _first(self, logs: Tensor) -> dict[str, float]:
        """Token -> log probability, of f32 [V]: the most probable ones, and all spellings of yes and no."""
        if not self._spelt:
            raise ConfigError(
                f"{self.weights.option}={self.weights.location.path}: its tokenizer has no token that spells yes: "
                "ask another way (way=yes_no)"
            )
        ids = dict.fromkeys([*logs.topk(min(ALTERNATIVES, len(logs))).indices.tolist(), *self._spelt])
        found: dict[str, float] = {}
        for one in ids:
            text, log = self._processor.tokenizer.decode([one]), float(logs[one])
            if log > -math.inf:
                found[text] = log if text not in found else _log_sum(found[text], log)
        return found


def marks(processor: Any) -> list[str]:
    """What a chat is written with besides words ("<|im_end|>", "<image>"), the longest first.

    Special tokens alone: some tokenizers add line breaks and tags as plain ones, which a question may well have.
    """
    tokenizer = processor.tokenizer
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    known = {*added, *tokenizer.all_special_tokens, getattr(processor, "image_token", None)}
    return sorted((str(mark) for mark in known if mark and str(mark).strip()), key=len, reverse=True)


def spelt(tokenizer: Any) -> list[int]:
    """The ids of all tokens that spell one of `SPELT`, in any case and with or without a space before it."""
    pieces = tokenizer.get_vocab().items()  # as stored: "Ġ" or "▁" stands for the space
    return sorted(one for piece, one in pieces if piece.strip().lstrip("Ġ▁").strip().lower() in SPELT)


def _log_sum(a: float, b: float) -> float:
    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


class _Drawn:
    """Turns the greedy choice into a draw from softmax(logits / temperature), by Gumbel's maximum (Gumbel 1954)."""

    def __init__(self, items: Sequence[Item], temperature: float) -> None:
        import torch

        seeds = (hashlib.sha256(f"{item.key()} {item.repeat} {item.attempt}".encode()).digest() for item in items)
        self.temperature = temperature
        self.generators = [torch.Generator().manual_seed(int.from_bytes(seed[:7], "big")) for seed in seeds]

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        import torch

        sizes = scores.shape[1]
        noise = torch.stack([-torch.empty(sizes).exponential_(generator=each).log() for each in self.generators])
        return scores.float() / self.temperature + noise.to(scores.device)  # f32 [B,V]
