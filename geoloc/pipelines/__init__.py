"""Stages on Ray: ingest, encode, build an index, evaluate, localize."""
