"""Fuzzes every reader of evalkit for a while: `python tests/bench/fuzz_readers.py --seconds 600`.

Prints, by reader, how many mutated inputs were read, how many were refused in one line, and whatever else happened:
another exception, a start of a process, a connection, a file written elsewhere, ten seconds for one input. The exit
code is 1 where anything did.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "helpers")]

from fuzz import Outcome, fuzz, kinds  # noqa: E402 (the path is set above)
from fuzz_targets import all_targets  # noqa: E402

BLOCK = 2.0  # seconds that a reader has at a time


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="a reader's name")
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as root:
        targets = [t for t in all_targets(Path(root) / "made") if given.only in (None, t.name)]
        outcomes = {target.name: Outcome() for target in targets}
        end, seed = time.monotonic() + given.seconds, given.seed
        while time.monotonic() < end:
            for target in targets:
                began, total = time.monotonic(), outcomes[target.name]
                while time.monotonic() < min(began + BLOCK, end):
                    one = fuzz(target, Path(root) / "work" / target.name, seed, examples=20)
                    total.read, total.refused = total.read + one.read, total.refused + one.refused
                    total.failures += one.failures
                    seed += 1
    print(f"{'reader':16} {'examples':>9} {'read':>8} {'refused':>8} {'else':>6}")
    for name, outcome in outcomes.items():
        print(f"{name:16} {outcome.examples:9,} {outcome.read:8,} {outcome.refused:8,} {len(outcome.failures):6,}")
    failures = [failure for outcome in outcomes.values() for failure in outcome.failures]
    total = sum(outcome.examples for outcome in outcomes.values())
    print(f"{'all':16} {total:9,} examples; exceptions other than EvalkitError, and other misdeeds: {len(failures)}")
    for failure in kinds(failures):
        print(f"\n{failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
