"""Means and paired differences with their t-intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % t-interval.

    Parameters
    ----------
    mean : float
    half : float
        Half of the interval's width; infinite where one value alone tells of no spread.
    count : int
        Values that it is of.
    """

    mean: float
    half: float
    count: int

    @property
    def low(self) -> float:
        """Lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """Upper end."""
        return self.mean + self.half


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


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of some values with its interval.

    Parameters
    ----------
    values : sequence of float
        At least one.
    """
    count = len(values)
    mean = float(np.mean(values))
    if count < 2:
        return Interval(mean, math.inf, count)
    error = float(np.std(values, ddof=1)) / math.sqrt(count)
    return Interval(mean, float(stats.t.ppf((1 + _CONFIDENCE) / 2, count - 1)) * error, count)


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
    error = found.half / float(stats.t.ppf((1 + _CONFIDENCE) / 2, freedom))
    return float(2 * stats.t.sf(abs(found.mean) / error, freedom))
