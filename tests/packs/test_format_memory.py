"""Packs are written and read in parts, however large they are."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aesg.packs import read_pack, write_pack
from tests.pack_build import PROVENANCE, pack_columns

MIB = 1 << 20


class Made:
    """Rows that are made when they are asked for."""

    def __init__(self, rows: NDArray[Any], times: int) -> None:
        self._rows = rows
        self.dtype = rows.dtype
        self.shape = (len(rows) * times, *rows.shape[1:])
        self.asked: list[int] = []

    def part(self, begin: int, end: int) -> NDArray[Any]:
        part = self._rows[np.arange(begin, end) % len(self._rows)]
        self.asked.append(part.nbytes)
        return part


def made(times: int, concepts: int = 1_000, vector_dim: int = 64) -> dict[str, Any]:
    """Return the columns of a pack without edges that has ``times`` as many concepts."""
    columns: dict[str, Any] = {
        name: rows if name.startswith(("edge_", "payload")) else Made(rows, times)
        for name, rows in pack_columns(concepts, vector_dim, 0).items()
    }
    columns["ids"] = np.arange(1, times * concepts + 1, dtype=np.uint64)
    columns["edge_counts"] = columns["payload_sizes"] = np.zeros(1, np.uint32)
    return columns


def in_status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name + ":")).split()[1]) * 1024


def most_above(act: Callable[[Callable[..., None]], object]) -> int:
    """Return how much memory that no file backs was added at most while something was done."""
    before, seen = in_status("RssAnon"), [0]

    def progress(step: str, done: int, total: int) -> None:
        seen.append(in_status("RssAnon"))

    act(progress)
    return max(seen) - before


def in_child(path: Path) -> tuple[int, int, int, int]:
    columns = made(400)
    kept = columns["ids"].nbytes
    written = most_above(
        lambda progress: write_pack(
            path, columns, vector_dim=64, provenance=PROVENANCE, progress=progress
        )
    )
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = in_status("VmRSS")
    pack = read_pack(path)
    own = sum(rows.nbytes for rows in pack.columns.values() if rows.strides[0])
    return kept, written, own, in_status("VmHWM") - before - own


@pytest.mark.long
def test_a_hundred_megabytes_take_few_beside_the_columns(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        kept, written, own, read = pool.submit(in_child, tmp_path / "large.aesgpack").result()
    assert own > 120 * MIB > kept
    assert written < 30 * MIB
    assert read < 50 * MIB


def test_parts_of_columns_are_asked_for_a_block_at_a_time(tmp_path: Path) -> None:
    columns = made(20)
    path = tmp_path / "some.aesgpack"

    write_pack(path, columns, vector_dim=64, provenance=PROVENANCE)

    assert read_pack(path).node_count == 20_000
    for name in ("keys", "norms", "created"):
        assert max(columns[name].asked) <= MIB
    assert len(columns["keys"].asked) > 4
