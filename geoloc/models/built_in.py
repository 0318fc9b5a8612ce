"""The model that ships with the package: what users name `builtin` where the URI of a model is expected.

It lies in `geoloc/models/built_in_model/`, a model directory like any other. What it was trained on, what it reaches
and what it cannot do stand in `docs/model_in_the_box.md`.
"""

from __future__ import annotations

from pathlib import Path

from geoloc.core import storage

BUILT_IN = "builtin"
_DIRECTORY = Path(__file__).with_name("built_in_model")


def model_location(name_or_uri: str) -> str:
    """The absolute URI of a model that a user names: the one in the package for `builtin`, else the URI itself.

    A directory of that name is reached as `./builtin`. On a cluster the package lies at the same path on all nodes.
    """
    return str(_DIRECTORY) if name_or_uri == BUILT_IN else storage.absolute(name_or_uri)
