"""Search in an open snapshot: scan, merge, re-rank, regions; no Ray inside."""
