"""The wheel and the doors of extension: both are really built and installed, into an empty folder."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from command import ROOT, environment

from evalkit import __version__

PLUGIN_PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "evalkit-brightness"
version = "1.0"
[project.entry-points."evalkit.configs"]
brightness = "evalkit_brightness.configs"
[tool.hatch.build.targets.wheel]
packages = ["evalkit_brightness"]
"""
PLUGIN_METRIC = '''
"""Mean brightness of the samples, 0 to 255."""
import torch
from evalkit.metric import Batch, SampleMetric, Score, Sums

class Brightness(SampleMetric):
    title = "brightness"
    better = "higher"

    def observe(self, batch: Batch) -> Sums:
        total = torch.tensor(float(batch.images.double().mean(dim=(1, 2, 3)).sum()), dtype=torch.float64)
        return Sums({"n": torch.tensor(float(len(batch.index)), dtype=torch.float64), "sum": total})

    def score(self, *, generated: Sums) -> Score:
        return Score(float(generated["sum"] / generated["n"]), n=int(generated["n"]))
'''


PLUGIN_BENCHMARK = """# @package _global_
# Rooms: is the furniture right?
defaults:
  - override /prompts: []
  - override /metric: []
benchmark: {title: Rooms, path: "???", source: rooms.csv of example.org, questions: {text: "{q}"}, judge: judge_digits}
prompts:
  rooms: {_target_: evalkit.prompts.BenchmarkPrompts, benchmark: "${benchmark}"}
metric:
  rooms: {_target_: evalkit.judges.score.BenchmarkScore, benchmark: "${benchmark}", features: judge_digits/answers}
"""


def build_wheel(project: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def install(wheel: Path, site: Path) -> None:
    """A pure wheel is installed by unpacking it; its .dist-info is found on the path, entry points and all."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site folder with evalkit's wheel and a third party's package, both built here."""
    root = tmp_path_factory.mktemp("wheel")
    install(build_wheel(ROOT, root / "dist"), root / "site")
    package = root / "plugin" / "evalkit_brightness"
    (package / "configs" / "metric").mkdir(parents=True)
    (root / "plugin" / "pyproject.toml").write_text(PLUGIN_PYPROJECT)
    (package / "__init__.py").write_text("")
    (package / "brightness.py").write_text(PLUGIN_METRIC)
    (package / "configs" / "__init__.py").write_text("")
    yaml = "brightness:\n  _target_: evalkit_brightness.brightness.Brightness\n"
    (package / "configs" / "metric" / "brightness.yaml").write_text(yaml)
    (package / "configs" / "benchmark").mkdir()
    (package / "configs" / "benchmark" / "rooms.yaml").write_text(PLUGIN_BENCHMARK)
    install(build_wheel(root / "plugin", root / "dist_plugin"), root / "site")
    return root / "site"


def run_installed(site: Path, cwd: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    code = f"import evalkit; assert evalkit.__file__.startswith({str(site)!r}); from evalkit.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *overrides],
        cwd=cwd,
        env=environment(PYTHONPATH=str(site)),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_holds_everything(site: Path) -> None:
    for name in (
        "configs/eval.yaml",
        "metrics/frechet.py",
        "py.typed",
        "digits/reference.npz",
        "digits/ATTRIBUTION.md",
        "report/templates/page.html",
        "report/templates/page.css",
        "report/templates/table.js",
    ):
        assert (site / "evalkit" / name).is_file(), name
    assert not (site / "tests").exists()
    assert (site / f"evalkit-{__version__}.dist-info" / "licenses" / "LICENSE").is_file()
    assert "evalkit = evalkit.cli:main" in (site / f"evalkit-{__version__}.dist-info" / "entry_points.txt").read_text()


def test_the_installed_wheel_runs_and_finds_a_third_partys_metric(site: Path, tmp_path: Path) -> None:
    done = run_installed(
        site,
        tmp_path,
        "experiment=digits",
        "model=[digits_dcgan]",
        "num_samples=40",
        "metric=[is_digits,brightness]",
        "name=installed",
    )
    assert done.returncode == 0, done.stderr
    assert "brightness" in done.stdout
    assert (tmp_path / "runs" / "installed" / "results.json").is_file()
    assert "installed: evalkit report" in (tmp_path / "runs" / "installed" / "report.html").read_text()


def test_a_third_partys_metric_is_offered_where_a_name_is_misspelt(site: Path, tmp_path: Path) -> None:
    done = run_installed(site, tmp_path, "metric=[brihgtness]")
    assert done.returncode == 2
    assert "Did you mean 'brightness'?" in done.stderr


def test_a_third_partys_benchmark_is_one_word(site: Path, tmp_path: Path) -> None:
    words = ("benchmark=rooms", "benchmark.path=rooms.csv", "model=[digits_ldm]", "--cfg", "job", "--resolve")
    done = run_installed(site, tmp_path, *words, "--package", "metric.rooms.benchmark")
    assert done.returncode == 0, done.stderr
    assert "path: rooms.csv\nsource: rooms.csv of example.org\n" in done.stdout
