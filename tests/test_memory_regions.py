"""Regions change what is retrieved, as the documentation says."""

from __future__ import annotations

from contextlib import closing
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from aesg import AESGMemory
from storage_backends.engine import Engine
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import EDGE, EventType, Records, WriteBatch
from tests.memory_build import config, pattern, patterns

#: Two groups, and one that no edge leads to. Of these three the query finds the first and the last.
HERE, THERE, ALONE = [1, 2, 3, 4], [5, 6, 7, 8], 9
QUERY = pattern(0) + 0.1 * pattern(ALONE - 1)


def row(targets: list[int], confidence: float) -> Records:
    made = np.zeros(len(targets), EDGE)
    made["target"], made["weight"], made["confidence"] = targets, 1, confidence
    made["kind"] = made["use"] = 1
    return made


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Make a memory where concept 1 leads as strongly to its own region as to the other one."""
    consolidating = {"consolidation_epoch_interval": 1, "region_detection_interval": 1}
    with AESGMemory(tmp_path, config(**consolidating, abstraction_enabled=False)) as memory:
        memory.remember(patterns(*range(ALONE)))
    rows: dict[int, Records] = {}
    for one, other in [*permutations(HERE, 2), *permutations(THERE, 2)]:
        known = rows.get(one, row([], 0))
        rows[one] = np.append(known, row([other], 0.8))
    rows[1] = row([2, 5], 0.4)
    with closing(Engine(LMDBStore.open(tmp_path, create=False))) as engine:
        engine.commit(WriteBatch(edges=rows))
    with AESGMemory(tmp_path) as memory:
        memory.update_topology()
        events = memory.logger.get_history(types="RESTRUCTURE")
        assert [event["id2"] for event in events] == [2]
    return tmp_path


def retrieved(directory: Path, multiplier: float) -> dict[int, float]:
    """Return the two concepts that the query activates most, and how much."""
    fields = {"region_facilitation_multiplier": multiplier, "spreading_activation_steps": 1}
    with AESGMemory(directory, config(**fields, memory_mode="INFERENCE")) as memory:
        context = memory.retrieve(QUERY, top_k=2)
        ids = context.concept_ids.tolist()
        return dict(zip(ids, context.activations.tolist(), strict=True))


def test_regions_are_detected_by_ordinary_consolidation(directory: Path) -> None:
    with closing(Engine(LMDBStore.open(directory, create=False))) as engine:
        view = engine.view()
        regions = view.stats["region"][view.slots(np.arange(1, 10, dtype=np.uint64))]
        assert regions.tolist() == [regions[0]] * 4 + [3 - regions[0]] * 4 + [0]
        assert EventType.RESTRUCTURE in engine.store.events()["type"]


def test_above_one_paths_within_the_region_are_preferred(directory: Path) -> None:
    preferred, indifferent = retrieved(directory, 1.5), retrieved(directory, 1.0)
    assert list(preferred) == [1, 2]
    assert preferred[2] == pytest.approx(1.5 * indifferent[2])


def test_below_one_paths_within_the_region_are_avoided(directory: Path) -> None:
    assert list(retrieved(directory, 0.5)) == [1, 5]
    assert list(retrieved(directory, 0.0)) == [1, 5]


def test_at_one_regions_make_no_difference(directory: Path) -> None:
    indifferent = retrieved(directory, 1.0)
    assert list(indifferent) == [1, 2]  # of equals, the lower id
    assert indifferent[2] == retrieved(directory, 0.5)[5]
