"""ray job submit --working-dir . -- python jobs/compare.py --train s3://maps/train --tests s3://maps/test --output s3://maps/compared

Train several recipes with one budget and measure them side by side. Takes the flags of `geoloc compare`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
