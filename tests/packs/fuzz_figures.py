"""Counts what came of damaged packs, and keeps the counts for the documentation."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests import kept_figures
from tests.packs.fuzz_worker import Verdict

#: Names the file to which a run adds its figures.
VARIABLE = "PACK_FIGURES"

BEGIN, END = "<!-- figures of damaged packs -->", "<!-- end of the figures of damaged packs -->"

#: What was done to a pack, by the name of the kind of mutants.
TITLES = {
    "flipped": "bits flipped",
    "flipped_within": "bits flipped, right hash",
    "cut": "cut off or lengthened",
    "spliced": "two packs spliced",
    "shuffled": "bytes removed, repeated or overwritten, right hash",
    "header": "a field of the header",
    "head": "the description: fields, types, encoding",
    "sizes": "announced sizes",
    "frames": "compressed blocks: several frames, dictionaries, false sizes",
    "planes": "bits flipped before compression",
    "values": "values: not finite, out of range, out of order",
    "payloads": "payloads: not msgpack, nested, too long",
    "bombs": "small bombs",
    "large bombs": "bombs of up to 0.5 GB",
    "signed": "false signatures",
    "version 1: flipped": "version 1: bits flipped",
    "version 1: flipped_within": "version 1: bits flipped, right hash",
    "version 1: cut": "version 1: cut off or lengthened",
    "version 1: sizes": "version 1: announced sizes",
    "version 1: values": "version 1: values",
    "migration: damaged": "directory of 3.0: bits flipped, files cut off",
    "migration: missing": "directory of 3.0: files missing or exchanged",
    "migration: records": "directory of 3.0: numbers in nodes, edges and events",
    "migration: counts": "`meta.npy`: other counts",
    "migration: instructions": "`meta.npy`: instructions removed, repeated or inserted",
    "migration: programs": "`meta.npy`: pickles that would run something",
}

_NOTES = 5


@dataclass
class Tally:
    """What came of the mutants of one kind.

    Parameters
    ----------
    inputs, refused, loaded, wrong, died : int
        How many there were, and what came of them.
    seconds : float
        Most processor time that one took.
    bytes : int
        Most memory that one took.
    notes : list of str
        The first few that were not as they should be.
    """

    inputs: int = 0
    refused: int = 0
    loaded: int = 0
    wrong: int = 0
    died: int = 0
    seconds: float = 0.0
    bytes: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, verdict: Verdict, where: str) -> None:
        """Count one."""
        self.inputs += 1
        setattr(self, verdict.outcome, getattr(self, verdict.outcome) + 1)
        self.seconds = max(self.seconds, verdict.seconds)
        self.bytes = max(self.bytes, verdict.bytes)
        if verdict.outcome in ("wrong", "died") and len(self.notes) < _NOTES:
            self.notes.append(f"{where}: {verdict}")


def keep(kind: str, tally: Tally) -> None:
    """Add a row to the figures of this run, where the environment names a file for them."""
    kept_figures.keep(VARIABLE, kind, asdict(tally))


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return the figures of a run as a table of Markdown."""
    lines = [
        "| what was done | inputs | refused | loaded | wrong | died | slowest | most memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, row in rows.items():
        counts = " | ".join(
            f"{row[name]:,}" for name in ("inputs", "refused", "loaded", "wrong", "died")
        )
        spent = f"{row['seconds']:.2f} s | {row['bytes'] / (1 << 20):,.0f} MiB"
        lines.append(f"| {TITLES[kind]} | {counts} | {spent} |")
    return "\n".join(lines)


def fill_in(page: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return a page with the figures of a run between its marks."""
    return kept_figures.fill_in(page, (BEGIN, END), table(rows))


def main(figures: Path, page: Path | None = None) -> None:
    """Print the figures of a run, or write them into a page."""
    kept_figures.show(table(json.loads(figures.read_text())), (BEGIN, END), page)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
