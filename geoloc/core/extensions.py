"""Modules that add parts to geoloc: its own, those of installed packages, and those that a user names.

Code is chosen by who runs geoloc, never by data: a recipe or a model directory names kinds, not modules.
"""

from __future__ import annotations

import functools
import importlib
import os
import pkgutil
from importlib import metadata

from geoloc.core.errors import ConfigError

GROUP = "geoloc_extensions"  # entry points of installed packages
VARIABLE = "GEOLOC_EXTENSIONS"  # modules, separated by commas; Ray's workers inherit it


def import_modules(package: str) -> None:
    """Import every module of a package of geoloc, then the extensions; each once."""
    _import_own(package)
    _import_installed()
    for name in os.environ.get(VARIABLE, "").split(","):
        if name.strip():
            _import_extension(name.strip(), f"{VARIABLE} names")


@functools.cache
def _import_own(package: str) -> None:
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)


@functools.cache
def _import_installed() -> None:
    for entry in metadata.entry_points(group=GROUP):
        _import_extension(entry.module, f"The entry point {entry.name!r} names")


@functools.cache
def _import_extension(name: str, origin: str) -> None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{origin} the module {name!r}, which cannot be imported: {error}.") from error
