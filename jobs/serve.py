"""ray job submit --working-dir . -- python jobs/serve.py --index s3://maps/index

Serve an index over HTTP from the head of the cluster. Takes the flags of `geoloc serve`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
