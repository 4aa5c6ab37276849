"""The one place where errors of the layer below become errors of AESG."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aesg.errors import AESGStorageError
from storage_backends.errors import StoreError


@contextmanager
def storage_errors(action: str) -> Iterator[None]:
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
    try:
        yield
    except (StoreError, OSError) as error:
        raise AESGStorageError(f"Failed to {action}: {error}") from error
