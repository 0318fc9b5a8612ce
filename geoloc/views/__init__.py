"""Geometry between the views: polar images of aerial tiles, panoramas."""
