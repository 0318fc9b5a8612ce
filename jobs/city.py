"""ray job submit --working-dir . -- python jobs/city.py --output s3://maps/city

Render the procedural city. Takes the flags of `geoloc city`, or the words of `geoloc city export`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["city", *sys.argv[1:]]))
