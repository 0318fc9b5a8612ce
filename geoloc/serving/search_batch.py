"""Photos that a search replica answers together: those of one snapshot, one kind of query and one question.

Answers are those that each photo gets alone. What is shared is the cost of the calls.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from geoloc.core.errors import GeolocError
from geoloc.localization.encoded_queries import EncodedQueries
from geoloc.localization.fix import Fix
from geoloc.localization.locator import Locator
from geoloc.serving.answer import Query
from geoloc.serving.metrics import LOCATE, SEARCH, record_step


@dataclass(frozen=True)
class Asked:
    """One photo, what is asked about it, and when it came (of `time.perf_counter`)."""

    locator: Locator
    queries: EncodedQueries
    query: Query
    came_s: float


@dataclass(frozen=True)
class Located:
    """The fix of one photo, how many shards were left out, and milliseconds by step, their waits included."""

    fix: Fix
    broken_shards: int
    timings_ms: dict[str, float]


@dataclass(frozen=True)
class AnswerSettings:
    """What holds for all photos of a replica; `rerank` where a question has none of its own."""

    rerank: int
    min_confidence: float
    uncalibrated: bool


def locate_together(asked: Sequence[Asked], settings: AnswerSettings) -> list[Located | GeolocError]:
    """An answer for each photo, or why it has none; an error of one group of photos leaves the others alone."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, one in enumerate(asked):
        question = (one.query.k, one.query.rerank, id(one.query.region))
        groups.setdefault((id(one.locator), one.queries.kind, question), []).append(position)
    answers: dict[int, Located | GeolocError] = {}
    for positions in groups.values():
        together = [asked[position] for position in positions]
        found: Sequence[Located | GeolocError]
        try:
            found = _locate(together, settings)
        except GeolocError as error:
            found = [error] * len(together)
        answers.update(zip(positions, found, strict=True))
    return [answers[position] for position in range(len(asked))]


def _locate(together: Sequence[Asked], settings: AnswerSettings) -> list[Located]:
    """Answers to photos of one snapshot, kind and question."""
    began_s = time.perf_counter()
    locator, query = together[0].locator, together[0].query
    queries = EncodedQueries.joined([one.queries for one in together])
    rerank = settings.rerank if query.rerank is None else query.rerank
    compared = locator.compared(queries, query.k, rerank)
    found = locator.search(queries, k=compared, region=query.region, rerank=rerank)
    searched_s = time.perf_counter()
    fixes = locator.fixes(
        found,
        queries,
        k=query.k,
        region=query.region,
        rerank=rerank,
        min_confidence=settings.min_confidence,
        uncalibrated=settings.uncalibrated,
    )
    ended_s = time.perf_counter()
    for one in together:
        record_step(SEARCH, searched_s - began_s, began_s - one.came_s)
        record_step(LOCATE, ended_s - searched_s)
    broken = len(locator.snapshot.broken_shards())
    located_ms = 1e3 * (ended_s - searched_s)
    return [
        Located(fix, broken, {"search": 1e3 * (searched_s - one.came_s), "locate": located_ms})
        for one, fix in zip(together, fixes, strict=True)
    ]
