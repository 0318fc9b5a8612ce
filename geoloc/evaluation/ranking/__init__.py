"""Ranked lists of all methods: ranks of the right items with their ties, in one scan; metrics from ranks."""
