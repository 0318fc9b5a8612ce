"""Best and worst cases as pictures: the query, the right item and the best answers."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from geoloc.core import part_table, storage
from geoloc.core.arrays import IntArray
from geoloc.evaluation.report.html import figure
from geoloc.evaluation.report.located_errors import LocatedPhotos
from geoloc.evaluation.report.recall_table import DirectionTables

_MATCHES = 5
_PHOTO_PX = (360, 120)
_TILE_PX = (120, 120)


@dataclass(frozen=True)
class Pictures:
    """Where the pictures of queries and tiles are: URIs of tables; missing ones leave their pictures out."""

    queries: str
    tiles: str

    def load(
        self, query_ids: Sequence[str], tile_ids: Sequence[str]
    ) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Image bytes of queries and tiles by id."""
        return _images(self.queries, "query_id", query_ids), _images(self.tiles, "tile_id", tile_ids)


def _images(uri: str, key: str, ids: Sequence[str]) -> dict[str, bytes]:
    if not ids or not storage.exists(storage.join(uri, part_table.MANIFEST_NAME)):
        return {}
    found: dict[str, bytes] = {}
    wanted = pa.array(sorted(set(ids)))
    for batch in part_table.iterate(uri, columns=[key, "image"]):
        rows = batch.filter(pc.is_in(batch[key], wanted))
        found.update(zip(rows[key].to_pylist(), rows["image"].to_pylist(), strict=True))
    return found


class Cases:
    """Queries of one direction from best to worst: by metres where they are known, else by the truth's rank."""

    def __init__(self, tables: DirectionTables, photos: LocatedPhotos | None) -> None:
        self._tables = tables
        self._answers = {} if photos is None else _matches_of(photos)
        self._error_m = tables.error_m[:, 0] if photos is None else photos.error_m
        self._method, counts = next(iter(tables.table.counts.items()))
        self._rank = counts.expected_rank()

    def section(self, pictures: Pictures, count: int) -> str:
        """HTML of `count` queries, half of them the best and half the worst."""
        best, worst = self.extremes(count)
        if not len(best):
            return ""
        shown = np.concatenate([best, worst])
        answers = {int(row): self._answers_of(int(row)) for row in shown}
        right = {int(row): self._right(int(row)) for row in shown}
        images = self._images(shown, answers, right, pictures)
        note = "<p>The right item has a green frame; it stands first, then what was found, best first.</p>"
        out = ["<h2>Best and worst cases</h2>", note]
        for title, rows in (("Best", best), ("Worst", worst)):
            if len(rows):
                out.append(f"<h3>{title}</h3>")
                out += [self._line(int(row), answers[int(row)], right[int(row)], images) for row in rows]
        return "".join(out)

    def extremes(self, count: int) -> tuple[IntArray, IntArray]:
        """Positions int64[n] of the best queries and of the worst, the very worst first; none is in both."""
        metres = np.where(np.isfinite(self._error_m), self._error_m, np.inf)
        order = np.lexsort((self._rank, metres)).astype(np.int64)
        count = min(count, len(order))
        first = (count + 1) // 2
        return order[:first], order[::-1][: count - first]

    def _answers_of(self, row: int) -> list[int]:
        rows = self._answers.get(row, self._tables.best_rows[row])
        return [int(item) for item in rows[:_MATCHES] if item >= 0]

    def _right(self, row: int) -> list[int]:
        truth = self._tables.questions.right
        return [int(item) for item in truth.tile[truth.query == row]]

    def _images(
        self,
        shown: IntArray,
        answers: dict[int, list[int]],
        right: dict[int, list[int]],
        pictures: Pictures,
    ) -> tuple[dict[str, bytes], dict[str, bytes]]:
        queries, gallery = self._tables.questions.queries, self._tables.questions.gallery
        items = sorted({item for row in answers for item in (*answers[row], *right[row][:1])})
        query_ids = [queries.ids[int(row)].as_py() for row in shown]
        item_ids = [gallery.ids[item].as_py() for item in items]
        if queries.what == "photos":
            return pictures.load(query_ids, item_ids)
        photos, tiles = pictures.load(item_ids, query_ids)
        return tiles, photos

    def _line(
        self,
        row: int,
        answers: list[int],
        right: list[int],
        images: tuple[dict[str, bytes], dict[str, bytes]],
    ) -> str:
        queries, gallery = self._tables.questions.queries, self._tables.questions.gallery
        name = queries.ids[row].as_py()
        sizes = (_PHOTO_PX, _TILE_PX) if queries.what == "photos" else (_TILE_PX, _PHOTO_PX)
        pieces = [figure(images[0].get(name), f"{name}: {self._caption(row)}", sizes[0], "photo")]
        for item in right[:1]:
            other = gallery.ids[item].as_py()
            pieces.append(figure(images[1].get(other), f"right: {other}", sizes[1], "true"))
        if not right:
            pieces.append(
                f'<span class="muted">{html.escape(f"no right one among the {gallery.what}")}</span>'
            )
        for place, item in enumerate(answers, start=1):
            other = gallery.ids[item].as_py()
            kind = "true" if item in right else ""
            pieces.append(figure(images[1].get(other), f"{place}. {other}", sizes[1], kind))
        return f'<div class="query">{"".join(pieces)}</div>'

    def _caption(self, row: int) -> str:
        rank = (
            "not among the gallery"
            if not np.isfinite(self._rank[row])
            else f"rank {self._rank[row]:,.0f} by {self._method}"
        )
        error = self._error_m[row]
        return f"{rank}, {error:,.1f} m off" if np.isfinite(error) else rank


def _matches_of(photos: LocatedPhotos) -> dict[int, IntArray]:
    """Gallery positions of each located photo's matches, best first."""
    return {
        int(row): matches
        for rows, group in photos.groups
        for row, matches in zip(rows, group.found.matches.rows, strict=True)
    }
