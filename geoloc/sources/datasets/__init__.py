"""Published data sets as their authors hand them out: one module a layout; nothing here knows of Ray.

A module reads the annotation files alone and plans light rows (`rows.Plan`): which picture belongs to which
tile or query, where it was taken, and which pairs belong together. `loading` turns rows into tables.
"""
