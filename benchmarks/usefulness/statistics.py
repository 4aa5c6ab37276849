"""Means and paired differences with their t-intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scipy import stats  # type: ignore[import-untyped]

from aesg.benchmark.statistics import Interval, interval, t_point

__all__ = ["Comparison", "Interval", "compare", "interval", "paired"]


@dataclass(frozen=True)
class Comparison:
    """One arm less another, seed by seed.

    Parameters
    ----------
    difference : Interval
    p : float
        Two-sided, of the paired t-test; NaN for one pair.
    """

    difference: Interval
    p: float

    def verdict(self, better: str) -> str:
        """Return "ahead", "behind" or "even": where zero lies beside the interval, or in it."""
        sign = 1 if better == "higher" else -1
        low, high = sorted((sign * self.difference.low, sign * self.difference.high))
        return "ahead" if low > 0 else "behind" if high < 0 else "even"


def compare(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Comparison | None:
    """Compare two arms over the seeds that both have; None where there is none.

    Parameters
    ----------
    ours, theirs : mapping
        ``{seed: value}``.
    """
    differences = paired(ours, theirs)
    if not differences:
        return None
    found = interval(differences)
    return Comparison(found, _p_value(found))


def paired(
    ours: Mapping[int, float], theirs: Mapping[int, float], *, relative: bool = False
) -> list[float]:
    """Return the differences of the seeds that both have, as a share of ``theirs`` if relative."""
    both = sorted(set(ours) & set(theirs))
    differences = [ours[seed] - theirs[seed] for seed in both]
    if relative:
        return [each / theirs[seed] for each, seed in zip(differences, both, strict=True)]
    return differences


def _p_value(found: Interval) -> float:
    """Return the probability of a mean as far from zero under the hypothesis of no difference."""
    if found.count < 2:
        return math.nan
    if found.half == 0:
        return 0.0 if found.mean else 1.0
    freedom = found.count - 1
    error = found.half / t_point(freedom)
    return float(2 * stats.t.sf(abs(found.mean) / error, freedom))
