"""evalkit/engines/slurm.py with programs in Slurm's place; on a real Slurm: tests/cluster/test_real_slurm.py."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_slurm import FakeSlurm

from evalkit.engines.base import Work
from evalkit.engines.slurm import Slurm
from evalkit.errors import ConfigError, EvalkitError


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    pytest.importorskip("submitit")
    slurm = FakeSlurm(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return slurm


def engine(**settings: Any) -> Slurm:
    return Slurm(**{"poll": 0.01, "patience": 0.05, **settings})


def test_the_array_that_is_submitted(fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "3")  # evalkit may itself run in a job
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    fake.on_sbatch("touch unit-0 unit-1 unit-2")
    slurm = engine(workers=4, partition="gpu", account="a b", setup=["module load cuda"], options={"exclude": "n7"})
    slurm.map(fake.work())
    script = (fake.folder / "script").read_text()
    for line in (
        "#SBATCH --array=0-3%4",
        "#SBATCH --partition=gpu",
        "#SBATCH --account='a b'",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=64GB",
        "#SBATCH --time=240",
        "#SBATCH --signal=TERM@30",
        "#SBATCH --requeue",
        "#SBATCH --exclude=n7",
        "#SBATCH --job-name=evalkit-abc",
        f"#SBATCH --output={fake.logs}/%A_%a_0_log.out",
        f"export PYTHONPATH={Path(__file__).parents[2]}${{PYTHONPATH:+:$PYTHONPATH}}",
        "module load cuda",
        '[ $code != 143 ] || [ "${SLURM_RESTART_COUNT:-0}" -ge 10 ] || scontrol requeue "$SLURM_JOB_ID"',
    ):
        assert f"{line}\n" in script
    assert "wckey" not in script
    assert fake.calls("SLURM_") == ["SLURM_CONF=/etc/slurm.conf"]
    assert os.environ["SLURM_JOB_ID"] == "3"
    slurm.map(fake.work())  # all is there
    assert len(fake.calls("sbatch")) == 1


def test_options_that_are_off(fake: FakeSlurm) -> None:
    fake.on_sbatch("touch unit-0 unit-1 unit-2")
    engine(gpus=0, requeue=False).map(fake.work())
    script = (fake.folder / "script").read_text()
    assert "gpus" not in script
    assert "#SBATCH --no-requeue\n" in script
    assert "scontrol" not in script


def test_a_finished_stage_submits_nothing(fake: FakeSlurm) -> None:
    for name in ("unit-0", "unit-1", "unit-2"):
        (fake.folder / name).touch()
    slurm = engine()
    slurm.map(fake.work())
    slurm.close()
    assert not (fake.folder / "calls").exists()


def test_whoever_waits_or_runs_is_waited_for(fake: FakeSlurm, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (fake.folder / "jobs").write_text("PENDING|Priority\nRUNNING|None\n")
    wait = _after(fake, 40, lambda: [(fake.folder / f"unit-{number}").touch() for number in range(3)])
    slurm = engine()
    slurm.map(wait)
    assert not fake.calls("sbatch")  # looked on
    assert "an array of an earlier start works on this" in caplog.text
    assert "1 pending (priority), 1 running" in caplog.text.lower()
    slurm.close()
    assert len(fake.calls("scancel")) == 1
    assert "2 Slurm jobs named evalkit-abc are ended, with nothing left to do" in caplog.text


def test_jobs_that_are_ending_are_not_found_again(fake: FakeSlurm) -> None:
    (fake.folder / "jobs").write_text("COMPLETING|None\n")
    fake.on_sbatch("touch unit-0 unit-1 unit-2")
    engine().map(fake.work())
    assert len(fake.calls("sbatch")) == 1


def test_a_controller_that_does_not_answer_is_no_loss(fake: FakeSlurm) -> None:
    fake.on_sbatch("touch deaf unit-0")
    work = _after(fake, 40, lambda: [(fake.folder / f"unit-{number}").touch() for number in range(3)])
    engine().map(work)
    assert len(fake.calls("sbatch")) == 1


def test_arrays_that_bring_nothing_are_counted_anew_after_each_that_does(fake: FakeSlurm) -> None:
    fake.on_sbatch("n=$(grep -c ^sbatch calls); [ $n != 3 ] || touch unit-0")
    with pytest.raises(
        EvalkitError, match=r"^toys: 3 arrays in a row ended without anything new; missing: toy 1, toy 2\."
    ):
        engine(losses=2).map(fake.work())
    assert len(fake.calls("sbatch")) == 6  # the third one brought something: two before it, three after it


def test_many_missing_units_are_not_all_named(fake: FakeSlurm) -> None:
    with pytest.raises(EvalkitError, match=r"missing: toy 0, .*toy 4 and 7 more\. How they ended: .*slurm/abc$"):
        engine(losses=1).map(fake.work(12))


def test_a_refusal_is_said_in_the_worker_s_words(fake: FakeSlurm, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = fake.logs / "7_0_0_log.out"
    lines = ["submitit INFO - Starting", "slurm: worker 1 of 8 on gpu3", "evalkit: /s is not the driver's store"]
    lines += ["srun: error: gpu3: task 0: Exited with exit code 2", "slurm: ended with 2"]
    fake.on_sbatch("".join(f'echo "{line}" >> {log}\n' for line in lines))
    match = f"^worker 1 of 8 on gpu3: /s is not the driver's store \\(its log: {re.escape(str(log))}\\)$"
    with pytest.raises(ConfigError, match=match):
        engine(patience=60).map(fake.work())
    assert "[worker 1 of 8 on gpu3] evalkit: /s is not the driver's store" in caplog.text
    assert "srun" not in caplog.text


def test_errors_before_anything_is_submitted(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake.on_sbatch("echo 'sbatch: error: invalid partition specified: gpux' >&2; exit 1")
    with pytest.raises(ConfigError, match=r"^engine=slurm: sbatch refuses: invalid partition specified: gpux$"):
        engine().map(fake.work())
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"^engine=slurm needs submitit: pip install 'evalkit\[slurm\]'$"):
        engine().map(fake.work())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"^engine=slurm: there is no sbatch on .*: start evalkit on a login node"):
        engine().map(fake.work())


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"workers": 0}, "engine.slurm.workers=0: give a whole number >= 1"),
        ({"gpus": -1}, "engine.slurm.gpus=-1: give a whole number >= 0"),
        ({"poll": 0}, "engine.slurm.poll=0: give seconds > 0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(error)}$"):
        Slurm(**settings)


def _after(fake: FakeSlurm, looks: int, then: Callable[[], object]) -> Work:
    """Work whose units are done once the store was looked at so many times."""
    work, count = fake.work(), iter(range(looks))

    def done(units: Any) -> set[str]:
        if next(count, None) is None:
            then()
        return work.done(units)

    return Work(work.stage, work.units, {}, work.open, done, work.command)
