"""`evalkit.run`: the words of the command line from Python, to the same results."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import run_evalkit, scores

import evalkit
from evalkit.errors import ConfigError

WORDS = [
    *("experiment=digits", "model=[digits_dcgan]", "sampler=[]", "metric=[fid_digits]", "exclude=[]", "device=cpu"),
    *("num_samples=8", "report=false", "lint=false", "contact_sheet=0", "name=small"),
]


def test_it_is_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run, in the same folder: where the command line comes second it finds all done."""
    monkeypatch.chdir(tmp_path)
    table = evalkit.run(WORDS)
    assert table.folder == Path("runs/small")
    assert str(table.run["command"]).startswith("evalkit.run(['experiment=digits', ")
    again = {path: path.stat().st_mtime_ns for path in Path("runs/samples").rglob("*.png")}
    assert len(again) == 8
    mine = scores(Path("runs/small"))
    assert {(row.cell, row.metric): row.value for row in table.rows}.items() >= mine.items()
    done = run_evalkit(*WORDS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in Path("runs").glob("small*")] == ["small"]
    assert scores(Path("runs/small")) == mine
    assert {path: path.stat().st_mtime_ns for path in Path("runs/samples").rglob("*.png")} == again


def test_samples_until_it_is_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word for word in WORDS if not word.startswith("num_samples")]
    table = evalkit.run(
        [*words, "num_samples=auto", "auto.first=8", "auto.ceiling=16", "auto.target={fid_digits: 0.1}"]
    )
    assert [row.n for row in table.rows if row.metric == "fid_digits"] == [16]
    assert "the ceiling is reached" in " ".join(table.notes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("experiment=digits", r"words='experiment=digits': give a list of words, \['experiment=digits'\]"),
        (["num_sample=8"], "num_sample: no such key. Did you mean 'num_samples'?"),
        (["nowhere"], "'nowhere' is no folder or file that is here"),
        (["dry_run=true"], "dry_run=true prints, and has no table to return: give it to the command line"),
        (["selfcheck=true"], "selfcheck=true prints"),
    ],
)
def test_what_is_wrong_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        evalkit.run(words)
    assert "\n" not in str(caught.value)


def test_configs_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is given relative to here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\ndry_run: true\n")
    with pytest.raises(ConfigError, match="dry_run=true"):
        evalkit.run(["experiment=mine"], config_dir="own")
    with pytest.raises(ConfigError, match="experiment=mine: no such option"):
        evalkit.run(["experiment=mine"])
