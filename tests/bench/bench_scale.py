"""What a run costs beside models: `python tests/bench/bench_scale.py --cells 200 --samples 2000`.

Random pictures of 64 px, FID and Inception Score on the digits network; the first run into an empty store, and the same
command again. Of each: CPU and wall seconds, peak memory of the largest process, seconds by stage, files in the store.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
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
            print(f"{asked.cells} x {asked.samples}, {turn}: {run(asked, Path(work))}", flush=True)


def run(asked: argparse.Namespace, work: Path) -> str:
    """One run of the command line, in words."""
    overrides = [
        *("model=[callable]", "model.callable.function=random_images.draw", "model.callable.conditioning=none"),
        *(f"seed={{sweep: [{','.join(map(str, range(asked.cells)))}]}}", "seeds=apart", "device=cpu"),
        *(f"num_samples={asked.samples}", "reference=digits", "metric=[fid_digits,is_digits]", "name=scale"),
        *(f"store={work / 'store'}", *asked.overrides),
    ]
    paths = [str(asked.code), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    log = work / "log"
    with log.open("w") as output:
        start = time.perf_counter()
        command = [sys.executable, str(asked.code / "run_eval.py"), *overrides]
        process = subprocess.Popen(command, env=environment, cwd=work, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    if status:
        sys.exit(log.read_text())
    stages = json.loads((work / "store" / "scale" / "results.json").read_text())["run"]["seconds"]
    files = sum(len(names) for _, _, names in os.walk(work / "store"))
    return (
        f"{usage.ru_utime + usage.ru_stime:.1f} CPU s, {seconds:.1f} s, {usage.ru_maxrss / 1024:.0f} MB; "
        f"seconds by stage {stages}; {files:,} files"
    )


if __name__ == "__main__":
    main()
