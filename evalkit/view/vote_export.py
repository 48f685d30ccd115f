"""A voting page that needs no server: a folder to be sent or hosted, and the votes that come back from it.

The folder says nothing of cells: its images are pixels under random names, and what the names mean is kept in the run's
folder, in votes_keys/.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import ConfigError, DataError, nearest, printable
from evalkit.utils.files import MAX_FILE_BYTES, atomic_folder, read_file, write_json, writing
from evalkit.utils.json_files import parse_json
from evalkit.view.ballot import Ballot, name_of
from evalkit.view.voting import page
from evalkit.votes.records import Vote, append_votes, read_lines

KEYS = "votes_keys"  # in the run's folder
PLANS = 12  # orders in a page; a voter's name chooses one
SCHEMA = 1
MAX_SECONDS = 10**9  # of one vote: whoever left the page open came back after 30 years
_TEXTS = ("time", "voter", "left", "right", "outcome")
_SAID = ("left", "right", "tie", "both_bad", "undo")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: to be sent or hosted.
        key: the file that says which image is of which cell; it stays here.
        images: how many there are.
        size: of all files, in bytes.
        votes: what a voter is asked for at most.
    """

    folder: Path
    key: Path
    images: int
    size: int
    votes: int


def export(ballot: Ballot, folder: Path) -> Exported:
    """Writes the page into a folder that must not be there, or be empty.

    Raises:
        ConfigError: there is something in the folder.
        StoreError: it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--export {folder}: there is something: give a new folder")
    name = secrets.token_hex(4)
    names: dict[tuple[str, int], str] = {}
    prompts: dict[str, int] = {}
    plans: list[list[list[int | str]]] = []
    for number in range(PLANS):
        plan: list[list[int | str]] = []
        for step in ballot.plan(f"export {number}"):
            item = step.item
            sides = (item.cell_a, item.cell_b) if step.left == "a" else (item.cell_b, item.cell_a)
            about = ballot.samples[item.cell_a][item.index]
            prompt = prompts.setdefault(printable(about.prompt or about.category), len(prompts))
            shown = [names.setdefault((cell, item.index), secrets.token_hex(8)) for cell in sides]
            plan.append([prompt, *shown])
        plans.append(plan)
    data = {"export": name, "prompts": list(prompts), "plans": plans}
    key = ballot.run.path.with_name(KEYS) / f"{name}.json"
    images = {image: [cell, index, ballot.samples[cell][index].prompt] for (cell, index), image in names.items()}
    with writing(key):
        write_json(key, {"schema": SCHEMA, "export": name, "images": images})
    size = 0
    with writing(folder), atomic_folder(folder) as new:
        (new / "images").mkdir()
        for image in sorted(names, key=names.__getitem__):  # in no order of cells
            size += (new / "images" / f"{names[image]}.png").write_bytes(ballot.png(*image))
        text, _ = page(data, connect="'none'", images="'self' file:")
        size += (new / "index.html").write_bytes(text.encode())
    return Exported(folder, key, len(names), size, max(map(len, plans)))


def import_votes(run: Path, file: Path, votes: Path) -> tuple[int, int]:
    """Adds the votes of a file that an exported page gave to the run's; those that are there already are left.

    Args:
        run: the run's folder, which holds the key.
        file: that a voter downloaded.
        votes: where votes go.

    Returns:
        How many lines were new, and how many were there already.

    Raises:
        DataError: a file cannot be read, the key is missing, or the file names what it does not know.
        StoreError: the votes cannot be written.
    """
    given = _object(file)
    name = str(given.get("export"))
    if not re.fullmatch("[0-9a-f]{1,32}", name) or not isinstance(given.get("votes"), list):
        raise DataError(f"{file}: no file of votes from an exported page")
    key = run / KEYS / f"{name}.json"
    if not key.is_file():
        raise DataError(f"{file}: it is of the export {name}, whose key {key} is not here: give the run it was made of")
    lines = list(_lines(given["votes"], _images(key), str(file)))
    there = set(read_lines(votes)) if votes.is_file() else set()
    new = [vote for vote in dict.fromkeys(lines) if vote not in there]
    if new:
        append_votes(votes, new)
    return len(new), len(lines) - len(new)


def _object(path: Path) -> dict[str, Any]:
    try:
        value = parse_json(read_file(path, limit=MAX_FILE_BYTES), path, finite=True)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: no file of votes from an exported page")
    return value


def _images(key: Path) -> dict[str, tuple[str, int, str]]:
    """By an exported image's name its cell, index and prompt."""
    images = _object(key).get("images")
    if isinstance(images, dict):
        known = {name: tuple(about) if isinstance(about, list) else () for name, about in images.items()}
        if all(tuple(map(type, about)) == (str, int, str) for about in known.values()):
            return known
    raise DataError(f"{key}: no key of an export")


def _lines(votes: list[Any], images: Mapping[str, tuple[str, int, str]], file: str) -> Iterator[Vote]:
    """The records of a downloaded file's votes: which cells they are of, and which repeat an earlier item."""
    standing: Counter[tuple[str, frozenset[str]]] = Counter()  # votes that count, by voter and both images
    for number, each in enumerate(votes, 1):
        where = f"{file}: vote {number}"
        time, voter, left, right, outcome = (_text(each, name, where) for name in _TEXTS)
        seconds = each.get("seconds")
        if not isinstance(seconds, int | float) or not 0 <= seconds < MAX_SECONDS:
            raise DataError(f"{where}: 'seconds' is no number from 0 to {MAX_SECONDS:,}")
        if left not in images or right not in images or images[left][1] != images[right][1]:
            raise DataError(f"{where}: it is of images that the export has not, or not next to each other")
        if outcome not in _SAID:
            raise DataError(f"{where}: outcome '{outcome}': {nearest(outcome, _SAID)}")
        cell_left, index, prompt = images[left]
        cell_right = images[right][0]
        cell_a, cell_b = sorted((cell_left, cell_right))
        sides = ("a", "b") if cell_a == cell_left else ("b", "a")
        place = (name_of(voter), frozenset((left, right)))
        check = outcome != "undo" and standing[place] > 0
        standing[place] = max(standing[place] + (-1 if outcome == "undo" else 1), 0)
        try:
            yield Vote(
                time=time,
                voter=place[0],
                cell_a=cell_a,
                cell_b=cell_b,
                index=index,
                prompt=prompt,
                outcome={"left": sides[0], "right": sides[1]}.get(outcome, outcome),
                left=sides[0],
                seconds=round(float(seconds), 3),
                check=check,
            )
        except DataError as error:
            raise DataError(f"{where}: {error}") from None


def _text(vote: Any, name: str, where: str) -> str:
    value = vote.get(name) if isinstance(vote, dict) else None
    if not isinstance(value, str):
        raise DataError(f"{where}: '{name}' is missing, or no text")
    return value
