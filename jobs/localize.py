"""ray job submit --working-dir . -- python jobs/localize.py --index s3://maps/index --photos s3://maps/photos --output s3://maps/fixes

Locate a batch of photos. Takes the flags of `geoloc localize`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["localize", *sys.argv[1:]]))
