"""The values of environment variables are used by trackers, and written nowhere (F11 a)."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from evalkit.config.compose import compose, resolve
from evalkit.config.environment import hide_environment, with_environment
from evalkit.errors import ConfigError

SECRET = "s3cr3t-value"


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVALKIT_SECRET", SECRET)


@pytest.mark.parametrize(
    "override",
    [
        "name=${oc.env:EVALKIT_SECRET}",
        "name='run ${oc.env:EVALKIT_SECRET} 1'",
        "out=${oc.env:EVALKIT_SECRET,default}",
        "num_samples=${oc.env:EVALKIT_SECRET}",
        "store=${oc.decode:${oc.env:EVALKIT_SECRET}}",
        "exclude=[{model: '${oc.env:EVALKIT_SECRET}'}]",
        "model.digits_ldm.path=${oc.env:EVALKIT_SECRET}/x",
        "+model.x={_target_: a.B, k: ['${oc.env:EVALKIT_SECRET}']}",
        "+model.x={_target_: a.B, api_key_env: '${oc.env:EVALKIT_SECRET}'}",
        "baseline=${oc.env:UNSET_BY_ALL}",
    ],
)
def test_an_environment_variable_is_refused_where_it_would_be_written(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(compose(["experiment=digits", override]))
    assert SECRET not in str(caught.value)
    assert "oc.env" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_by_way_of_another_key_as_well() -> None:
    tracker = "+tracker.t={_target_: a.B, uri: '${oc.env:EVALKIT_SECRET}'}"
    with pytest.raises(ConfigError, match=r"name=.*environment variable would be written"):
        resolve(compose([tracker, "name=${tracker.t.uri}"]))


def test_trackers_keep_the_text_and_use_the_value(tmp_path: Path) -> None:
    uri = "'https://me:${oc.env:EVALKIT_SECRET}@host/${name}'"
    config = resolve(compose([f"+tracker.t={{_target_: a.B, uri: {uri}, timeout: 3}}"]))
    kept = "https://me:${oc.env:EVALKIT_SECRET}@host/digits"
    assert config.tracker["t"]["uri"] == kept
    assert SECRET not in json.dumps(asdict(config))
    used = with_environment(config.tracker["t"], "tracker.t")
    assert used == {"_target_": "a.B", "uri": kept.replace("${oc.env:EVALKIT_SECRET}", SECRET), "timeout": 3}
    assert hide_environment(f"asked {SECRET} in vain", config.tracker["t"]) == "asked ${oc.env:EVALKIT_SECRET} in vain"
    with pytest.raises(ConfigError, match=r"tracker\.t: .*'UNSET_BY_ALL' not found"):
        with_environment({"uri": "${oc.env:UNSET_BY_ALL}"}, "tracker.t")


def test_the_resolver_is_as_before_afterwards() -> None:
    from omegaconf import OmegaConf

    resolve(compose([]))
    assert OmegaConf.to_container(OmegaConf.create({"a": "${oc.env:EVALKIT_SECRET}"}), resolve=True) == {"a": SECRET}
