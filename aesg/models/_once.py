"""What is handed out once."""

from __future__ import annotations

from torch import Tensor


class Once:
    """Something that is handed out once. A copy of it, or a pickle, is empty."""

    def __init__(self) -> None:
        self.held: Tensor | None = None

    def __reduce__(self) -> tuple[type[Once], tuple[()]]:
        return Once, ()

    def take(self) -> Tensor | None:
        """Return what is held, and hold it no more."""
        held, self.held = self.held, None
        return held
