"""ray job submit --working-dir . -- python jobs/demo.py --output s3://maps/demo

All stages on the procedural city, as a check of a new cluster. Takes the flags of `geoloc demo`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", "--no-serve", *sys.argv[1:]]))
