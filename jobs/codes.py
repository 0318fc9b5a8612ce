"""ray job submit --working-dir . -- python jobs/codes.py --index s3://maps/index --queries s3://maps/test --output s3://maps/codes

Hash encoders, code lengths and comparisons tried on photos and tiles. Takes the flags of `geoloc codes`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["codes", *sys.argv[1:]]))
