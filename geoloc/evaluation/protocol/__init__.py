"""Protocols by name, their questions (who asks, which gallery, which items are right), and sanity checks."""
