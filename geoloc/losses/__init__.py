"""Losses: contrastive over pairs, and for hash codes."""
