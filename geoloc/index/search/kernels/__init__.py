"""The compiled inner loops of search: population counts and dot products."""
