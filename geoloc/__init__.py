"""Image geo-localization at city and country scale."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoloc.core.numba_cache import find_place

if TYPE_CHECKING:
    from geoloc.client.client import AsyncClient, Client
    from geoloc.localization.localizer import Localizer

__all__ = ["AsyncClient", "Client", "Localizer"]

find_place(os.environ, Path(__file__).parent, Path(os.path.expanduser("~")))
# Faiss logs four lines about its own loading in every process whose root logger lets INFO through (Ray Train's does).
logging.getLogger("faiss.loader").setLevel(logging.WARNING)


def __getattr__(name: str) -> Any:
    # Imported when first used: `import geoloc` alone loads neither torch nor faiss.
    if name in ("AsyncClient", "Client"):
        from geoloc.client import client

        return getattr(client, name)
    if name == "Localizer":
        from geoloc.localization.localizer import Localizer

        return Localizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
