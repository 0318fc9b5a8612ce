"""Recipes: what a model is made of and how it is trained, as frozen data; the built-in ones as YAML."""
