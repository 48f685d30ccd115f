"""Is a wrong number ever shown? `python tests/bench/mutate_store.py --count 300` harms a finished store so many times.

Each time one file is altered at random (a bit, a cut, another's content, the same size and time, a JSON value), and the
same command runs again: it must give the scores of before, or tell. Prints what became of them by kind of file.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "helpers"), str(Path(__file__).resolve().parents[2])]

from mutations import KINDS, OUTCOMES, Trial, trials  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--each", action="store_true", help="print every trial")
    options = parser.parse_args()
    logging.getLogger("evalkit").setLevel(logging.ERROR)
    done: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="evalkit-mutations-") as folder:
        for trial in trials(Path(folder), options.count, options.seed):
            done.append(trial)
            if options.each or trial.outcome not in OUTCOMES[:3]:
                print(f"{trial.outcome}: {trial.kind}: {trial.file}: {trial.harm}: {trial.said}", flush=True)
    print_table(done)
    sys.exit(any(trial.outcome not in OUTCOMES[:3] for trial in done))


def print_table(done: list[Trial]) -> None:
    """One line per kind of file."""
    print("| file | mutations | " + " | ".join(OUTCOMES) + " | found by verify |")
    print("|---" * (len(OUTCOMES) + 3) + "|")
    for kind in [*KINDS, "all"]:
        of_kind = [trial for trial in done if kind in (trial.kind, "all")]
        counts = Counter(trial.outcome for trial in of_kind)
        seen = [trial.verified for trial in of_kind if trial.verified is not None]
        cells = [str(len(of_kind)), *(str(counts[name]) for name in OUTCOMES), f"{sum(seen)} of {len(seen)}"]
        print(f"| {kind} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
