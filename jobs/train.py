"""ray job submit --working-dir . -- python jobs/train.py --train s3://maps/train --output s3://maps/model

Train a model. Takes the flags of `geoloc train`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
