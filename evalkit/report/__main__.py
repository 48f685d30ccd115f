"""`python -m evalkit.report RESULTS_JSON_OR_FOLDER [--out FILE]`: makes the page again, without a GPU or torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evalkit.errors import EXIT_DONE, EXIT_ERROR, EvalkitError
from evalkit.report.run_folder import Run
from evalkit.report.write import NAME, write_page


def main(arguments: list[str] | None = None) -> int:
    """Makes the page and prints where it is; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m evalkit.report", description="Makes a run's report.html.")
    parser.add_argument("results", type=Path, help="a run's folder, or its results.json")
    parser.add_argument("--out", type=Path, help="the page to write (default: report.html next to results.json)")
    given = parser.parse_args(arguments)
    try:
        run = Run.open(given.results.expanduser())
        path = given.out.expanduser() if given.out else run.path.parent / NAME
        if path.is_dir():
            path = path / NAME
        write_page(run, path)
    except EvalkitError as error:
        print(f"evalkit: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"evalkit: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return EXIT_ERROR
    print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
