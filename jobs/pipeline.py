"""ray job submit --working-dir . -- python jobs/pipeline.py --config s3://maps/city.yaml --output s3://maps/city

One YAML file from imagery and photos to a calibrated, measured index. Takes the flags of `geoloc pipeline`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["pipeline", *sys.argv[1:]]))
