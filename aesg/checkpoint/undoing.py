"""Weights and a memory that change together, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from aesg.errors import AESGError


@contextmanager
def undone(undo: Callable[[], object], memory: object | None) -> Iterator[None]:
    """Call a function if a block fails, unless the block has restored a memory before that.

    Restoring a memory is one step that cannot be taken back: what belongs to its new content stays
    with it.

    Parameters
    ----------
    undo : callable
        Brings back what the block changes beside the memory.
    memory : AESGMemory, optional
    """
    generation = _generation_of(memory)
    try:
        yield
    except BaseException:
        if _generation_of(memory) in (None, generation):
            undo()
        raise


def _generation_of(memory: object | None) -> int | None:
    """Return the number of the last commit to a memory, which changes when it is restored."""
    with suppress(AESGError):
        return getattr(getattr(memory, "storage", None), "generation", None)
    return None
