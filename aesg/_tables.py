"""Tables as text, for what describes itself with ``print``."""

from __future__ import annotations

from io import StringIO

from rich.console import Console, RenderableType

#: Columns of a table that is not written to a terminal.
_WIDTH = 120


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 edge``, ``2,000 edges``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def printable(text: str) -> str:
    """Return a text of one line in which a terminal finds nothing to obey: the rest is escaped."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def as_text(*parts: RenderableType) -> str:
    """Return tables and lines as plain text of at most 120 columns, without a last line break.

    Brackets in text are text: nothing is read as markup.
    """
    console = Console(file=StringIO(), width=_WIDTH, markup=False, highlight=False, no_color=True)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
