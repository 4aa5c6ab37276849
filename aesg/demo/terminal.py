"""How the demo's processes speak to the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.console import Console

from aesg.errors import AESGError

#: Without markup: text that the demo reads holds brackets of its own.
console = Console(highlight=False, markup=False)


@contextmanager
def spoken_errors() -> Iterator[None]:
    """Turn what can go wrong outside the program into one line and exit code 1."""
    try:
        yield
    except AESGError as error:
        raise click.ClickException(error.message) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename or 'the demo'}: {error.strerror}") from error
