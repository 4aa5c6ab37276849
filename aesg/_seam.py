"""The one place where errors of the layer below become errors of AESG."""

from __future__ import annotations

from contextlib import ContextDecorator
from types import TracebackType

from aesg.errors import AESGStorageError
from storage_backends.errors import StoreError


class storage_errors(ContextDecorator):  # noqa: N801 - used as a function
    """Translate what the store and the operating system raise into `AESGStorageError`.

    Serves as a context manager and as a decorator.

    Parameters
    ----------
    action : str
        What is being done, to what: ``"open memory './aesg_memory'"``.

    Raises
    ------
    AESGStorageError
        ``Failed to <action>: <reason>``, caused by the `StoreError` or `OSError`.
    """

    def __init__(self, action: str) -> None:
        self._action = action

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, StoreError | OSError):
            raise AESGStorageError(f"Failed to {self._action}: {error}") from error
