"""Encoders of point clouds, one module each: clouds to features of points."""
