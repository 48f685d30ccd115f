"""evalkit on a GPU: first whether the numbers are right, then how fast they come, against peers and the hardware.

    python tests/bench/bench_gpu.py [--device cuda] [--only env exact score ...] [--budget 450]
    python tests/bench/bench_gpu.py --tiny --device cpu        # every line of it, at toy sizes: a check of the script

Random weights of the published networks' sizes and random images: nothing is fetched. A section is skipped, and says
so, where too little of the budget is left. One line of JSON per figure goes to OUT/figures.jsonl; a table comes last.
The sections whose figures nobody has seen come first. Two calls of at most 8 minutes, and the wheels for a machine
without a network, stand in tests/bench/README.md.

The exit code is 1 where a check is wrong or a section fails. Not a test.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

from gpu.bench import Bench  # noqa: E402

SECTIONS = {  # by name: the module in gpu/, the fewest seconds that it is started with, the most that it takes
    "e2e": ("whole_runs", 40, 220),  # the first five have figures that no GPU has told yet
    "decode": ("decoding", 15, 50),
    "gen": ("generation", 40, 100),
    "vit": ("transformers", 20, 45),
    "pairs": ("pairs", 15, 45),
    "env": ("environment", 5, 15),
    "exact": ("exact", 20, 150),
    "score": ("scores", 15, 60),
    "net": ("inception", 15, 45),
    "folders": ("folders", 0, 100),  # makes the images of decode and e2e, for a call that comes later
}
TABLE = 10_500  # characters of the table, at most


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="toy sizes")
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=[s for s in SECTIONS if s != "folders"])
    parser.add_argument("--budget", type=float, default=450, help="seconds for all sections")
    parser.add_argument(
        "--most", type=float, default=1e9, help="seconds for one section: what it has by itself, or less"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/bench_gpu"), help="where figures.jsonl goes")
    parser.add_argument("--work", type=Path, help="where inputs and stores lie; none: a folder that is deleted")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    work = args.work or Path(tempfile.mkdtemp(prefix="evalkit-gpu-"))
    work.mkdir(parents=True, exist_ok=True)
    bench = Bench(args.device, args.tiny, args.out, work, args.budget)
    try:
        for name in args.only:
            module, needs, most = SECTIONS[name]
            bench.section_ends = bench.now() + min(most, args.most)
            if not (Path(__file__).parent / "gpu" / f"{module}.py").exists():
                bench.say(name, "no such section yet")
                continue
            with bench.attempt(f"section {name}", needs) as go:
                if go:
                    importlib.import_module(f"gpu.{module}").run(bench)
    finally:
        if args.work is None:
            shutil.rmtree(work, ignore_errors=True)
    table = "\n".join(f"{name:58s} {value}  {note}" for name, value, note in bench.rows)
    print("\n" + table[:TABLE])
    print(f"{len(bench.failed)} wrong or failed: {', '.join(bench.failed) or 'none'}")
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
