"""Evaluation: questions of a protocol, ranked lists, metrics, sanity checks, the report."""
