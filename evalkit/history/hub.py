"""A run's tables and report for a repository on the Hugging Face hub; without `upload` nothing leaves this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from evalkit.errors import ConfigError, ServiceError, nearest
from evalkit.history.registry import PastRun
from evalkit.utils.text import one_line

# In the order in which they are told. samples.csv (all prompts) goes only where it is asked for.
FILES = (
    "report.html",
    "results.json",
    "table.md",
    "table.csv",
    "table.tex",
    "comparison.md",
    "pairs.csv",
    "config.yaml",
    "overview.png",
)
SAMPLES = ("samples.csv", "categories.csv")
REPO_TYPES = ("model", "dataset", "space")


class Api(Protocol):
    """What is used of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, **options: Any) -> Any: ...
    def create_commit(self, repo_id: str, operations: Any, **options: Any) -> Any: ...


@dataclass(frozen=True)
class Push:
    """What goes where.

    Attributes:
        repo_id, repo_type, private: the repository; it is made where there is none.
        files: by path in the repository the file here.
        message: of the commit.
    """

    repo_id: str
    repo_type: str
    private: bool
    files: dict[str, Path]
    message: str

    def lines(self) -> list[str]:
        """What a dry run tells."""
        where = f"{self.repo_type}s/{self.repo_id}" if self.repo_type != "model" else self.repo_id
        sizes = [f"  {name}  {path.stat().st_size:,} bytes" for name, path in self.files.items()]
        kind = "private" if self.private else "public"
        return [f"to https://huggingface.co/{where} (made {kind} where there is none): {self.message}", *sizes]


def plan_push(
    run: PastRun,
    repo_id: str,
    *,
    repo_type: str = "model",
    folder: str | None = None,
    private: bool = True,
    samples: bool = False,
    more: Sequence[Path] = (),
) -> Push:
    """Looks at what there is to push; nothing is sent.

    Args:
        run: whose tables and report.
        repo_id: "user/name".
        repo_type: model, dataset or space.
        folder: in the repository; none: evalkit/<run's name>.
        private: whether a repository that is made is private.
        samples: whether samples.csv goes too: it holds all prompts, and paths on this machine.
        more: further files (a leaderboard), into the same folder.

    Raises:
        ConfigError: a name that is none, a file that is missing.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    if repo_type not in REPO_TYPES:
        raise ConfigError(f"--repo-type {repo_type}: {nearest(repo_type, REPO_TYPES)}")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigError(one_line(error)) from None
    inside = (folder if folder is not None else f"evalkit/{run.path.parent.name}").strip("/")
    if ".." in inside.split("/"):
        raise ConfigError(f"--folder {folder}: give a folder in the repository")
    here = run.path.parent
    names = [*FILES, *(SAMPLES if samples else ())]
    paths = [here / name for name in names if (here / name).is_file()]
    if missing := [path for path in more if not path.is_file()]:
        raise ConfigError(f"{missing[0]}: no such file")
    files = {f"{inside}/{path.name}".lstrip("/"): path for path in [*paths, *more]}
    return Push(repo_id, repo_type, private, files, f"evalkit: {one_line(run.name, 100)}")


def push_to_hub(push: Push, *, upload: bool = False, api: Api | None = None) -> str | None:
    """Sends what was planned, as one commit.

    Args:
        push: of `plan_push`.
        upload: whether anything is sent at all.
        api: a `huggingface_hub.HfApi`; none: one that is signed in as huggingface_hub is (HF_TOKEN, `hf auth login`).

    Returns:
        The commit's address; none where nothing was sent.

    Raises:
        ServiceError: the hub refuses it, or cannot be reached.
    """
    if not upload:
        return None
    from huggingface_hub import CommitOperationAdd, HfApi

    hub: Any = api or HfApi()
    operations = [CommitOperationAdd(name, str(path)) for name, path in push.files.items()]
    options = {"space_sdk": "static"} if push.repo_type == "space" else {}
    try:
        hub.create_repo(push.repo_id, repo_type=push.repo_type, private=push.private, exist_ok=True, **options)
        done = hub.create_commit(push.repo_id, operations, commit_message=push.message, repo_type=push.repo_type)
    except Exception as error:  # httpx's, huggingface_hub's, the disk's
        raise ServiceError(f"{push.repo_id}: nothing was pushed: {one_line(error)}") from error
    return str(getattr(done, "commit_url", done))
