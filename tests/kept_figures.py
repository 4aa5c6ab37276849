"""Figures of long runs, on their way from the tests into a page of the documentation."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def keep(variable: str, title: str, row: Mapping[str, Any]) -> None:
    """Add a row to the figures of this run, where a variable of the environment names a file."""
    name = os.environ.get(variable)
    if name:
        path = Path(name)
        rows = json.loads(path.read_text()) if path.exists() else {}
        rows[title] = dict(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, indent=2) + "\n")


def fill_in(page: str, marks: tuple[str, str], table: str) -> str:
    """Return a page with a table between its marks."""
    begin, end = marks
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"expected {begin} and {end} in the page")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def show(table: str, marks: tuple[str, str], page: Path | None) -> None:
    """Print a table, or write it into a page."""
    if page is None:
        print(table)
    else:
        page.write_text(fill_in(page.read_text(), marks, table))
