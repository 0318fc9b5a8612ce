"""Metrics by their definitions: explicit loops, a full sort, every order of ties. Shares no code with geoloc."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

from pyproj import Geod, Transformer

KINDS = ("expected", "optimistic", "pessimistic")


@dataclass
class Query:
    """One query: the score of each gallery item, and what each is to it."""

    scores: list[float]
    right: set[int]
    semi: set[int] = field(default_factory=set)
    junk: set[int] = field(default_factory=set)


def orders(query: Query, without: set[int]) -> list[list[int]]:
    """Every ranking of the gallery that its scores allow: equal scores in any order."""
    left = [item for item in range(len(query.scores)) if item not in without]
    levels = sorted({query.scores[item] for item in left}, reverse=True)
    groups = [[item for item in left if query.scores[item] == level] for level in levels]
    choices = [list(itertools.permutations(group)) for group in groups]
    return [[item for group in choice for item in group] for choice in itertools.product(*choices)]


def over_orders(query: Query, without: set[int], figure) -> dict[str, float]:
    """A figure of a ranking: its mean, its best and its worst over all orders of ties."""
    values = [figure(order) for order in orders(query, without)]
    return {
        "expected": sum(values) / len(values),
        "optimistic": max(values),
        "pessimistic": min(values),
    }


def hit(query: Query, k: float, without: set[int]) -> dict[str, float]:
    """Whether a right item is among the first k."""
    right = query.right - without
    return over_orders(
        query, without, lambda order: float(any(item in right for item in order[: max(0, math.floor(k))]))
    )


def trapezoid(order: list[int], right: set[int]) -> float:
    """Average precision as evaluate_gpu.py of University-1652 does it."""
    total, found = 0.0, 0
    wanted = [item for item in order if item in right]
    if not wanted:
        return 0.0
    for row, item in enumerate(order):
        if item not in right:
            continue
        precision = (found + 1) / (row + 1)
        before = found / row if row != 0 else 1.0
        total += (before + precision) / 2 / len(wanted)
        found += 1
    return total


def precision(query: Query) -> dict[str, float]:
    """Trapezoidal average precision with junk taken out."""
    right = query.right - query.junk
    return over_orders(query, query.junk, lambda order: trapezoid(order, right))


def hit_rate(query: Query) -> dict[str, float]:
    """Recall@1 with the semi-positives taken out of the ranking."""
    return hit(query, 1, query.junk | query.semi)


def percent(values: list[dict[str, float]]) -> dict[str, float]:
    """Means over all queries, in percent."""
    return {kind: 100 * sum(one[kind] for one in values) / len(values) for kind in KINDS}


def within_one_percent(rule: str, rank: int, gallery: int) -> bool:
    """Whether rank (from 0) counts as "top 1 %", each as its authors' code tests it."""
    if rule == "int_plus_one":
        return rank < int(gallery * 0.01) + 1
    if rule == "float_strict":
        return rank < 0.01 * gallery
    if rule == "floor":
        return rank < max(1, gallery // 100)
    if rule == "fixed_89":
        return rank < 89
    cumulative = [rank <= index for index in range(10 * gallery + 2)]  # CMC: true from the rank on
    if rule == "round_plus_one":
        return cumulative[round(0.01 * gallery)]
    assert rule == "max_round_plus_one"
    return cumulative[max(round(gallery / 100), 1)]


def metres(lat: float, lon: float, other_lat: float, other_lon: float) -> float:
    """Geodesic distance on WGS84."""
    return Geod(ellps="WGS84").inv(lon, lat, other_lon, other_lat)[2]


def metres_utm55(lat: float, lon: float, other_lat: float, other_lon: float) -> float:
    """Straight distance in UTM zone 55 south, as RecallGeo of OriCNN measures."""
    to_utm = Transformer.from_crs(4326, 32755, always_xy=True)
    (east, north), (other_east, other_north) = (
        to_utm.transform(lon, lat),
        to_utm.transform(other_lon, other_lat),
    )
    return math.hypot(east - other_east, north - other_north)


def quantile(errors: list[float], share: float) -> float | None:
    """The smallest error that at least this share of all queries does not exceed; None if it is infinite."""
    for value in sorted(errors):
        if sum(error <= value for error in errors) >= share * len(errors):
            return value if math.isfinite(value) else None
    return None


def dot(left: list[float], right: list[float]) -> float:
    """A scalar product, added up one by one."""
    total = 0.0
    for a, b in zip(left, right, strict=True):
        total += a * b
    return total


def bits_apart(left: list[int], right: list[int]) -> int:
    """Hamming distance of two codes of bytes."""
    return sum((a ^ b).bit_count() for a, b in zip(left, right, strict=True))
