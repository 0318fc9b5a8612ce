"""The procedural city: a data set with exact truth, made from a seed. Nothing in the library imports it."""
