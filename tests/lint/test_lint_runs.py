"""The lint in a run: the store's sample sets, the cache by which a finished run decodes nothing, what people see."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import ROOT, environment
from fake_models import make_cell
from lint_faults import black, copied, enlarged, findings_of, kinds, noisier, of_0_to_1, opened, prompted
from pictures import folder, picture, pictures, resized, save

from evalkit import pipeline
from evalkit.config.compose import compose, resolve
from evalkit.data.stored import StoredImages
from evalkit.errors import DataError
from evalkit.lint import Asked, Finding, asked_of, lines, pixels
from evalkit.plan.plan import make_plan
from evalkit.prompts.sets import InlinePrompts
from evalkit.results import terminal
from evalkit.samples.generate import generate_cells
from evalkit.samples.store import SampleSet, Store

COUNT = 20


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return folder(tmp_path / "set", pictures(COUNT))


# Sample sets ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> Any:
    """A store with one cell of 12 samples, of which number 5 says that it was blanked."""
    store, cell = Store(tmp_path / "runs"), make_cell(12)
    generate_cells([cell], store, batch_size=4, device="cpu")
    return store, cell, SampleSet.open(store, cell)


def test_warnings_of_the_making(made: Any, tmp_path: Path) -> None:
    samples = made[2]
    rows = tuple(
        {**row, "warnings": ["prompt_truncated"]} if i in (2, 7) else row for i, row in enumerate(samples.rows)
    )
    findings = kinds(findings_of(replace(samples, rows=rows), tmp_path))
    assert findings["blanked"].files == (str(samples.files[5]),) or findings["blanked"].count == 1
    assert findings["prompt_truncated"].files == (str(samples.files[2]), str(samples.files[7]))
    assert "CLIP score" in findings["prompt_truncated"].effect


def test_a_size_that_was_not_asked_for(made: Any, tmp_path: Path) -> None:
    finding = kinds(findings_of(made[2], tmp_path, asked={"cell": Asked(size=(16, 16))}))["size"]
    assert "are 8x8, not 16x16 as asked" in finding.message
    assert "size" not in kinds(findings_of(made[2], tmp_path, asked={"cell": Asked(size=(8, 8))}))


@pytest.mark.parametrize("finished", [False, True])
def test_altered_files_are_named_all_of_them(
    made: Any, tmp_path: Path, finished: bool, caplog: pytest.LogCaptureFixture
) -> None:
    samples = made[2]
    if finished:  # all was measured, scored, and is never read again
        assert "checksum" not in kinds(findings_of(samples, tmp_path))
    whole = samples.files[3].read_bytes()
    for i in (3, 9):
        save(samples.files[i], picture(i, 8))
        os.utime(samples.files[i], (1, 1))
    logger = logging.getLogger("evalkit")
    logger.addHandler(caplog.handler)
    finding = kinds(findings_of(samples, tmp_path))["checksum"]
    logger.removeHandler(caplog.handler)
    assert finding.files == (str(samples.files[3]), str(samples.files[9]))
    assert finding.severity == "error"
    assert "2 of 12 files" in caplog.text
    with pytest.raises(DataError, match=r"000003\.png"):
        samples.read(range(12))
    samples.files[3].write_bytes(whole)
    assert kinds(findings_of(samples, tmp_path))["checksum"].files == (str(samples.files[9]),)
    samples.files[9].unlink()
    missing = findings_of(samples, tmp_path)[0]
    assert (missing.severity, missing.files) == ("error", (str(samples.files[9]),))


def test_a_touched_file_is_read_once_more_and_no_fault(made: Any, tmp_path: Path, monkeypatch: Any) -> None:
    samples = made[2]
    before = findings_of(samples, tmp_path)
    os.utime(samples.files[3], (1, 1))
    assert findings_of(samples, tmp_path) == before
    monkeypatch.setattr("evalkit.samples.shards.sha256_file", lambda path: pytest.fail(f"{path} is hashed again"))
    assert findings_of(samples, tmp_path) == before


def test_damage_behind_the_header_is_named(clean: Path, tmp_path: Path) -> None:
    path = clean / "007.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    finding = kinds(findings_of(opened(clean, on_error="refuse"), tmp_path))["damaged"]
    assert finding.files == (str(path),)
    assert "007.png: cannot be decoded" in finding.message
    assert not (tmp_path / "lint").exists()  # what is not whole is not kept


def test_what_a_cell_was_asked_for(made: Any, tmp_path: Path) -> None:
    _, cell, samples = made
    prompts = {"inline": InlinePrompts(["a", "b", "c"])}
    elsewhere = replace(cell, name="folder", identity={**cell.identity, "prompts": None})
    asked = asked_of(prompts, [cell, elsewhere], {cell.name: samples, "folder": prompted(["a", "b"])})
    assert asked[cell.name] == Asked(count=3)
    assert asked["folder"] == Asked(texts=("a", "b", "c"))


# The cache -----------------------------------------------------------------------------------------------------------


def test_a_second_look_decodes_nothing(clean: Path, tmp_path: Path, monkeypatch: Any) -> None:
    for plant in (copied, noisier, enlarged, of_0_to_1, black):
        plant(clean)
    first = findings_of(opened(clean), tmp_path, opened(clean))
    assert len(first) > 5
    monkeypatch.setattr(StoredImages, "read", lambda self, indices: pytest.fail("an image is decoded again"))
    assert findings_of(opened(clean), tmp_path, opened(clean)) == first


def test_a_finished_look_imports_nothing_heavy(clean: Path, tmp_path: Path) -> None:
    copied(clean)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from evalkit.lint import Watch, lint\nfrom evalkit.data import scan\n"
        "from evalkit.data.open import open_images\n"
        "scan._SETTLED_NS = 0\n"
        f"source = open_images(Path({str(clean)!r}), cache=Path({str(tmp_path / 'scan')!r}))\n"
        f"found = lint({{'cell': source}}, source, watch=Watch(Path({str(tmp_path / 'lint')!r})))\n"
        "print(sorted(finding.kind for finding in found), {'torch', 'numpy', 'PIL'} & set(sys.modules))"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment(), cwd=ROOT
        ).stdout
        for _ in range(2)
    ]
    assert said[1].strip() == "['duplicates', 'duplicates', 'in_reference'] set()"
    assert said[0].startswith("['duplicates', 'duplicates', 'in_reference']")


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: text.replace('"lowest": ', '"lowest": 1'),
        lambda text: text.replace('"near"', '"far"'),
        lambda text: text.replace('"count"', '"other": 1, "count"'),
    ],
)
def test_a_broken_cache_is_made_anew(clean: Path, tmp_path: Path, harm: Callable[[str], str]) -> None:
    copied(clean)
    first = findings_of(opened(clean), tmp_path)
    (path,) = (tmp_path / "lint").iterdir()
    whole = path.read_text()
    path.write_text(harm(whole))
    assert path.read_text() != whole
    assert findings_of(opened(clean), tmp_path) == first
    assert path.read_text() == whole


def test_another_version_of_the_lint_measures_anew(clean: Path, tmp_path: Path, monkeypatch: Any) -> None:
    findings_of(opened(clean), tmp_path)
    monkeypatch.setattr("evalkit.lint.cache.module_digest", lambda *modules: "another")
    read: list[range] = []
    original = StoredImages.read
    monkeypatch.setattr(StoredImages, "read", lambda self, indices: read.append(indices) or original(self, indices))
    findings_of(opened(clean), tmp_path)
    assert read


def test_a_store_that_cannot_be_written_is_no_matter(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "lint").write_text("a file where the folder should be")
    copied(clean)
    assert kinds(findings_of(opened(clean), tmp_path)).keys() == {"duplicates"}


def test_of_a_large_set_a_part_is_decoded_and_all_files_are_compared(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(pixels, "IMAGES", 64)
    base = pictures(10, 16)
    rng = np.random.default_rng(0)
    images = [np.clip(base[i % 10] + rng.normal(0, 40, (16, 16, 3)), 0, 255).astype(np.uint8) for i in range(300)]
    images[299] = images[150]
    path = folder(tmp_path / "set", images)
    source = opened(path)
    finding = kinds(findings_of(source, tmp_path))["duplicates"]
    assert (finding.count, finding.of) == (1, 300)
    assert finding.files == (str(path / "299.png"), str(path / "150.png"))
    measured, _ = pixels.PixelScan(source, pixels.Counter({(16, 16): 300})).finish()
    assert measured.looked == 64
    seen = [i for i, key in enumerate(measured.pixels) if key]
    assert len(seen) == 64
    assert seen[0] < 64
    assert seen[-1] > 149  # spread over the set
    assert sum(b - a > 1 for a, b in itertools.pairwise(seen)) == 1  # two blocks of neighbours


# What people see -----------------------------------------------------------------------------------------------------


def finding(**values: Any) -> dict[str, Any]:
    usual = Finding("black", "warning", "a", 2, ("/x/1.png", "/x/2.png", "/x/3.png"), "2 images are black", "FID", 9)
    return asdict(replace(usual, **values))


def test_lines_for_the_terminal() -> None:
    shown = lines(
        [
            finding(),
            finding(where="b"),
            finding(kind="size", severity="note"),
            finding(kind="blanked"),  # the table's notes say so already
            finding(kind="checksum", severity="error", message="1 file", files=()),
        ]
    )
    assert shown == [
        "lint: error: a: 1 file: FID",
        "lint: warning: 2 cells (a, ...): 2 images are black [1.png, 2.png]: FID",
    ]


def test_many_findings_are_counted() -> None:
    shown = lines([finding(message=f"{i}") for i in range(30)], limit=10)
    assert len(shown) == 10
    assert shown[-1] == "lint: 21 more findings: see the report or results.json"


@pytest.mark.parametrize("wanted", ["true", "false"])
def test_a_run_keeps_its_findings_and_prints_them(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted: str
) -> None:
    copied(clean)
    black(clean)
    overrides = [
        "model=[folder]",
        f"model.folder.path={clean}",
        "sampler=[]",
        "prompts=[]",
        "exclude=[]",
        "reference=none",
        "metric=[]",
        f"store={tmp_path / 'runs'}",
        "name=t",
        f"lint={wanted}",
        "report=false",
    ]
    plan = make_plan(resolve(compose(overrides)))
    table = pipeline.run(plan)
    terminal.print_results(table, plan.out, against_baseline=False, report=False)
    printed = capsys.readouterr().out
    kept: list[Mapping[str, Any]] = json.loads((tmp_path / "runs" / "t" / "results.json").read_text())["lint"]
    if wanted == "true":
        assert {(f["kind"], f["where"]) for f in kept} == {("duplicates", "folder"), ("black", "folder")}
        assert "lint: warning: folder: 1 of 22 images are black all over [black.png]" in printed
        assert "repeat another one exactly [copy.png, 003.png]" in printed
    else:
        assert kept == []
        assert "lint:" not in printed


def test_shuffled_folders_give_the_same_findings(tmp_path: Path) -> None:
    images = [*pictures(12), np.zeros((48, 48, 3), np.uint8), resized(picture(77, 24), 48), picture(3)]
    seen = []
    for seed in (1, 2):
        random.Random(seed).shuffle(images)
        path = folder(tmp_path / str(seed), images)
        seen.append(sorted((f.kind, f.severity, f.count, f.message) for f in findings_of(opened(path), tmp_path)))
    assert seen[0] == seen[1]
    assert [kind for kind, *_ in seen[0]] == ["black", "duplicates", "upscaled"]
