"""TensorBoard, for real: its event files are read back with its own reader."""

from pathlib import Path
from typing import Any

from finished_run import NAMED, REPORT, SHEETS, make_series_folder
from packages import need

from evalkit.trackers.push import push

need("tensorboard", "the extra 'tensorboard' is not installed")

OPTION = {"_target_": "evalkit.trackers.tensorboard.TensorBoardTracker"}


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    events.Reload()
    return events


def test_a_run_is_there_once_however_often_it_is_pushed(
    finished: Path, offline: list[bytes], tmp_path: Path, home: Path
) -> None:
    option = {**OPTION, "logdir": str(tmp_path)}
    assert push({"tensorboard": option}, finished) == []
    (folder,) = tmp_path.glob("night-*")
    earlier = list(folder.glob("events.out.tfevents.*"))
    (folder / "events.out.tfevents.1.of-someone-else").write_bytes(b"")
    assert push({"tensorboard": option}, finished) == []
    later = sorted(path.name for path in folder.glob("events.out.tfevents.*"))
    assert later[0] == "events.out.tfevents.1.of-someone-else"
    assert len(later) == 2
    assert earlier[0].name not in later
    assert list(tmp_path.glob("night-*")) == [folder]

    events = read(folder)
    tags = events.Tags()
    assert {tag: [e.value for e in events.Scalars(tag)] for tag in tags["scalars"]} == {
        name: [value] for name, value in NAMED.items()
    }
    assert set(tags["images"]) == SHEETS
    (sheet,) = events.Images("sheets/dcgan")
    assert sheet.encoded_image_string == (finished / "sheets" / "dcgan.png").read_bytes()
    assert (sheet.width, sheet.height) == (26, 16)
    assert set(tags["tensors"]) == {"table", "comparison", "config", "protocols", "gate", "gate report"}
    text = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in tags["tensors"]}
    assert text["gate"] == "fail"
    assert text["table"] == (finished / "table.md").read_text()
    assert "name: night" in text["config"]
    assert "- fid: hash-fid" in text["protocols"]
    assert (folder / "files" / "report.html").read_text() == REPORT
    assert (folder / "files" / "results.json").read_bytes() == (finished / "results.json").read_bytes()
    assert (folder / "files" / "sheets" / "dcgan.png").is_file()
    assert offline == []
    assert list(home.iterdir()) == []


def test_by_default_it_stays_in_the_runs_folder(finished: Path, home: Path) -> None:
    from evalkit.config.build import build
    from evalkit.trackers.base import FinishedRun

    run = FinishedRun.load(finished)
    place = build(OPTION).log(run)
    assert str(finished / "tensorboard") in place
    assert set(read(finished / "tensorboard" / f"night-{run.id}").Tags()["scalars"]) == set(NAMED)
    assert not any("tensorboard/" in name for name in FinishedRun.load(finished).files)


def test_a_series_of_checkpoints_is_a_curve_over_its_steps(tmp_path: Path) -> None:
    assert push({"tensorboard": {**OPTION, "logdir": str(tmp_path)}}, make_series_folder(tmp_path / "training")) == []
    (folder,) = tmp_path.glob("training-*")
    points = [(event.step, event.value) for event in read(folder).Scalars("gan/fid")]
    assert points == [(100, 10.0), (200, 5.0), (1000, 1.0)]
