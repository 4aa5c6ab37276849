"""Watching which snapshots of a memory there are, and which of them its readers use."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

_PAUSE_SECONDS = 0.1
_MAPS = Path("/proc/self/maps")


class Watch:
    """Notes, while the block runs, the seed indexes of a memory and those that processes map.

    Parameters
    ----------
    memory : Path
        The directory.
    processes : mapping of int to int
        Process ids, by the numbers of the readers.
    """

    def __init__(self, memory: Path, processes: Mapping[int, int]) -> None:
        #: Seconds after which each was first seen.
        self.written: dict[str, float] = {}
        self._mapped: dict[int, set[str]] = {reader: set() for reader in processes}
        self._memory, self._processes = memory, processes
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    @property
    def mapped(self) -> dict[int, int]:
        """How many snapshots each reader mapped; empty where the system does not tell."""
        known = self._mapped if _MAPS.exists() else {}
        return {reader: len(names) for reader, names in known.items()}

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.look()

    def look(self) -> None:
        """Look once."""
        for path in self._memory.glob("gen-*/index-*.faiss"):
            name = f"{path.parent.name}/{path.name}"
            self.written.setdefault(name, time.monotonic() - self._began)
        for reader, process in self._processes.items():
            self._mapped[reader] |= mapped_by(process, self._memory)

    def _run(self) -> None:
        while not self._stop.wait(_PAUSE_SECONDS):
            self.look()


def mapped_by(process: int, memory: Path) -> set[str]:
    """Return the seed indexes of a memory that a process maps, as Linux tells; none if not."""
    try:
        maps = Path(f"/proc/{process}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return set(re.findall(rf" {re.escape(str(memory.resolve()))}/(gen-\d+/index-\d+\.faiss)", maps))
