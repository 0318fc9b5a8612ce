"""ray job submit --working-dir . -- python jobs/encode.py --tiles s3://maps/tables/tiles --model s3://maps/model --output s3://maps/codes

Tiles to hash codes and embeddings. Takes the flags of `geoloc encode`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["encode", *sys.argv[1:]]))
