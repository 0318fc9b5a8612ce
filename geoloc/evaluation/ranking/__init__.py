"""Ranks of the right items, with their ties, in one walk over blocks of scores; metrics from ranks."""
