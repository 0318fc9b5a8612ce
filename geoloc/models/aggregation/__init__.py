"""Aggregation: a feature map float[B, C, H, W] to float[B, channels, columns], one module for heads of a kind.

Heads that keep the azimuth give one column each share of the width; the others give one column for the whole map.
"""
