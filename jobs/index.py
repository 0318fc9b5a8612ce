"""ray job submit --working-dir . -- python jobs/index.py --codes s3://maps/codes --model s3://maps/model --output s3://maps/index

Codes to a committed index. Takes the flags of `geoloc index`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["index", *sys.argv[1:]]))
