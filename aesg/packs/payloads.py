"""The payloads of concepts, one after another, on their way into a pack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesg.packs.gathering import Gathered, constant

#: Bytes that are held in memory before they go into a temporary file.
_HELD = 16 << 20


class PayloadSpool:
    """Payloads in the order in which they are added, held on disk where they are many.

    Parameters
    ----------
    folder : Path
        Where the temporary file is, which has no name.
    """

    def __init__(self, folder: Path) -> None:
        self._file = SpooledTemporaryFile(_HELD, dir=str(folder))  # noqa: SIM115 (closed by __exit__)
        self._sizes: list[NDArray[np.uint32]] = []
        self._total = 0

    def add(self, payloads: Sequence[bytes | None]) -> None:
        """Add the payloads of some more concepts; None where there is none."""
        sizes = [0 if each is None else len(each) for each in payloads]
        self._sizes.append(np.array(sizes, np.uint32))
        self._total += sum(sizes)
        self._file.write(b"".join(each for each in payloads if each is not None))

    def columns(self) -> dict[str, Gathered]:
        """Return the columns that tell of payloads."""
        sizes = np.concatenate([np.empty(0, np.uint32), *self._sizes])
        return {
            "payload_sizes": Gathered(len(sizes), lambda b, e: sizes[b:e], sizes),
            "payloads": Gathered(self._total, self._part, np.empty(0, np.uint8)),
        }

    def _part(self, begin: int, end: int) -> NDArray[Any]:
        self._file.seek(begin)
        return np.frombuffer(self._file.read(end - begin), np.uint8)

    def __enter__(self) -> PayloadSpool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def no_payloads() -> dict[str, Gathered]:
    """Return the columns of concepts without payloads."""
    none = np.empty(0, np.uint8)
    return {
        "payload_sizes": constant(np.zeros(1, np.uint32)),
        "payloads": Gathered(0, lambda begin, end: none, none),
    }
