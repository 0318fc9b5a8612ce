"""`python -m tests.warm_workers COMMAND ...`: the command line of geoloc, whose own Ray forks its workers."""

from __future__ import annotations

import sys

from geoloc import cli
from tests.warm_workers import warm_workers

if __name__ == "__main__":
    with warm_workers():
        sys.exit(cli.main())
