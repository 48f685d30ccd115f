"""Features of prompts as units: each chunk is computed once for all cells that have the texts, by whoever is free."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from counting_engine import Counting

from evalkit import pipeline
from evalkit.config.compose import compose, resolve
from evalkit.features import feature_pass
from evalkit.plan.plan import Plan, make_plan
from evalkit.work.units import Texts

TEXTS = [f"a red {i % 10} on black, take {i}" for i in range(300)]
ADDRESS = "digits_clip/text"


def plan_of(folder: Path, engine: Any = None) -> Plan:
    """Two cells of noise with the same 300 prompts, of two chunks."""
    words = ["experiment=digits", "metric=[clip_score_digits]", "reference=none", "num_samples=300", f"store={folder}"]
    words += ["model=[digits_dcgan]", "report=false", "lint=false", "contact_sheet=0", "device=cpu"]
    config = resolve(compose([*words, "prompts=inline", "prompts.inline.prompts=[one]"]))
    config = replace(config, prompts={"inline": {**config.prompts["inline"], "prompts": TEXTS}})
    noise = {"_target_": "fake_models.Noise", "size": 16}
    plan = make_plan(replace(config, model={"first": noise, "second": {**noise, "version": 2}}))
    return plan if engine is None else replace(plan, engine=engine)


def figures(plan: Plan) -> dict[str, Any]:
    table = pipeline.run(plan)
    return {row.cell: row.value and row.value.hex() for row in table.rows if row.metric in plan.metrics}


def test_cells_with_the_same_prompts_share_their_features(tmp_path: Path) -> None:
    engine = Counting()
    alone = figures(plan_of(tmp_path / "alone"))
    assert len(alone) == 2
    with mock.patch.object(feature_pass, "run_texts", wraps=feature_pass.run_texts) as computed:
        assert figures(plan_of(tmp_path / "units", engine)) == alone
    assert engine.of("texts") == [f"texts/{ADDRESS}/first/0-256", f"texts/{ADDRESS}/first/256-300"]
    assert computed.call_count == 2
    again = Counting()
    assert figures(plan_of(tmp_path / "units", again)) == alone
    assert again.ran == []


def test_a_unit_of_texts_says_what_it_is() -> None:
    assert Texts("ldm", 0, 256, ADDRESS).label == "digits_clip/text of prompts 0 to 255 of ldm"
