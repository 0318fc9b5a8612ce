"""Leaflet's built files, from the package that requirements.lock pins: nothing of it lies in this repository."""

from __future__ import annotations

from importlib import resources


def leaflet_file(name: str) -> bytes:
    """The bytes of `leaflet.js` or `leaflet.css`."""
    return (resources.files("js_lib_leaflet") / "static" / "js_lib_leaflet" / name).read_bytes()
