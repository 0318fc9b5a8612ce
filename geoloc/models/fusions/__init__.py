"""Fusions, one module each: a tile's feature map and its points to one embedding."""
