"""The main job through the command line: the whole way on the embedded models, again, killed, reordered, misused."""

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command import ROOT, SMALL, environment, evalkit_process, results, run_evalkit, scores
from PIL import Image
from read_only import read_only

import evalkit as package
from evalkit import pipeline
from evalkit.engines import Stripe, factory
from evalkit.errors import EXIT_CONFIG, EXIT_ERROR, EXIT_INTERRUPTED, EXIT_TERMINATED
from evalkit.samples.writer import ShardWriter

METRICS = ("metric=[fid_digits,is_digits]",)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two cells, 300 samples each (so: a full shard and a partial one)."""
    folder = tmp_path_factory.mktemp("first")
    done = evalkit_process(*SMALL, "num_samples=300", "name=small", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


def images_of(store: Path) -> dict[str, bytes]:
    """The pixels of all samples, by cell folder and index."""
    return {
        f"{png.parent.parent.parent.name}/{png.name}": np.asarray(Image.open(png)).tobytes()
        for png in sorted(store.glob("samples/*/shards/*/*.png"))
    }


def test_the_table_and_its_files(first_run: Path) -> None:
    out = first_run / "runs" / "small"
    for name in ("results.json", "table.md", "table.csv", "table.tex", "config.yaml", "overview.png"):
        assert (out / name).stat().st_size > 0, name
    assert len(list((out / "sheets").glob("*.png"))) == 2
    found = scores(out)
    cells = {cell for cell, _ in found}
    assert len(cells) == 2
    for cell in cells:
        assert found[cell, "fid_digits"] > 0
        assert 1 <= found[cell, "is_digits"] <= 10
    ldm, gan = (next(c for c in cells if model in c) for model in ("digits_ldm", "digits_dcgan"))
    assert found[gan, "nfe"] == 1
    assert found[ldm, "nfe"] == 4  # two steps, each with and without the prompt
    assert found[ldm, "clip_score_digits"] > 0
    printed = (first_run / "stdout").read_text()
    assert "FID [digits]" in printed
    assert "digits_ldm" in printed


def test_a_second_run_makes_nothing_and_needs_no_torch(first_run: Path) -> None:
    def stamps() -> dict[str, int]:
        files = [p for p in (first_run / "runs").rglob("*") if p.is_file() and p.parent.name != "small"]
        return {str(p): p.stat().st_mtime_ns for p in files}

    before, values = stamps(), scores(first_run / "runs" / "small")
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['run_eval.py', *{[*SMALL, 'num_samples=300', 'name=small']!r}]\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from evalkit.cli import main\n"
        "main()\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'open_clip'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=first_run, env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert stamps() == before
    assert scores(first_run / "runs" / "small") == values


def test_dry_run_makes_nothing(first_run: Path, tmp_path: Path) -> None:
    done = run_evalkit(*SMALL, "num_samples=16", "dry_run=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "32 samples to make" in done.stdout
    assert not list(tmp_path.iterdir())
    done = run_evalkit(*SMALL, "num_samples=300", "dry_run=true", f"store={first_run / 'runs'}", cwd=tmp_path)
    assert "0 samples to make" in done.stdout


def entries(folder: Path) -> int:
    """Counts while the run works on: `os.walk` passes by a folder that is renamed under its feet, `rglob` raises."""
    return sum(len(folders) + len(files) for _, folders, files in os.walk(folder))


def kill_when_grown(process: subprocess.Popen[bytes], folder: Path, growth: int, delay: float) -> bool:
    """SIGKILL once so many more files lie in a folder; returns whether the process was still at work."""
    start = entries(folder)
    while process.poll() is None and entries(folder) < start + growth:
        time.sleep(0.01)
    time.sleep(delay)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return alive


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_scores_are_the_same_to_the_last_bit(
    first_run: Path, tmp_path: Path, kills: int
) -> None:
    """Half of the kills fall into generation, half into feature extraction."""
    command = [sys.executable, str(ROOT / "run_eval.py"), *SMALL, "num_samples=300", "name=small"]
    finished: dict[str, int] = {}
    rng = random.Random(0)
    killed = {"samples": 0, "features": 0}
    for attempt in range(kills):
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        stage = "samples" if attempt < (kills + 1) // 2 else "features"
        # so little at a time that generation is not over before its half of the kills is, nor extraction at the first
        growth, wait = (rng.randint(1, 240 // kills), 0.4 / kills) if stage == "samples" else (rng.randint(1, 2), 0.02)
        killed[stage] += kill_when_grown(process, tmp_path / "runs" / stage, growth, rng.uniform(0, wait))
        for shard in tmp_path.glob("runs/samples/*/shards/[0-9]*"):
            stamp = shard.stat().st_mtime_ns
            assert finished.setdefault(str(shard), stamp) == stamp, f"{shard} was made twice"
            lines = (shard / "metadata.jsonl").read_text().splitlines()
            assert len(lines) == len(list(shard.glob("*.png")))
    for path in tmp_path.glob("runs/features/**/.tmp-*"):
        os.utime(path, (0, 0))  # what is younger than an hour could be a living process's, and stays
    done = run_evalkit(*SMALL, "num_samples=300", "name=small", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for shard, stamp in finished.items():
        assert Path(shard).stat().st_mtime_ns == stamp, f"{shard} was made twice"
    assert scores(tmp_path / "runs" / "small") == scores(first_run / "runs" / "small")
    assert images_of(tmp_path / "runs") == images_of(first_run / "runs")
    left = [p for stage in killed for p in (tmp_path / "runs" / stage).rglob("*") if "tmp" in p.name]
    assert not left, f"leftovers of the kills: {left}"
    print(f"kills: {killed}; {len(finished)} finished shards were kept")
    assert all(killed.values()), killed


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_batch_size_and_order_do_not_change_the_samples(first_run: Path, tmp_path: Path, batch_size: int) -> None:
    """Batches of 1 and 7 in the other order of cells, against batches of 64: to one level of 255 and 1e-3 relative."""
    few = ("experiment=digits", "model=[digits_ldm,digits_dcgan]", *SMALL[2:], "num_samples=28", "name=few")
    few = (*few, f"batch_size={batch_size}")
    done = run_evalkit(*few, *METRICS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again, base = images_of(tmp_path / "runs"), images_of(first_run / "runs")
    assert len(again) == 56
    worst = max(
        int(np.abs(np.frombuffer(pixels, np.uint8).astype(int) - np.frombuffer(base[name], np.uint8)).max())
        for name, pixels in again.items()
    )
    print(f"batches of {batch_size}: largest pixel difference {worst} of 255")
    assert worst <= 1, worst
    same = run_evalkit(*SMALL, *METRICS, "num_samples=28", "name=few", cwd=first_run)
    assert same.returncode == 0, same.stderr
    expected = scores(first_run / "runs" / "few")
    for name, value in scores(tmp_path / "runs" / "few").items():
        assert value == pytest.approx(expected[name], rel=1e-3), name


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of 24 small pictures each."""
    root = tmp_path_factory.mktemp("folders")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (root / name).mkdir()
        for i in range(24):
            pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:03d}.png")
    return root


