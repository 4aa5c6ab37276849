"""Which training a callback follows."""

from __future__ import annotations

import weakref
from typing import Any


class Following:
    """Tells a callback whether it goes on with a training, or begins with another one."""

    def __init__(self) -> None:
        self._last: weakref.ref[Any] | None = None
        self._is_resumed = False

    def resume(self) -> None:
        """Take the next training for the one that the callback knows, whichever trainer it has."""
        self._is_resumed = True

    def goes_on(self, trainer: object) -> bool:
        """Return whether a trainer's training is the one that the callback knows; it is from now.

        Parameters
        ----------
        trainer : AESGTrainer
            The one that calls.
        """
        known = self._is_resumed or (self._last is not None and self._last() is trainer)
        self._last, self._is_resumed = weakref.ref(trainer), False
        return known
