"""What a finished run asks when it is run again, by counts: the same from 10 to 1,000 shards."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
from counted_calls import counted
from pictures import folder as write_pictures
from pictures import pictures

from evalkit import pipeline
from evalkit.config.compose import compose, resolve
from evalkit.plan.plan import make_plan
from evalkit.utils.blobs import FsspecBlobs

SHARD = 2  # samples
NUMBERS = itertools.count()


def words(folder: Path, store: str, shards: int) -> list[str]:
    return [
        *("experiment=digits", "model=[digits_dcgan]", "metric=[fid_digits,is_digits]", "contact_sheet=4"),
        *(f"num_samples={SHARD * shards}", "reference=folder", f"reference.folder.path={folder / 'reference'}"),
        *(f"store={store}", f"out={folder / f'out{shards}'}", "name=rerun", "device=cpu"),
    ]


def run(asked: list[str]) -> None:
    pipeline.run(make_plan(resolve(compose(asked))))


def written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def rerun(folder: Path, kind: str, shards: int) -> Counter[str]:
    """What the second run with so many shards asks of its store and its folder, by verb."""
    store = f"memory://reruns{next(NUMBERS)}/store" if kind == "memory" else str(folder / f"store{shards}")
    asked = [*words(folder, store, shards), f"shards={'auto' if kind == 'memory' else kind}"]
    run(asked)
    run(asked)  # a reference that was written a moment ago is looked through once more
    before = written(folder)
    verbs = Counter[str]()
    with counted(folder) as calls, pytest.MonkeyPatch.context() as patch:
        for verb in ("put_new", "put", "get", "list", "delete"):
            real = getattr(FsspecBlobs, verb)

            def counting(self: FsspecBlobs, *args: object, _verb: str = f"url {verb}", _real: object = real) -> object:
                verbs[_verb] += 1
                return _real(self, *args)  # type: ignore[operator]

            patch.setattr(FsspecBlobs, verb, counting)
        run(asked)
    assert written(folder) == before  # 0 files
    return verbs + calls


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "zip", "memory"])
def test_a_rerun_asks_the_same_of_10_and_of_1000_shards(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("evalkit.samples.cells.SHARD_SAMPLES", SHARD)
    write_pictures(tmp_path / "reference", pictures(40, side=32))
    few, many = (rerun(tmp_path, kind, shards) for shards in (10, 1000))
    print(f"{kind}: 10 shards {dict(few)}, 1,000 shards {dict(many)}")
    per_shard = {"folder": 2 + SHARD, "zip": 1, "memory": 0}[kind]  # a folder, its metadata, its images; a zip's size
    assert many.pop("stat") - few.pop("stat") == 990 * per_shard
    assert few == many
    assert many["write"] <= 3  # the lock of the folder, and a file without a name that tries whether it can be written
    if kind == "memory":
        assert {verb: many[f"url {verb}"] for verb in ("list", "put_new", "put", "delete")} == {
            **{"list": 1, "put_new": 0, "put": 0, "delete": 0}
        }
