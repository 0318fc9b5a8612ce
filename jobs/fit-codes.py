"""ray job submit --working-dir . -- python jobs/fit-codes.py --model s3://m/a --tiles s3://m/t --output s3://m/b

Give a trained model another hash encoder. Takes the flags of `geoloc fit-codes`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["fit-codes", *sys.argv[1:]]))
