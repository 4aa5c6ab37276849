"""Tables as text, for what describes itself with ``print``."""

from __future__ import annotations

from io import StringIO

from rich.console import Console, RenderableType

#: Columns of a table that is not written to a terminal.
_WIDTH = 120


def as_text(*parts: RenderableType) -> str:
    """Return tables and lines as plain text of at most 120 columns, without a last line break.

    Brackets in text are text: nothing is read as markup.
    """
    console = Console(file=StringIO(), width=_WIDTH, markup=False, highlight=False, no_color=True)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
