"""Building an index: sorted runs, a plan, shards; no Ray inside."""
