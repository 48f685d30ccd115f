"""A card that huggingface_hub reads back, and a push that sends nothing unless it is told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from command import run_evalkit
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results
from many_runs import CELLS, write_runs

from evalkit.errors import ConfigError, DataError, ServiceError
from evalkit.history.card import card_yaml, choose_cell, put_into
from evalkit.history.hub import plan_push, push_to_hub
from evalkit.history.registry import PastRun, read_run

NET, GAN = CELLS


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = write_runs(tmp_path_factory.mktemp("many") / "runs")
    (store / "week08" / "report.html").write_text("the report")
    (store / "week08" / "table.md").write_text("the table")
    return store


@pytest.fixture
def run(store: Path) -> PastRun:
    return read_run(store / "week08" / "results.json")


def test_the_card_reads_back_with_errors_and_protocols(run: PastRun) -> None:
    data = yaml.safe_load(card_yaml(run, NET, "my-net"))
    name, results = model_index_to_eval_results(data["model-index"])
    assert name == "my-net"
    fid, clip = results
    assert (fid.metric_type, fid.metric_value, fid.metric_name, fid.dataset_name) == ("fid", 17.0, "FID", "photos")
    assert fid.task_type == "text-to-image"
    args = fid.metric_args or {}
    assert (args["stderr"], args["n"], args["sampler"]) == (1.0, 60, "ddim")
    assert args["protocol"] == {"metric": "fid", "reference": {"n": 1000}}
    row = next(row for row in run.table.rows if row.metric == "fid")
    assert fid.metric_config == f"evalkit 0.2.0, protocol {row.protocol_hash}"
    assert (clip.metric_type, clip.dataset_name) == ("clip_score", "captions")  # it has no reference
    assert ModelCardData(model_name=name, eval_results=results).to_dict()["model-index"] == data["model-index"]


def test_which_cell_and_which_metrics(run: PastRun) -> None:
    assert choose_cell(run, GAN) == GAN
    with pytest.raises(ConfigError, match=r"has 2 cells .* name one with --cell"):
        choose_cell(run, None)
    with pytest.raises(ConfigError, match="Did you mean 'gan'"):
        choose_cell(run, "gann")
    only = yaml.safe_load(card_yaml(run, GAN, metrics=["latency_p50"]))["model-index"][0]
    assert [metric["type"] for result in only["results"] for metric in result["metrics"]] == ["latency_p50"]
    with pytest.raises(ConfigError, match="Did you mean 'fid'"):
        card_yaml(run, GAN, metrics=["fidd"])


def test_into_a_card_newer_scores_take_the_place_of_older_ones(store: Path, run: PastRun, tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("---\nlicense: mit\n---\n# My net\n\nWords.\n")
    assert put_into(path, read_run(store / "week07" / "results.json"), NET) == 2
    assert put_into(path, run, NET) == 2  # of the same protocols
    assert put_into(path, read_run(store / "week03" / "results.json"), NET, metrics=["fid"]) == 3  # of another one
    card = ModelCard.load(path)
    assert card.data.license == "mit"
    assert "# My net\n\nWords." in card.text
    assert [each.metric_value for each in card.data.eval_results if each.metric_type == "fid"] == [17.0, 17.0]
    with pytest.raises(DataError, match="not a model card"):
        put_into(tmp_path / "gone.md", run, NET)


class FakeApi:
    """Keeps what it was told; the network is not asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, str, Any]] = []
        self.error = error

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.calls.append(("create_repo", repo_id, options))

    def create_commit(self, repo_id: str, operations: Any, **options: Any) -> str:
        if self.error:
            raise self.error
        self.calls.append(("create_commit", repo_id, [each.path_in_repo for each in operations]))
        return "https://huggingface.co/me/net/commit/1"


def test_a_dry_run_sends_nothing(run: PastRun) -> None:
    api = FakeApi()
    push = plan_push(run, "me/net")
    assert push_to_hub(push, api=api) is None
    assert api.calls == []
    assert list(push.files) == [f"evalkit/week08/{name}" for name in ("report.html", "results.json", "table.md")]
    assert "made private" in push.lines()[0]
    assert any("report.html  10 bytes" in line for line in push.lines())


def test_an_upload_is_one_commit(run: PastRun, tmp_path: Path) -> None:
    api, board = FakeApi(), tmp_path / "board.html"
    board.write_text("a board")
    push = plan_push(run, "me/net", repo_type="dataset", folder="eval", samples=True, more=[board])
    assert push_to_hub(push, upload=True, api=api) == "https://huggingface.co/me/net/commit/1"
    (made, commit) = api.calls
    assert made == ("create_repo", "me/net", {"repo_type": "dataset", "private": True, "exist_ok": True})
    assert commit[2] == [f"eval/{n}" for n in ("report.html", "results.json", "table.md", "samples.csv", "board.html")]


def test_what_the_hub_refuses_is_one_line(run: PastRun) -> None:
    api = FakeApi(OSError("401 Client Error\nno such token"))
    with pytest.raises(ServiceError, match="me/net: nothing was pushed: 401 Client Error no such token"):
        push_to_hub(plan_push(run, "me/net"), upload=True, api=api)


@pytest.mark.parametrize(
    ("repo", "options", "message"),
    [
        ("a/b/c", {}, "a/b/c"),
        ("me/net", {"repo_type": "modell"}, "Did you mean 'model'"),
        ("me/net", {"folder": "../x"}, "give a folder in the repository"),
        ("me/net", {"more": [Path("gone.html")]}, r"gone\.html: no such file"),
    ],
)
def test_wrong_words(repo: str, options: dict[str, Any], message: str, run: PastRun) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_push(run, repo, **options)


def test_the_verbs(store: Path) -> None:
    card = run_evalkit("card", "week08", "--cell", GAN, cwd=store.parent)
    assert yaml.safe_load(card.stdout)["model-index"][0]["name"] == "gan"
    push = run_evalkit("push", "week08", "me/net", cwd=store.parent)
    assert push.returncode == 0, push.stderr
    assert push.stdout.splitlines()[-1] == "nothing was sent: --upload sends it"
