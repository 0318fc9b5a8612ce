"""ray job submit --working-dir . -- python jobs/ingest.py --imagery s3://maps/sheets --photos s3://maps/photos.csv --output s3://maps/tables

Imagery and photos to checked tables. Takes the flags of `geoloc ingest`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["ingest", *sys.argv[1:]]))
