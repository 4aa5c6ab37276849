"""What a benchmark came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Cell = str | float
#: Points of a line, ``(x, y)``.
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Ratio:
    """A ratio of two costs that were measured in turns, and the goal for it.

    With a unit and without ``theirs`` it is a cost by itself, and so is its goal: in that unit.

    Parameters
    ----------
    row : int or None
        Of the table of goals; None if it states none.
    what : str
    value, low, high : float
        Its median over the turns, and the quartiles.
    bound : float or None
        The goal, if there is one.
    at_most : bool
        Whether the bound is the most, not the least, that meets the goal.
    note : str
        What is to be read beside it, such as the recall of both sides.
    ours, theirs : float or None
        The costs themselves, medians.
    unit : str
        Of those.
    """

    row: int | None
    what: str
    value: float
    low: float
    high: float
    bound: float | None = None
    at_most: bool = True
    note: str = ""
    ours: float | None = None
    theirs: float | None = None
    unit: str = ""

    @property
    def absolute(self) -> bool:
        """Whether it is a cost by itself."""
        return bool(self.unit) and self.theirs is None

    @property
    def met(self) -> bool | None:
        """Whether the median is within the bound; None without one."""
        if self.bound is None:
            return None
        return self.value <= self.bound if self.at_most else self.value >= self.bound


@dataclass(frozen=True)
class TableOf:
    """A table of figures.

    Parameters
    ----------
    title : str
    header : sequence of str
    rows : sequence of sequence of str or float
        As wide as the header.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(
                    f"{self.title}: expected rows of {len(self.header)} cells, got {list(row)}"
                )


@dataclass(frozen=True)
class Series:
    """Lines of a plot.

    Parameters
    ----------
    title, x, y : str
        Of the plot and its axes.
    lines : dict of str to points
    log_x, log_y : bool
    """

    title: str
    x: str
    y: str
    lines: Mapping[str, Points]
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Result:
    """What a benchmark came to.

    Parameters
    ----------
    name, title : str
    ratios : sequence of Ratio
    tables : sequence of TableOf
    series : sequence of Series
    skipped : sequence of str
        What could not be measured, and why: ``hnswlib: cannot be installed: ...``.
    notes : sequence of str
        What a reader of the figures has to know.
    """

    name: str
    title: str
    ratios: Sequence[Ratio] = ()
    tables: Sequence[TableOf] = ()
    series: Sequence[Series] = ()
    skipped: Sequence[str] = field(default=())
    notes: Sequence[str] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Return what JSON takes."""
        found = asdict(self)
        for told, ratio in zip(found["ratios"], self.ratios, strict=True):
            told["met"] = ratio.met
        return found

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Result:
        """Return the result of which `as_json` told."""
        ratios = [
            {key: value for key, value in each.items() if key != "met"} for each in told["ratios"]
        ]
        return cls(
            **{
                **told,
                "ratios": tuple(Ratio(**each) for each in ratios),
                "tables": tuple(TableOf(**each) for each in told["tables"]),
                "series": tuple(Series(**each) for each in told["series"]),
            }
        )
