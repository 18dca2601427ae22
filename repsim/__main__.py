"""The command line, as `python -m repsim`."""

import sys

from repsim.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
