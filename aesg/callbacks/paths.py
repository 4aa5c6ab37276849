"""Paths that users give."""

from __future__ import annotations

import os
from pathlib import Path

from aesg.callbacks.base import Callback
from aesg.errors import AESGTrainingError


def absolute(path: str | os.PathLike[str]) -> Path:
    """Return a path that stays the same when the program changes its working directory.

    Raises
    ------
    AESGTrainingError
        If it is none.
    """
    try:
        given = os.fspath(path)
    except TypeError:
        given = ""
    if not isinstance(given, str) or not given:
        raise AESGTrainingError(f"path: expected the path of a file or folder, got {path!r}")
    return Path(os.path.abspath(given))


def check_alone(callback: Callback, kind: type[Callback]) -> None:
    """Raise `AESGTrainingError` where another callback of a kind has the path of this one.

    Parameters
    ----------
    callback : Callback
        With a ``path``.
    kind : type
        Whose instances have a ``path``.
    """
    own = getattr(callback, "path", None)
    for each in () if callback.trainer is None else callback.trainer.callbacks:
        if isinstance(each, kind) and each is not callback and getattr(each, "path", None) == own:
            raise AESGTrainingError(
                f"path: expected one of its own for each callback, got '{own}' also for "
                f"{type(each).__name__}"
            )
