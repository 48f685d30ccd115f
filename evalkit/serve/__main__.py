"""`python -m evalkit.serve metric=[...]`: a scorer server."""

import sys

from evalkit.serve.server import main

if __name__ == "__main__":
    sys.exit(main())
