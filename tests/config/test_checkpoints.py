"""A series of checkpoints: which there are, of which step, and what is said of those that are not whole."""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_series import cut, dcgan, settled
from safetensors.torch import save_file

from evalkit.config import checkpoints
from evalkit.config.checkpoints import fault_of, find
from evalkit.config.compose import compose, resolve
from evalkit.config.sweep import count, expand
from evalkit.errors import ConfigError
from evalkit.plan.grid import make_grid

BARE = {"_target_": "grid_models.Bare"}


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("weights")
        settled(path)
    return folder


@pytest.mark.parametrize(
    ("pattern", "step", "names", "steps"),
    [
        ("ckpt_*", None, ["ckpt_9", "ckpt_10", "ckpt_100.pt"], [9, 10, 100]),
        ("*/lora.fp16.safetensors", None, ["run-20/lora.fp16.safetensors", "run-3/lora.fp16.safetensors"], [3, 20]),
        ("*.ckpt", None, ["epoch=2-step=1500.ckpt", "epoch=1-step=700.ckpt"], [700, 1500]),
        ("*.ckpt", r"epoch=(\d+)", ["epoch=2-step=1500.ckpt", "epoch=1-step=700.ckpt"], [1, 2]),
        ("*.pt", "kimg(\\\\d+)", ["kimg000200-a.pt", "kimg001000-b.pt"], [200, 1000]),  # `\\d` as JSON writes it
        ("e*", r"e([\d.]+)", ["e0.5", "e1"], [0.5, 1]),
    ],
)
def test_checkpoints_stand_in_the_order_of_their_steps(
    tmp_path: Path, pattern: str, step: str | None, names: list[str], steps: list[float]
) -> None:
    touched(tmp_path, *names, *(f"{name}.tmp" for name in names))
    found = find({"checkpoints": str(tmp_path / pattern), "step": step}, "model.m.path")
    assert [c.step for c in found] == steps
    assert {c.path for c in found} == {str(tmp_path / name) for name in names}


