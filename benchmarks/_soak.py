"""A long life of one memory: births, touches, merges, splits and prunes without end."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from aesg import AESGConfig, AESGMemory

WIDTH = 32
_CLASSES = 500
#: In each step so many sequences of queries are met, half of them known, and so many keys written.
_SEQUENCES, _LENGTH = 24, 4
_WRITTEN = 24


class Life:
    """A memory that lives at its greatest size, with all that happens to one.

    Parameters
    ----------
    directory : path
    concepts : int
        Concepts that the memory holds at most.
    """

    def __init__(self, directory: Path, concepts: int) -> None:
        self.memory = AESGMemory(
            directory,
            AESGConfig(
                vector_dim=WIDTH,
                max_concepts=concepts,
                novelty_birth_threshold=1,
                coactivation_threshold_create=3,
                consolidation_epoch_interval=2,
                survival_threshold_relevance=0.3,
                prune_confidence_threshold=0.2,
                region_detection_interval=50,
                split_density_threshold=30,
                max_events=20_000,
                durability="normal",
                log_level="WARNING",
            ),
        )
        self._chance = torch.Generator().manual_seed(0)
        self._known = torch.empty(0, WIDTH)
        self._values = torch.empty(0, dtype=torch.int64)

    def step(self) -> None:
        """Meet new and known queries in sequences, write concepts and copies, and update."""
        count = _SEQUENCES * _LENGTH
        keys, values = self._fresh(count)
        if len(self._known) >= count:
            again = torch.randint(len(self._known), (count // 2,), generator=self._chance)
            keys[: count // 2], values[: count // 2] = self._known[again], self._values[again]
        queries = keys.view(_SEQUENCES, _LENGTH, WIDTH)
        outcomes = values.view(_SEQUENCES, _LENGTH)
        self.memory.defer(self.memory.recall(queries, vectors=False), outcomes)
        written, of = self._fresh(_WRITTEN)
        written[: _WRITTEN // 2] = keys[-_WRITTEN // 2 :] + 0.03 * written[: _WRITTEN // 2]
        of[: _WRITTEN // 2] = values[-_WRITTEN // 2 :]
        self.memory.update_topology()
        self.memory.remember(written, of)
        self._known = torch.cat([self._known, keys[count // 2 :]])[-4 * count :]
        self._values = torch.cat([self._values, values[count // 2 :]])[-4 * count :]

    @property
    def births(self) -> int:
        """Concept ids given so far."""
        return self.memory._state.clock.next_id - 1

    def full(self) -> Life:
        """Live until the memory has been full for a while; return the life."""
        while self.births < 2 * self.memory.config.max_concepts:
            self.step()
        return self

    def retrievals(self, queries: int) -> list[int]:
        """Return the CPU time of retrievals of one query each, in nanoseconds."""
        self.memory.set_mode("INFERENCE")
        keys, _ = self._fresh(queries)
        spent = []
        for key in keys:
            begin = time.thread_time_ns()
            self.memory.retrieve(key)
            spent.append(time.thread_time_ns() - begin)
        self.memory.set_mode("TRAIN")
        return spent

    def _fresh(self, count: int) -> tuple[Tensor, Tensor]:
        """Return keys in clusters, and values."""
        values = torch.randint(_CLASSES, (count,), generator=self._chance)
        centres = torch.nn.functional.one_hot(values % WIDTH, WIDTH)
        noise = torch.randn(count, WIDTH, generator=self._chance)
        return 2.0 * centres + 0.5 * noise, values


def resident() -> int:
    """Return the anonymous memory that this process has resident, in bytes."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("Anonymous:"))
    return 1024 * int(line.split()[1])
