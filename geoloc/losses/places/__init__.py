"""Losses of a batch of photos and tiles with the places that they show: P places, K views of each."""
