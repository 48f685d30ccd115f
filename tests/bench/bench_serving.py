"""Small servers on the loopback under load: steady, slow, shedding and crashing. Prints each sweep's table.

    python tests/bench/bench_serving.py                    # all four: some minutes
    python tests/bench/bench_serving.py --only shedding --num-samples 40

Each server is a process of its own (tests/helpers/queue_server.py) and is swept by `experiment=serving`: closed loops
of several clients, open loops of several rates. The results, with the report and its plot of latency against
throughput, go to runs/serving_<server> in the folder of --out; the plot is written next to them as latency.svg as well.
A run ends in an error if an image were lost.
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
SWEEP = "[{concurrency: 1}, {concurrency: 2}, {concurrency: 4}, {concurrency: 8}, {rate: 3}, {rate: 8}, {rate: 16}]"
SERVERS = {
    # What queue_server.py is started with, and the loads.
    "steady": (["--draw", "ldm", "--workers", "1", "--seconds", "0"], SWEEP),
    "slow": (["--draw", "digits", "--workers", "2", "--seconds", "0.4"], SWEEP),
    "shedding": (["--draw", "digits", "--workers", "2", "--seconds", "0.2", "--places", "4"], SWEEP),
    "crashing": (
        ["--draw", "digits", "--workers", "2", "--seconds", "0.1", "--down", "2", "--dies-after", "60", "240"],
        "[{rate: 12}, {concurrency: 4}]",
    ),
}


def bench(name: str, out: Path, num_samples: int) -> None:
    """One server's sweep: its table is printed as a user sees it."""
    arguments, sweep = SERVERS[name]
    helper = ROOT / "tests" / "helpers" / "queue_server.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    command = [sys.executable, str(helper), "--port", "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            print(f"\n== {name}: queue_server.py {' '.join(arguments)}", flush=True)
            began = time.perf_counter()
            run = [
                *(sys.executable, str(ROOT / "run_eval.py"), "experiment=serving", f"name=serving_{name}"),
                *(f"num_samples={num_samples}", f"model.openai_images.base_url={url}/v1", "device=cpu"),
                *(f"model.openai_images.load.sweep={sweep}", "model.openai_images.client.backoff=0.5"),
            ]
            subprocess.run(run, check=True, cwd=out, env=environment)
            print(f"{time.perf_counter() - began:.0f} s")
        finally:
            server.kill()
    folder = out / "runs" / f"serving_{name}"
    made = json.loads((folder / "results.json").read_text())["run"]["images"]
    assert all(images["count"] == num_samples for images in made.values()), "an image was lost"
    draw(folder)


def draw(folder: Path) -> None:
    """latency.svg: p99 against images/s."""
    sys.path.insert(0, str(ROOT))
    import evalkit

    table = evalkit.ResultTable.load(folder / "results.json")
    table.plot("images_per_second", "latency_p99").savefig(folder / "latency.svg")
    print(f"plot: {folder / 'latency.svg'}, and all percentiles in {folder / 'report.html'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SERVERS, default=list(SERVERS))
    parser.add_argument("--num-samples", type=int, default=120)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp(prefix="serving-"))
    out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        bench(name, out.resolve(), options.num_samples)


if __name__ == "__main__":
    main()
