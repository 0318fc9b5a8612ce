"""ray job submit --working-dir . -- python jobs/bench.py search --codes s3://maps/codes --output s3://maps/bench.json

Measure a machine of the cluster against the bars of its parts. Takes the words and flags of `geoloc bench`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
