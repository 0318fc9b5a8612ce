"""ray job submit --working-dir . -- python jobs/augment-model.py --model s3://m/a --flip --output s3://m/b

Have a trained model also embed mirrored and resized pictures. Takes the flags of `geoloc augment-model`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["augment-model", *sys.argv[1:]]))
