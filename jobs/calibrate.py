"""ray job submit --working-dir . -- python jobs/calibrate.py --index s3://maps/index --photos s3://maps/photos.csv --output s3://maps/fit

Calibrate an index on photos of known position. Takes the flags of `geoloc calibrate`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["calibrate", *sys.argv[1:]]))
