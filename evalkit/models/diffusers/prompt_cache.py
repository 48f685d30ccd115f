"""A pipeline's text encoders run once per prompt, where its prompts come again."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from evalkit.errors import ConfigError

if TYPE_CHECKING:
    import torch

BYTES = 2_000_000_000  # of embeddings that stay on the device; those not asked for longest go first


class PromptCache:
    """Stands in for a pipeline's `encode_prompt`, and remembers what it gave for each prompt.

    Each prompt (with its negative prompt, and what else `encode_prompt` is told) is encoded alone, so that an image
    depends on no other prompt of its batch; bits may differ from those of prompts that are encoded together. A call
    with anything but texts and plain values (images, embeddings) is handed on as it is.

    Attributes:
        state: what else the embeddings depend on, such as the scale of adapters.
    """

    def __init__(self, pipe: Any, who: str) -> None:
        check_prompt_cache(type(pipe), who)
        self._encode = pipe.encode_prompt
        self._signature = inspect.signature(self._encode)
        self._who = who
        self._known: OrderedDict[Hashable, tuple[Any, ...]] = OrderedDict()
        self._bytes = 0
        self.state: Hashable = None
        pipe.encode_prompt = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        asked = self._signature.bind(*args, **kwargs).arguments
        prompts = asked.get("prompt")
        lists = {name: value for name, value in asked.items() if isinstance(value, list)}
        others = {name: value for name, value in asked.items() if name not in lists}
        plain = all(_is_plain(value) for value in others.values())
        texts = all(isinstance(text, str | None) for value in lists.values() for text in value)
        if (
            not isinstance(prompts, list)
            or not plain
            or not texts
            or {len(v) for v in lists.values()} != {len(prompts)}
        ):
            return self._encode(*args, **kwargs)
        same = (self.state, *((name, str(value)) for name, value in others.items()))
        return self._joined([self._one({n: v[i] for n, v in lists.items()}, others, same) for i in range(len(prompts))])

    def _one(self, texts: dict[str, Any], others: dict[str, Any], same: Hashable) -> tuple[Any, ...]:
        key = (same, *texts.items())
        if key not in self._known:
            made = tuple(self._encode(**{name: [text] for name, text in texts.items()}, **others))
            self._known[key] = made
            self._bytes += _size(made)
            while self._bytes > BYTES and len(self._known) > 1:
                self._bytes -= _size(self._known.popitem(last=False)[1])
        self._known.move_to_end(key)
        return self._known[key]

    def _joined(self, each: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
        """What `encode_prompt` gives for all of them: tensors by prompt in one; what is no prompt's own as it is."""
        import torch

        joined: list[Any] = []
        for parts in zip(*each, strict=True):
            first: torch.Tensor | None = parts[0]
            if first is None or first.shape[0] != 1:  # no guidance; FLUX's ids, by token
                joined.append(first)
                continue
            if len({part.shape for part in parts}) > 1:
                raise ConfigError(
                    f"cache_prompts: {self._who} embeds each prompt in a length of its own: set cache_prompts: false"
                )
            joined.append(torch.cat(parts))
        return tuple(joined)


def check_prompt_cache(pipeline: Any, who: str) -> None:
    """ConfigError where a class of pipelines encodes no prompts by a method of its own."""
    if "prompt" not in inspect.signature(getattr(pipeline, "encode_prompt", lambda: None)).parameters:
        raise ConfigError(f"cache_prompts: {pipeline.__name__} of {who} has no encode_prompt: set cache_prompts: false")


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool) or type(value).__name__ == "device"


def _size(parts: Sequence[Any]) -> int:
    return sum(part.nbytes for part in parts if part is not None)
