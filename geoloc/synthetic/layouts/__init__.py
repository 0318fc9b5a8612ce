"""The city in the directory layouts and annotation files of published data sets.

Each layout plans an `Export`: every picture with its exact pose, and the annotation files as bytes. A plan renders
nothing. `render.write_block` renders and writes the pictures of one block. Nothing here knows Ray.
"""

from __future__ import annotations