def test_folders_are_models_and_references(folders: Path, tmp_path: Path) -> None:
    done = run_evalkit(
        "model=[folder]",
        f"model.folder.path={folders / 'a'}",
        "reference=folder",
        f"reference.folder.path={folders / 'b'}",
        "metric=[fid_digits,is_digits]",
        "name=folders",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = results(tmp_path / "runs" / "folders")["rows"]
    assert {row["n"] for row in rows} == {24}
    assert not list((tmp_path / "runs").glob("samples/*"))  # nothing is copied


def test_from_python(folders: Path, tmp_path: Path) -> None:
    table = package.evaluate(
        samples={"one": folders / "a", "two": folders / "b"},
        reference=folders / "b",
        metrics=["fid_digits", "is_digits"],
        store=tmp_path,
    )
    frame = table.to_frame()
    assert set(frame.cell) == {"one", "two"}
    assert table.value("two", "fid_digits") == pytest.approx(0, abs=1e-4)
    assert (table.value("one", "fid_digits") or 0) > 0


def test_from_python_in_each_of_several_processes(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hasty(Stripe):
        def __init__(self) -> None:
            super().__init__(patience=0.1)

    monkeypatch.setattr(factory, "Stripe", Hasty)
    monkeypatch.setenv("WORLD_SIZE", "2")
    tables, written = [], []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        images = {"one": folders / "a", "two": folders / "b"}
        tables.append(package.evaluate(images, folders / "b", ["fid_digits", "is_digits"], store=tmp_path))
        written.append((tmp_path / "evaluate" / "results.json").exists())
        shutil.rmtree(tmp_path / "evaluate", ignore_errors=True)
    assert written == [True, False]  # the second one does not write what the first did
    assert tables[0].rows == tables[1].rows
    assert tables[0].comparisons == tables[1].comparisons
    assert len({path.name for path in tmp_path.glob("plans/*/ranks/*")}) == 2


MISSPELT = ("num_sample=3",)
FOLDER = ("model=[folder]", "metric=[is_digits]", "reference=none")


@pytest.mark.parametrize(
    ("overrides", "message", "code"),
    [
        (MISSPELT, "Did you mean 'num_samples'?", EXIT_CONFIG),
        (("sampler=[dimm]",), "Did you mean 'ddim'?", EXIT_CONFIG),
        (("model=[folder]",), "model.folder.path", EXIT_CONFIG),
        ((*FOLDER, "model.folder.path=nowhere"), "nowhere", EXIT_CONFIG),
        ((*FOLDER, "model.folder.path=empty"), "empty", EXIT_CONFIG),
        (("reference=folder", "reference.folder.path=nowhere"), "nowhere", EXIT_CONFIG),
        (("reference=none",), "reference=folder", EXIT_CONFIG),
        (("metric=[fid]", "extractor.inception.weights=nowhere.pth"), "nowhere.pth", EXIT_CONFIG),
        (("num_samples=1",), "at least", EXIT_CONFIG),
        (("model.digits_ldm.path=empty",), "model_index.json", EXIT_CONFIG),
        (("sampler.ddim.options={etaa: 1}",), "eta", EXIT_CONFIG),
        (("device=cuda:99",), "cuda", EXIT_CONFIG),
    ],
)
def test_bad_input_is_one_clear_line(overrides: tuple[str, ...], message: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = (evalkit_process if overrides == MISSPELT else run_evalkit)(*overrides, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("evalkit: ")
    assert message in last
    assert "Traceback" not in done.stderr
    assert "Error executing job" not in done.stderr  # Hydra's own words
    assert not (tmp_path / "runs" / "samples").exists()


def test_ctrl_c_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run", interrupt)
    done = run_evalkit("experiment=digits", "model=[digits_dcgan]", "num_samples=16", cwd=tmp_path)
    assert done.returncode == EXIT_INTERRUPTED
    line = done.stderr.splitlines()[-1]
    assert line.startswith("evalkit: stopped. All finished shards are kept; the same command goes on from there: ")
    assert line.endswith("run_eval.py experiment=digits 'model=[digits_dcgan]' num_samples=16")


def test_a_finished_store_on_a_read_only_mount_gives_its_scores(first_run: Path, tmp_path: Path) -> None:
    """Into another `out`, to the last bit; what would have to be written there is refused in a line (F20)."""
    store = tmp_path / "runs"
    shutil.copytree(first_run / "runs", store)
    command = (*SMALL, "num_samples=300", "name=small", f"store={store}")
    assert run_evalkit(*command, cwd=tmp_path).returncode == 0  # the copied files' stamps are new
    with read_only(store):
        done = run_evalkit(*command, "out=mine", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert scores(tmp_path / "mine") == scores(store / "small")
        assert (tmp_path / "mine" / "report.html").is_file()
        for overrides, words in (
            ((), "cannot write to .*runs/small: Read-only file system: make it writable, or give another folder"),
            (("out=mine", "rescan=true"), "Read-only file system" if any(store.glob("cache/*")) else ""),
        ):
            done = run_evalkit(*command, *overrides, cwd=tmp_path)
            assert done.returncode == (EXIT_ERROR if words else 0), done.stderr
            assert re.search(words, done.stderr.splitlines()[-1] if words else ""), done.stderr


def test_sheets_that_were_cut_short_are_made_again(first_run: Path, tmp_path: Path) -> None:
    shutil.copytree(first_run / "runs", tmp_path / "runs")
    out = tmp_path / "runs" / "small"
    sheets = [*sorted((out / "sheets").iterdir()), out / "overview.png", out / "reference.png"]
    whole = [sheet.read_bytes() for sheet in sheets]
    sheets[0].write_bytes(whole[0][: len(whole[0]) // 2])
    sheets[1].write_bytes(whole[1][:-30] + bytes([whole[1][-30] ^ 1]) + whole[1][-29:])
    sheets[2].write_bytes(b"")
    assert run_evalkit(*SMALL, "num_samples=300", "name=small", cwd=tmp_path).returncode == 0
    assert [sheet.read_bytes() for sheet in sheets] == whole


def test_sigterm_is_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice, as Slurm sends it: the shard in hand is put away, the finished one stays, and the next run goes on."""
    commit = ShardWriter.commit

    def terminated(writer: ShardWriter) -> bool:
        if writer.target.final.name == "00000":
            return commit(writer)
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError

    monkeypatch.setattr(ShardWriter, "commit", terminated)
    command = ("experiment=digits", "model=[digits_dcgan]", "num_samples=300", "metric=[fid_digits]", "name=small")
    before = signal.getsignal(signal.SIGTERM)
    done = run_evalkit(*command, cwd=tmp_path)
    assert done.returncode == EXIT_TERMINATED == 143
    assert done.stderr.splitlines()[-1].startswith("evalkit: stopped. All finished shards are kept; the same command")
    assert signal.getsignal(signal.SIGTERM) == before
    assert [path.name for path in (tmp_path / "runs").glob("samples/*/shards/*")] == ["00000"]
    monkeypatch.undo()
    assert run_evalkit(*command, cwd=tmp_path).returncode == 0


def test_a_full_disk_names_the_file_and_what_fixes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While sheets are written: Pillow's own error says neither (F19)."""

    def full(image: Image.Image, *args: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Image.Image, "save", full)
    done = run_evalkit(
        "experiment=digits", "model=[digits_dcgan]", "num_samples=16", "metric=[is_digits]", "name=small", cwd=tmp_path
    )
    assert done.returncode == EXIT_ERROR
    line = done.stderr.splitlines()[-1]
    assert line.startswith("evalkit: cannot write to runs/small: No space left on device: free some space, then run")


def test_a_broken_image_is_named_and_can_be_skipped(folders: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    for file in sorted((folders / "a").iterdir())[:12]:
        (mine / file.name).write_bytes(file.read_bytes())
    (mine / "005.png").write_bytes((mine / "005.png").read_bytes()[:200])
    done = run_evalkit(*FOLDER, f"model.folder.path={mine}", cwd=tmp_path)
    assert done.returncode == EXIT_ERROR
    assert "005.png" in done.stderr.strip().splitlines()[-1]
    (mine / "notes.png").write_text("not an image")
    done = run_evalkit(*FOLDER, f"model.folder.path={mine}", cwd=tmp_path)
    assert done.returncode == EXIT_ERROR
    assert "notes.png: not an image" in done.stderr.strip().splitlines()[-1]
    done = run_evalkit(*FOLDER, f"model.folder.path={mine}", "model.folder.on_error=skip", "name=skipped", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    data = results(tmp_path / "runs" / "skipped")
    assert {row["n"] for row in data["rows"]} == {11}
    assert any("2" in note and "skipped" in note for note in data["notes"])
