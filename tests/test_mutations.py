"""No wrong number is ever shown of an altered store: a few mutations (tests/bench/mutate_store.py makes 300)."""

from collections import Counter
from pathlib import Path

import pytest
from mutations import KINDS, trials


@pytest.mark.parametrize(
    ("count", "models"), [(2, "digits_dcgan"), pytest.param(120, "digits_dcgan,digits_ldm", marks=pytest.mark.slow)]
)
def test_an_altered_store_gives_the_right_scores_or_tells(tmp_path: Path, count: int, models: str) -> None:
    done = list(trials(tmp_path, count, seed=1, models=models))
    assert len({trial.kind for trial in done}) == min(count, len(KINDS))
    bad = [trial for trial in done if trial.outcome not in ("remade", "told", "unaffected")]
    assert not bad
    assert Counter(trial.outcome for trial in done)["unaffected"] <= max(count // 4, 1)
