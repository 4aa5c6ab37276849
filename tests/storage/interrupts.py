"""Lets an error come in the middle of what a call does, as Ctrl-C does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import Any

from tests.storage.maintenance_children import STEPS


def comes(error: type[BaseException], step: int, call: Callable[[], object]) -> bool:
    """Call something, with an error before the n-th call that touches files.

    Return whether it came, and left the call.
    """
    steps = count(1)

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call" and argument.__name__ in STEPS and next(steps) == step:
            sys.setprofile(None)
            raise error

    sys.setprofile(profile)
    try:
        call()
    except error:
        return True
    finally:
        sys.setprofile(None)
    return False
