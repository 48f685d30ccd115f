"""Has a judge answer: from what is stored where it is there, from the asker otherwise, several at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from typing import TYPE_CHECKING

from evalkit.http.client import Stopped
from evalkit.judges.answers import Answers
from evalkit.judges.asker import Answer, Asker, Item

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def answers_to(
    asker: Asker, stored: Answers, items: Sequence[Item], load: Callable[[], None] | None = None
) -> list[Answer]:
    """Each item's answer; what is asked for is stored as it comes, whatever goes wrong afterwards.

    Args:
        asker: who is asked.
        stored: that judge's answers, which take the new ones.
        items: what is asked; of equal ones the first alone.
        load: makes the asker ready, where something is to be asked; none: it is.

    Raises:
        ServiceError, StoreError: it answers no more; answers cannot be written.
    """
    answers: dict[str, Answer] = {}
    missing: dict[str, Item] = {}
    for item in items:
        key = item.key()
        if key not in answers and key not in missing:
            known = stored.get(item)
            if known is None:
                missing[key] = item
            else:
                answers[key] = known
    waiting = list(missing.items())
    if waiting and load is not None:
        load()
    groups = [waiting[i : i + asker.at_once] for i in range(0, len(waiting), asker.at_once)]
    try:
        if asker.threads == 1:
            for group in groups:
                answers |= _ask(asker, stored, group)
        elif groups:
            answers |= _ask_in_threads(asker, stored, groups)
    finally:
        stored.flush()
    return [answers[item.key()] for item in items]


def _ask(asker: Asker, stored: Answers, group: Sequence[tuple[str, Item]]) -> Mapping[str, Answer]:
    given = asker.ask([item for _, item in group])
    for (_, item), answer in zip(group, given, strict=True):
        stored.put(item, answer)
    return {key: answer for (key, _), answer in zip(group, given, strict=True)}


def _ask_in_threads(
    asker: Asker, stored: Answers, groups: Sequence[Sequence[tuple[str, Item]]]
) -> Mapping[str, Answer]:
    """The first error ends the batch: what waits is dropped, what is under way is waited for, and stored."""
    answers: dict[str, Answer] = {}
    with ThreadPoolExecutor(min(asker.threads, len(groups)), thread_name_prefix="evalkit-judge") as pool:
        running: list[Future[Mapping[str, Answer]]] = [pool.submit(_ask, asker, stored, group) for group in groups]
        try:
            for done in as_completed(running):
                with suppress(Stopped):  # by another call's error, which is the one to raise
                    answers |= done.result()
        except BaseException:
            asker.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return answers


def sized(image: NDArray[np.uint8], longest: int | None) -> NDArray[np.uint8]:
    """An image u8 [H,W,3], no side longer than `longest` (Lanczos); none: as it is."""
    import numpy as np
    from PIL import Image

    most = max(image.shape[:2])
    if longest is None or most <= longest:
        return image
    height, width = (max(round(side * longest / most), 1) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
