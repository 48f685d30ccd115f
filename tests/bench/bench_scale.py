"""What a run costs beside models: `python tests/bench/bench_scale.py --cells 200 --samples 2000`.

Random pictures of 64 px, FID and Inception Score on the digits network; the first run into an empty store, and the same
command again. Of each, by stage: wall seconds, CPU seconds of the run's own process and of its children, and its peak
memory up to then; the files in the store, and how many of them the second run wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--code", type=Path, default=ROOT, help="a checkout, to compare with another version")
    parser.add_argument("overrides", nargs="*", help="further settings: contact_sheet=0, engine.local.workers=2")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        for turn in ("first", "again"):
            print(f"\n{asked.cells} x {asked.samples}, {turn}: {run(asked, Path(work))}", flush=True)


def run(asked: argparse.Namespace, work: Path) -> str:
    """One run of the command line, in words and a table."""
    overrides = [
        *("model=[callable]", "model.callable.function=random_images.draw", "model.callable.conditioning=none"),
        *(f"seed={{sweep: [{','.join(map(str, range(asked.cells)))}]}}", "seeds=apart", "device=cpu"),
        *(f"num_samples={asked.samples}", "reference=digits", "metric=[fid_digits,is_digits]", "name=scale"),
        *(f"store={work / 'store'}", *asked.overrides),
    ]
    paths = [str(asked.code), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    stages, log, before = work / "stages.json", work / "log", stamps(work / "store")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "STAGES": str(stages)}
    with log.open("w") as output:
        command = [sys.executable, str(Path(__file__).parent / "stage_clock.py"), *overrides]
        if subprocess.run(command, env=environment, cwd=work, stdout=output, stderr=output, check=False).returncode:
            sys.exit(log.read_text())
    after = stamps(work / "store")
    written = sum(before.get(path) != stamp for path, stamp in after.items())
    told = json.loads(stages.read_text())
    lines = [f"{len(after):,} files, {written:,} of them written by this run", row("", *HEADS)]
    lines += [row(name, *figures) for name, figures in told["stages"].items()]
    whole = [sum(figures[i] for figures in told["stages"].values()) for i in range(3)]
    lines.append(row("all", *whole, max(figures[3] for figures in told["stages"].values())))
    if whole[2] > 1:  # else it was no worker, but a process that was about to become another program
        lines.append(f"largest child: {told['largest_child_mb']:.0f} MB")
    return "\n".join(lines)


HEADS = ("wall s", "CPU s", "children's", "peak MB")


def row(name: str, *values: str | float) -> str:
    cells = (f"{value:.1f}" if isinstance(value, float) else value for value in values)
    return f"{name:10s}" + "".join(f"{cell:>12s}" for cell in cells)


def stamps(folder: Path) -> dict[str, int]:
    """When each file was written."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    main()
