"""ray job submit --working-dir . -- python jobs/pipeline.py --output s3://maps/demo

All stages one after the other, from the procedural city to measured recall. Takes the flags of `geoloc demo`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", "--no-serve", *sys.argv[1:]]))
