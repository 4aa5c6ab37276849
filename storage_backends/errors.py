"""What storage can say went wrong.

::

    StoreError
    ├── NotAStoreError       the directory holds something else, or nothing
    ├── StoreSchemaError     written by a newer release, or by another format
    ├── StoreLockedError     another process is the writer; names it
    ├── StoreReadOnlyError   a write through a read-only handle, or no permission
    ├── StoreFullError       no space left, or a quota or size limit reached
    ├── StoreCorruptError    bytes that no release of this library wrote
    ├── StoreClosedError     the handle was closed, or it was left by a fork
    └── StoreUsageError      the caller broke the contract; nothing was written

Every message says what was expected, what was found, and where.
"""

from __future__ import annotations


class StoreError(Exception):
    """Base class of everything that ``storage_backends`` raises on purpose."""


class NotAStoreError(StoreError):
    """The path is not a memory directory."""


class StoreSchemaError(StoreError):
    """The directory was written under a schema that this release cannot read."""


class StoreLockedError(StoreError):
    """Another process holds the writer lock."""


class StoreReadOnlyError(StoreError):
    """The handle, the file or the file system does not allow writing."""


class StoreFullError(StoreError):
    """The disk, a quota or a size limit stopped a write; earlier commits are intact."""


class StoreCorruptError(StoreError):
    """Stored bytes do not decode, or contradict one another."""


class StoreClosedError(StoreError):
    """The handle is closed, poisoned by a failed write, or inherited through a fork."""


class StoreUsageError(StoreError):
    """A batch or argument that breaks the contract; the store is unchanged."""
