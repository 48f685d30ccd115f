"""Mutated files of votes: a votes.csv, what an exported page gave, and the key of an export."""

from __future__ import annotations

import json
from pathlib import Path

from fuzz import Target

from evalkit.view.vote_export import KEYS, import_votes
from evalkit.votes.records import HEADS, read_votes

LINES = (
    '2026-11-28T00:49:00.362Z,Ann,ldm,gan,3,"a ""red"" 3, \\n",a,b,0.328,0',
    "2026-11-28T00:49:01.362Z,Ann,ldm,gan,3,'=1+1,undo,b,0.000,0",
    "2026-11-28T00:49:02.362Z,Bob,ldm,gan,4,,tie,a,1.5,1",
)
IMAGES = {"0a": ["ldm", 3, "a red 3"], "0b": ["gan", 3, "a red 3"]}
VOTE = {"time": "2026-11-28T00:49:00.362Z", "voter": "Eve", "left": "0a", "right": "0b", "seconds": 1.5}


def vote_files() -> Target:
    votes = [{**VOTE, "outcome": outcome} for outcome in ("left", "tie", "undo")]
    seeds = {
        "votes.csv": "\n".join([",".join(HEADS), *LINES, ""]).encode(),
        "sent.json": json.dumps({"export": "ab12", "votes": votes}).encode(),
        "key.json": json.dumps({"export": "ab12", "images": IMAGES}).encode(),
    }

    def read(path: Path) -> None:
        folder = path.parent
        if path.name == "votes.csv":
            read_votes(path)
            return
        for name in ("sent.json", "key.json"):
            if not (folder / name).is_file():
                (folder / name).write_bytes(seeds[name])
        (folder / KEYS).mkdir(exist_ok=True)
        (folder / KEYS / "ab12.json").write_bytes((folder / "key.json").read_bytes())
        import_votes(folder, folder / "sent.json", folder / "added.csv")

    return Target("votes", seeds, read, text=True)
