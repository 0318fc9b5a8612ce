"""ray job submit --working-dir . -- python jobs/evaluate.py --index s3://maps/index --queries s3://maps/test --output s3://maps/evaluation

Recall and metres on held-out photos. Takes the flags of `geoloc evaluate`.
"""

from __future__ import annotations

import sys

from geoloc.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
