"""`python -m evalkit.trackers RUN_FOLDER`: pushes a finished run."""

import sys

from evalkit.trackers.push import main

if __name__ == "__main__":
    sys.exit(main())
