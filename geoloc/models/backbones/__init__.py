"""Backbones: one module each, with the section of a recipe that builds it; `network` is what they have in common."""
