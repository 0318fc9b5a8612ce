"""Rows that a source refuses, and the quarantine table they end in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from geoloc.core import schemas


@dataclass(frozen=True)
class RefusedRow:
    """One refused row: its id, a short reason code, one sentence, and the file it came from."""

    key: str
    reason: str
    detail: str
    source: str


def quarantine_table(refused: Sequence[RefusedRow]) -> pa.Table:
    """RefusedRow rows as a table of the quarantine schema."""
    return pa.table(
        {
            "key": [row.key for row in refused],
            "reason": [row.reason for row in refused],
            "detail": [row.detail for row in refused],
            "source": [row.source for row in refused],
        },
        schema=schemas.QUARANTINE,
    )


def count_reasons(refused: Sequence[RefusedRow]) -> dict[str, int]:
    """How many rows were refused for each reason."""
    return dict(sorted(Counter(row.reason for row in refused).items()))
