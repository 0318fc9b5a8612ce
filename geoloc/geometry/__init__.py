"""Geometry between the views: aerial tiles, panoramas, polar images, orientation maps, warps."""
