"""What AESG can say went wrong.

::

    AESGError
    ├── AESGConfigError       invalid configuration
    ├── AESGMemoryError       a memory operation that cannot be done
    ├── AESGNavigationError   spreading activation and retrieval
    ├── AESGTrainingError     the training loop: bad data, a loss that is not finite
    └── AESGStorageError      files: unwritable, full, locked, corrupt, of a newer release

Every message says what was expected, what was found, and where.
"""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import Any, Literal

Subsystem = Literal["config", "memory", "navigation", "trainer", "storage"]

#: The longest `AESGError.message`, in characters.
MESSAGE_LIMIT = 500

_ELLIPSIS = "..."


class AESGError(Exception):
    """Base class of every error that AESG raises on purpose.

    Parameters
    ----------
    message : str
        What happened. Beyond 500 characters the end is replaced by ``...``.
    subsystem : {"config", "memory", "navigation", "trainer", "storage"}
        Where it happened. The subclasses set it themselves.

    Attributes
    ----------
    message : str
        At most 500 characters; also what ``str(error)`` gives.
    subsystem : str
        As given.
    """

    def __init__(self, message: str, subsystem: Subsystem) -> None:
        if len(message) > MESSAGE_LIMIT:
            message = message[: MESSAGE_LIMIT - len(_ELLIPSIS)] + _ELLIPSIS
        super().__init__(message)
        self.message = message
        self.subsystem = subsystem

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        # Errors cross process borders (DataLoader workers) by pickle, which would otherwise call
        # the class with the message alone, whatever arguments its __init__ takes.
        return copyreg.__newobj__, (type(self), self.message), self.__dict__  # type: ignore[attr-defined]


class AESGConfigError(AESGError):
    """A parameter or argument outside its range, or a memory of another shape.

    Parameters
    ----------
    message : str
        What was expected, what was got, and where.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, "config")


class AESGMemoryError(AESGError):
    """A memory operation that cannot be done as asked.

    Parameters
    ----------
    message : str
        What was expected, what was got, and where.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, "memory")


class AESGNavigationError(AESGError):
    """A query that retrieval or spreading activation cannot answer.

    Parameters
    ----------
    message : str
        What was expected, what was got, and where.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, "navigation")


class AESGTrainingError(AESGError):
    """Data or state with which training cannot go on.

    Parameters
    ----------
    message : str
        What was expected, what was got, and where.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, "trainer")


class AESGStorageError(AESGError):
    """A file or directory that cannot be read, written or trusted.

    Parameters
    ----------
    message : str
        What was expected, what was got, and where.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, "storage")
