"""`python -m unpod_async`: the command line."""

import sys

from unpod_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
