"""Counts what came of many trials, and keeps the counts for the documentation."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests import kept_figures
from tests.torture.judge import Verdict

#: Names the file to which a run adds its figures.
VARIABLE = "TORTURE_FIGURES"

BEGIN, END = "<!-- figures of make torture -->", "<!-- end of the figures -->"
_COLUMNS = ("trials", "acknowledged", "lost", "reported", "refused", "wrong", "died")
_NOTES = 5


@dataclass
class Tally:
    """What came of the trials of one kind.

    Parameters
    ----------
    trials : int
        Memories that were examined.
    acknowledged : int
        Commits that the writers said were durable.
    lost : int
        Those that were missing afterwards.
    reported : int
        Memories that were read, and in which `verify` found something wrong.
    refused : int
        Memories that a `StoreError` said cannot be read.
    wrong : int
        Memories of which something else was read than had been written.
    died : int
        Readings that ended with a signal, or with an exception that is none of the store.
    notes : list of str
        The first few trials that were not as they should be.
    """

    trials: int = 0
    acknowledged: int = 0
    lost: int = 0
    reported: int = 0
    refused: int = 0
    wrong: int = 0
    died: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def only_lost(self) -> bool:
        """Whether nothing is wrong but that commits are missing, all of them at the end."""
        return not (self.reported or self.refused or self.wrong or self.died)

    def add(self, verdict: Verdict, where: str, acknowledged: int = 0) -> None:
        """Count one trial.

        Parameters
        ----------
        verdict : Verdict
            What came of it.
        where : str
            What was done, for the notes.
        acknowledged : int
            The last generation that was said to be durable, of this memory.
        """
        self.trials += 1
        lost = max(acknowledged - verdict.generation, 0) if verdict.outcome == "right" else 0
        self.lost += lost
        self.wrong += verdict.outcome == "wrong"
        self.died += verdict.outcome == "died"
        self.refused += verdict.outcome == "refused"
        self.reported += bool(verdict.problems)
        if (lost or not verdict.sound) and len(self.notes) < _NOTES:
            self.notes.append(f"{where}: {acknowledged} acknowledged, {verdict}")


def keep(title: str, tally: Tally) -> None:
    """Add a row to the figures of this run, where the environment names a file for them."""
    kept_figures.keep(VARIABLE, title, asdict(tally))


def table(rows: Mapping[str, Mapping[str, int]]) -> str:
    """Return the figures of a run as a table of Markdown."""
    lines = [
        f"| what was done | {' | '.join(_COLUMNS)} |",
        "|---" * (1 + len(_COLUMNS)) + "|",
    ]
    for title, row in rows.items():
        lines.append(f"| {title} | " + " | ".join(f"{row[name]:,}" for name in _COLUMNS) + " |")
    return "\n".join(lines)


def fill_in(page: str, rows: Mapping[str, Mapping[str, int]]) -> str:
    """Return a page with the figures of a run between its marks."""
    return kept_figures.fill_in(page, (BEGIN, END), table(rows))


def main(figures: Path, page: Path | None = None) -> None:
    """Print the figures of a run, or write them into a page."""
    kept_figures.show(table(json.loads(figures.read_text())), (BEGIN, END), page)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
