"""Parts of a report: one HTML page with its tables and pictures inside, nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable

from PIL import Image

from geoloc.core.errors import GeolocError
from geoloc.core.images import decode_image

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .8rem; text-align: right }
th:first-child, td:first-child { text-align: left } thead th { border-bottom: 2px solid #888 }
tr.chance { color: #777; border-top: 1px solid #bbb } tr.ties { color: #777; font-size: 13px }
tr.ties td:first-child { padding-left: 2rem }
.finding { background: #fde8e0; border-left: 4px solid #c33; padding: .5rem 1rem; margin: .5rem 0 }
.query { display: flex; gap: .6rem; align-items: flex-start; margin: 1rem 0; flex-wrap: wrap }
figure { margin: 0; font-size: 12px; max-width: 400px } figure img { display: block; border: 3px solid #ccc }
figure.true img { border-color: #2a2 } figure.photo img { border-color: #fff }
.plots img { max-width: 48% } details { margin: .5rem 0 } pre { overflow-x: auto; font-size: 12px }
.muted { color: #777 }
"""


def page(title: str, sections: Iterable[str]) -> str:
    """The page from its sections of HTML; empty sections are left out."""
    body = "\n".join(section for section in sections if section)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of text; rows named `chance`, and those about ties, stand apart."""
    first = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    rest = "".join(map(_row, rows))
    return f"<table><thead><tr>{first}</tr></thead><tbody>{rest}</tbody></table>"


def _row(row: Iterable[str]) -> str:
    cells = list(row)
    apart = {"chance": "chance", "  ties lose": "ties", "  ties win": "ties"}.get(cells[0] if cells else "")
    kind = f' class="{apart}"' if apart else ""
    return f"<tr{kind}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def plot(data: bytes, alt: str = "plot", kind: str = "") -> str:
    """A PNG or JPEG picture in its own size; `kind` is its CSS class."""
    media, style = "png" if data.startswith(b"\x89PNG") else "jpeg", f' class="{kind}"' if kind else ""
    source = f"data:image/{media};base64,{base64.b64encode(data).decode()}"
    return f'<img{style} alt="{html.escape(alt)}" src="{source}">'


def figure(data: bytes | None, caption: str, size_px: tuple[int, int], kind: str) -> str:
    """An encoded picture of any size, shrunk to fit `size_px`, with a caption; `kind` is its CSS class."""
    picture = _thumbnail(data, size_px) if data else '<span class="muted">no picture</span>'
    return f'<figure class="{kind}">{picture}<figcaption>{html.escape(caption)}</figcaption></figure>'


def _thumbnail(data: bytes, size_px: tuple[int, int]) -> str:
    try:
        image = Image.fromarray(decode_image(data))
    except GeolocError as error:
        return f'<span class="muted">{html.escape(str(error))}</span>'
    image.thumbnail(size_px)
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=80)
    width, height = image.size
    encoded = base64.b64encode(sink.getvalue()).decode()
    return f'<img alt="" width="{width}" height="{height}" src="data:image/jpeg;base64,{encoded}">'