@pytest.mark.parametrize(
    ("series", "said"),
    [
        ({"checkpoints": "x_*"}, r"model.m.path.checkpoints=.*x_\*: no file or folder matches"),
        ({"checkpoints": "best*"}, "best.pt has no number in its name: give step"),
        ({"checkpoints": "c_*", "step": "z(\\d+)"}, r"step=z\(\\d\+\): it finds no number in .*c_1"),
        ({"checkpoints": "c_*", "step": "(\\d+"}, "this is no regular expression: "),
        ({"checkpoints": "c_*", "step": "(c)"}, "it finds no number in"),
        ({"checkpoints": "[cd]_*"}, r"c_1 and .*d_1 are both of step 1: give a step .*, or leave_out=\[d_1\]"),
        ({"checkpoints": "c_*", "leave_out": ["c_1"]}, "no file or folder matches but those of leave_out"),
        ({"checkpoints": "s3://bucket/c_*"}, "give a pattern of local files"),
    ],
)
def test_what_cannot_be_a_series_is_one_line(
    tmp_path: Path, series: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(touched(tmp_path, "best.pt", "c_1", "d_1"))
    with pytest.raises(ConfigError, match=said):
        find(series, "model.m.path")


def test_a_series_is_an_axis_next_to_sweeps(tmp_path: Path) -> None:
    touched(tmp_path, "c_2", "c_10", "d_5")
    option = {**BARE, "path": {"checkpoints": str(tmp_path / "c_*")}, "width": {"sweep": [8, 16]}}
    variants = expand("m", option)
    assert count(option) == len(variants) == 4
    assert [v.swept for v in variants] == [{"step": s, "width": w} for s in (2, 10) for w in (8, 16)]
    assert [v.option["path"] for v in variants][::2] == [str(tmp_path / "c_2"), str(tmp_path / "c_10")]
    two = {**option, "width": {"checkpoints": str(tmp_path / "d_*")}}
    assert expand("m", two)[0].swept == {"path.step": 2, "width.step": 5}
    from evalkit.config.schema import RunConfig

    cells = make_grid(RunConfig(model={"m": {**option, "width": 8}})).cells
    assert [(cell.name, cell.settings) for cell in cells] == [("m-step_2", {"step": 2}), ("m-step_10", {"step": 10})]


def test_models_with_weights_take_checkpoints_next_to_their_keys(tmp_path: Path) -> None:
    dcgan(tmp_path / "g_100.safetensors", 0.1)
    dcgan(tmp_path / "g_20.safetensors", 0.2)
    words = [f"model.digits_dcgan.checkpoints={tmp_path}/g_*", "prompts=[digits]", "num_samples=4"]
    config = resolve(compose(words))
    assert config.model["digits_dcgan"]["weights"] == {"checkpoints": f"{tmp_path}/g_*"}
    cells = make_grid(config).cells
    assert [cell.name for cell in cells] == ["digits_dcgan-step_20", "digits_dcgan-step_100"]
    lora = [f"model.digits_ldm.lora.path={{checkpoints: '{tmp_path}/g_*'}}"]
    with pytest.raises(ConfigError, match="lora"):  # the option's own key takes a mapping as it stands in the YAML
        resolve(compose(["model=[digits_ldm]", *lora]))
    lora = [f"+model.digits_ldm.lora={{path: {{checkpoints: '{tmp_path}/g_*'}}, scale: 0.5}}"]
    variants = expand("digits_ldm", resolve(compose(["model=[digits_ldm]", *lora])).model["digits_ldm"])
    assert [(v.swept["step"], v.option["lora"]["scale"]) for v in variants] == [(20, 0.5), (100, 0.5)]
    with pytest.raises(ConfigError, match=r"does not say where its weights go: write model.callable.KEY="):
        resolve(compose(["model.callable.function=f.py:make", f"model.callable.checkpoints={tmp_path}/g_*"]))


def test_half_written_and_damaged_files_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "w_1.safetensors"
    save_file({"a": torch.zeros(64)}, file)
    whole = file.read_bytes()
    assert fault_of(file) is None
    length = int.from_bytes(whole[:8], "little")
    for content, kind, why in (
        (b"", "half written", "is empty"),
        (whole[: 8 + length // 2], "half written", "ends in its header"),
        (whole[:-1], "half written", f"has {len(whole) - 1:,} bytes, its header promises {len(whole):,}"),
        (whole + b"x", "damaged", "1 more than its header promises"),
        (b"\xff" * len(whole), "damaged", "does not begin as a safetensors file"),
        (whole[:8] + b"x" * (len(whole) - 8), "damaged", "is no safetensors header"),
    ):
        file.write_bytes(content)
        fault = fault_of(file)
        assert fault is not None
        assert fault.kind == kind
        assert why in fault.why
    pt = tmp_path / "w.pt"
    torch.save({"a": torch.zeros(64)}, pt)
    assert fault_of(pt) is None
    cut(pt)
    fault = fault_of(pt)
    assert fault is not None
    assert (fault.kind, "lacks its end" in fault.why) == ("half written", True)


def test_folders_are_looked_through(tmp_path: Path) -> None:
    folder = tmp_path / "c_1" / "unet"
    folder.mkdir(parents=True)
    fault = fault_of(tmp_path / "c_1")
    assert fault is not None
    assert "holds no file" in fault.why
    index = folder / "w.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "w-1.safetensors", "b": "w-2.safetensors"}}))
    save_file({"a": torch.zeros(4)}, folder / "w-1.safetensors")
    fault = fault_of(tmp_path / "c_1")
    assert fault is not None
    assert fault.why.endswith("w-2.safetensors is missing (w.safetensors.index.json names it)")
    save_file({"b": torch.zeros(4)}, folder / "w-2.safetensors")
    assert fault_of(tmp_path / "c_1") is None
    cut(folder / "w-2.safetensors", 0.9)
    fault = fault_of(tmp_path / "c_1")
    assert fault is not None
    assert fault.kind == "half written"


def test_one_line_names_all_that_are_not_whole(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        file = tmp_path / f"w_{step}.safetensors"
        save_file({"a": torch.zeros(64)}, file)
        settled(file)
    cut(tmp_path / "w_1.safetensors")
    (tmp_path / "w_3.safetensors").write_bytes(b"\xff" * 64)
    settled(tmp_path / "w_3.safetensors")
    series = {**BARE, "path": {"checkpoints": f"{tmp_path}/w_*"}}
    said = r"^model.m.path: the checkpoint of step 1 is half written: .*; the checkpoint of step 3 is damaged: .* Wait "
    with pytest.raises(ConfigError, match=said + r".* leave_out=\[.*/w_1.safetensors, .*/w_3.safetensors\]$"):
        expand("m", series)
    series["path"]["leave_out"] = ["w_1.safetensors", "w_3.safetensors"]  # type: ignore[index]
    assert [v.swept["step"] for v in expand("m", series)] == [2]


def test_one_that_changes_while_it_is_looked_at_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = touched(tmp_path, "c_1") / "c_1"
    option = {**BARE, "path": {"checkpoints": str(file)}}
    waited: list[float] = []
    monkeypatch.setattr(checkpoints.time, "sleep", waited.append)
    expand("m", option)
    assert not waited  # it was written a minute ago
    os.utime(file, (time.time(),) * 2)
    expand("m", option)
    [seconds] = waited
    assert 0 < seconds <= checkpoints.SETTLE
    monkeypatch.setattr(checkpoints.time, "sleep", lambda seconds: file.write_text("more weights"))
    with pytest.raises(ConfigError, match=r"step 1 is half written: .*c_1 changed within the last 2 s"):
        expand("m", option)


def test_of_several_state_dicts_the_averaged_one_is_taken_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("evalkit").propagate = True
    state = {"w": torch.zeros(2)}
    gan = {"_target_": "evalkit.models.gan.TorchModuleModel", "weights": {"checkpoints": f"{tmp_path}/c_*"}}
    for content, key, others in (
        ({"model": state, "ema": state, "step": 5, "optimizer": {"state": {}, "param_groups": []}}, "ema", "model"),
        ({"G": state, "G_ema": state, "D": state}, "G_ema", "G, D"),
        ({"generator": state, "critic": state}, "generator", "critic"),
        ({"net_weights": state, "epoch": 3}, "net_weights", ""),
        (state, None, ""),
    ):
        caplog.clear()
        torch.save(content, tmp_path / "c_1.pt")
        settled(tmp_path / "c_1.pt")
        with caplog.at_level(logging.INFO):
            option = expand("gan", gan)[0].option
        assert option.get("weights_key") == key
        told = f"of c_1.pt the state dict '{key}' is read" + (f" and not {others}" if others else "")
        assert (told in caplog.text) == (key is not None)
    assert expand("gan", {**gan, "weights_key": "critic"})[0].option["weights_key"] == "critic"


def test_what_is_left_out_makes_no_other_configuration() -> None:
    series = {"checkpoints": "c_*", "leave_out": ["c_1"]}
    model = {"m": {**BARE, "path": series, "leave_out": "its own key"}}
    plain = checkpoints.without_left_out(model)
    assert plain == {"m": {**BARE, "path": {"checkpoints": "c_*"}, "leave_out": "its own key"}}
    more = checkpoints.passed_over(model["m"], {("path",): ["c_2"]})
    assert more["path"] == {"checkpoints": "c_*", "leave_out": ["c_1", "c_2"]}
    assert list(checkpoints.series_in(model["m"])) == [(("path",), series)]
