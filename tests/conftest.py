"""Fixtures that several test modules share."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import pytest
from chromium import browser as browser
from golden import TEST, Golden, Table

# Two workers with two threads each spin against one another on 2 cores. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Jobs in a shell's background ignore Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
FIRST = ("test_end_to_end", "test_recipes", "test_results")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-table", metavar="FILE", help="write and show all golden values as a Markdown table")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("golden_table") and not hasattr(config, "workerinput"):  # one of xdist's workers has it
        config.pluginmanager.register(Table(config), "golden-table")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts with the files that take longest: a worker that is given one of them last would end alone."""
    items.sort(key=lambda item: not item.path.stem.startswith(FIRST))


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else libraries tell at exit that their objects were never freed


def pytest_itemcollected(item: pytest.Item) -> None:
    if "golden" in getattr(item, "fixturenames", ()):
        item.user_properties.append(TEST)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Checks a value against a peer's or a published one; `--golden-table=FILE` lists them all."""
    return Golden(lambda line: request.node.user_properties.append((TEST[0], line)))


@pytest.fixture(scope="module", autouse=True)
def _imports_are_not_collected() -> None:
    """What was imported, a million objects, is out of the collector's sight: each model that a test puts away asks for
    a whole round, and went through them, for half a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data for tests (../shared/data beside the repo, or EVALKIT_SHARED_DATA)."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("EVALKIT_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no shared data in {folder} (EVALKIT_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded random weights file of the FID Inception network, as torch-fidelity reads it."""
    from seeded_inception import write_weights

    path = tmp_path_factory.mktemp("inception") / "seeded.pth"
    write_weights(path)
    return path
