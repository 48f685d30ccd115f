"""`python -m evalkit.work STORE PLAN --stripe 3/8`: works on a part of a stored plan, all stages, without a report.

Its exit codes are the command line's. Slurm's array elements are such processes.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace

from evalkit.engines import Stripe, choose
from evalkit.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_TERMINATED, ConfigError, EvalkitError
from evalkit.utils.signals import Terminated, sigterm_is_ctrl_c
from evalkit.work.stages import Stages
from evalkit.work.stored_plan import open_plan, read_plan


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m evalkit.work", description=__doc__)
    parser.add_argument("store", help="the store's folder or URL")
    parser.add_argument("plan", help="the plan's key")
    parser.add_argument("--stripe", metavar="I/N", required=True, help="which part, counted from 0, of how many")
    given = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("evalkit").setLevel(logging.INFO)
    try:
        with sigterm_is_ctrl_c():
            work(given.store, given.plan, given.stripe)
    except EvalkitError as error:
        print(f"evalkit: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        return EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED
    return EXIT_DONE


def work(store: str, key: str, stripe: str) -> None:
    """Runs all stages of a plan, from a stripe's point of view.

    Raises:
        ConfigError: `stripe` is not I/N; or as of `open_plan`.
    """
    rank, _, world = stripe.partition("/")
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise ConfigError(f"--stripe {stripe}: give I/N, with I from 0 to N - 1")
    # The engine first: it takes its part of the machine before torch looks at any.
    engine = choose(Stripe(int(rank), int(world)), read_plan(store, key)["config"]["device"])
    try:
        Stages(replace(open_plan(store, key), engine=engine), driver=False).run()
    finally:
        engine.close()


if __name__ == "__main__":
    sys.exit(main())
