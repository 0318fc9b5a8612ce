"""Recall, errors and chance from ranks; ties and the meaning of "1 %" are parameters with names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from geoloc.core.arrays import FloatArray
from geoloc.core.errors import InputError
from geoloc.evaluation.ranking.ranks import RankCounts

Ties = Literal["expected", "optimistic", "pessimistic"]
TopPercent = Literal[
    "int_plus_one", "float_strict", "floor", "round_plus_one", "max_round_plus_one", "fixed_89"
]
TIES: tuple[Ties, ...] = ("expected", "optimistic", "pessimistic")

_TOP_PERCENT: Mapping[str, Callable[[int], int]] = {
    "int_plus_one": lambda n: int(0.01 * n) + 1,  # OriCNN, SAFA, VIGOR: 89 of 8,884
    "float_strict": lambda n: math.ceil(0.01 * n),  # STN on CVUSA: ranks from 0 below 88.84, so 89 answers
    "floor": lambda n: n // 100,  # Sample4Geo: 88 of 8,884
    "round_plus_one": lambda n: round(0.01 * n) + 1,  # University-1652: CMC at index round(0.01 N)
    "max_round_plus_one": lambda n: max(round(n / 100), 1) + 1,  # 2.5D maps: recall at index 50 of 5,000
    "fixed_89": lambda n: 89,  # hashing: written for 8,884, used for every gallery
}
TOP_PERCENT_RULES: tuple[TopPercent, ...] = get_args(TopPercent)


def top_percent_k(gallery: int, rule: TopPercent = "int_plus_one") -> int:
    """How many answers "top 1 %" allows in a gallery, at least 1, by one of the field's rules."""
    if rule not in _TOP_PERCENT:
        raise InputError(f"top-1% rule {rule!r} is not one of {', '.join(_TOP_PERCENT)}.")
    return max(1, _TOP_PERCENT[rule](gallery))


def hit_probability(counts: RankCounts, k: int, ties: Ties = "expected") -> FloatArray:
    """Probability float64[Q] that a positive is among the first k answers.

    `expected` orders ties at random (hypergeometric), `optimistic` puts the truth first, as counting strictly
    better tiles does, `pessimistic` puts it last. Queries without a positive never hit.
    """
    free = (k - counts.better).astype(np.float64)
    pool = counts.tied + counts.positives
    possible = (counts.positives > 0) & (free > 0)
    if ties == "optimistic":
        return possible.astype(np.float64)
    if ties == "pessimistic":
        return (possible & (free > counts.tied)).astype(np.float64)
    miss = _log_choose(counts.tied, free) - _log_choose(pool, np.minimum(free, pool))
    missed = np.where(free > counts.tied, 0.0, np.exp(np.minimum(miss, 0.0)))
    return np.where(possible, 1.0 - missed, 0.0)


def _log_choose(n: npt.ArrayLike, k: npt.ArrayLike) -> FloatArray:
    from scipy.special import gammaln

    total, chosen = np.asarray(n, dtype=np.float64), np.asarray(k, dtype=np.float64)
    chosen = np.clip(chosen, 0.0, total)
    return np.asarray(gammaln(total + 1) - gammaln(chosen + 1) - gammaln(total - chosen + 1))


def recall(counts: RankCounts, k: int, ties: Ties = "expected") -> float:
    """Recall@k in 0..1 over all queries, those without a positive included as misses; NaN-free: 0 for none."""
    probability = hit_probability(counts, k, ties)
    return float(probability.mean()) if len(probability) else 0.0


def recall_table(
    counts: RankCounts, ks: Sequence[int], rule: TopPercent = "int_plus_one", ties: Ties = "expected"
) -> dict[str, float]:
    """Recall in percent by name: `R@1`, `R@5`, ..., and `R@1%`."""
    table = {f"R@{k}": 100.0 * recall(counts, k, ties) for k in ks}
    table["R@1%"] = 100.0 * recall(counts, top_percent_k(counts.gallery, rule), ties)
    return table


def error_summary(error_m: FloatArray) -> dict[str, float | int | None]:
    """Median, 90 % and share of errors float64[Q] in metres; NaN (not located) counts in `queries` and as infinite.

    Quantiles are errors that a query has (nearest rank): the median of an even number is the lower of the middle
    two, not their mean, which differs where queries are few. A quantile that falls on a query that was not located
    is None: no finite figure would be honest.
    """
    errors = np.sort(np.where(np.isfinite(error_m), error_m, np.inf))
    return {
        "queries": len(errors),
        "located": int(np.isfinite(error_m).sum()),
        "median_m": _quantile(errors, 0.5),
        "p90_m": _quantile(errors, 0.9),
    } | {f"within_{r}m": 100.0 * float((errors <= r).mean()) if len(errors) else 0.0 for r in (5, 10, 25, 50)}


def distance_summary(error_m: FloatArray, radii_m: Sequence[float]) -> dict[str, float | int | None]:
    """Quantiles of errors float64[Q] in metres, and the share in percent that is at most each radius.

    As in `error_summary`, NaN counts as infinitely far and a quantile that falls there is None.
    """
    errors = np.sort(np.where(np.isfinite(error_m), error_m, np.inf))
    summary: dict[str, float | int | None] = {"queries": len(errors)}
    for share in (0.25, 0.5, 0.75, 0.9, 0.95):
        summary[f"q{100 * share:g}_m"] = _quantile(errors, share)
    for radius in radii_m:
        summary[f"within_{radius:g}m"] = 100.0 * float((errors <= radius).mean()) if len(errors) else 0.0
    return summary


def _quantile(errors: FloatArray, share: float) -> float | None:
    """The smallest of ascending errors that at least this share does not exceed; None where it is infinite."""
    if not len(errors):
        return None
    value = float(errors[min(len(errors) - 1, math.ceil(share * len(errors)) - 1)])
    return value if math.isfinite(value) else None
