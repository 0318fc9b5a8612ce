"""What travels between the interface and the replicas behind it."""

from __future__ import annotations

from dataclasses import dataclass, field

from geoloc.localization.fix import Fix


@dataclass(frozen=True)
class Answer:
    """A fix from one snapshot, with what answered and how long it took."""

    fix: Fix
    model_id: str
    shards_answered: int
    shards_total: int
    timings_ms: dict[str, float] = field(default_factory=dict)
