"""The city in the directory layouts and annotation files of published data sets.

Each layout plans an `Export`: every picture with its exact pose, and the annotation files as bytes. Nothing is
rendered while planning, and nothing here knows Ray; `write` renders and writes any part of a plan.
"""

from __future__ import annotations
