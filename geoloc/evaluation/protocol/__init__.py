"""Protocols by name, their questions (queries, gallery, right items), and sanity checks."""
