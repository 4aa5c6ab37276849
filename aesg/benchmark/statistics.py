"""Means with their t-intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_CONFIDENCE = 0.95
#: 97.5 % points of Student's t with 1, 2, ... degrees of freedom; beyond them a series is exact to
#: five digits.
_POINTS = (
    *(12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912),
    *(2.364624, 2.306004, 2.262157, 2.228139),
)


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

    @property
    def sign(self) -> int:
        """1 or -1 where zero lies below or above the interval; 0 where it lies in it."""
        return (self.low > 0) - (self.high < 0)


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of some values with its interval.

    Parameters
    ----------
    values : sequence of float
        At least one.
    """
    mean = statistics.fmean(values)
    count = len(values)
    if count < 2:
        return Interval(mean, math.inf, count)
    error = statistics.stdev(values) / math.sqrt(count)
    return Interval(mean, t_point(count - 1) * error, count)


def t_point(freedom: int) -> float:
    """Return the 97.5 % point of Student's t distribution.

    Parameters
    ----------
    freedom : int
        Degrees of freedom, at least 1.

    Notes
    -----
    The series in 1/freedom is that of Abramowitz and Stegun, Handbook of Mathematical Functions,
    26.7.5.
    """
    if freedom <= len(_POINTS):
        return _POINTS[freedom - 1]
    x = statistics.NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return math.fsum((x, *(term / freedom**power for power, term in enumerate(terms, 1))))
