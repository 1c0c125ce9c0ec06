"""Run the command line: `python -m unpod_async`."""

import sys

from unpod_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
