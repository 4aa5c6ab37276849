"""Learning beside attached packs: what they explain is not learned, and they stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aesg import AESGMemory
from aesg.graph.scope import PACK_ID
from aesg.packs import Pack
from storage_backends.types import Ids
from tests.memory_build import near, opened, pattern, patterns
from tests.packs.attached import BATCH, attached, packed, sequences, source

#: The modes that learn.
LEARNING = ("TRAIN", "FINETUNE", "ONLINE")


def contents(pack: Pack) -> dict[str, bytes]:
    return {name: np.asarray(column).tobytes() for name, column in pack.columns.items()}


def kept_ids(memory: AESGMemory) -> Ids:
    """Return every concept id that a memory has written down anywhere."""
    state = memory._state
    held = [state.shortterm.entries[name] for name in ("id", "previous", "next")]
    held += [state.view.ids.whole(), state.view.out_edges(np.arange(state.view.size))[1]["target"]]
    pending = state._pending
    held += [np.array(list(each), np.uint64) for each in (pending.born, pending.used)]
    held += [np.array(list(each), np.uint64) for each in (pending.refined, pending.rekeyed)]
    held += [np.array([key[:2] for key in pending.links], np.uint64)]
    held += [np.array(list(state._coactivation._counts), np.uint64)]
    held += [np.zeros(0, np.uint64) if memory._trail is None else memory._trail]
    log = memory.logger.records()
    held += [log["id1"], log["id2"]]
    return np.concatenate([each.ravel() for each in held])


def frequencies(memory: AESGMemory, ids: Ids) -> list[int]:
    view = memory._state.view
    used: list[int] = view.stats[view.slots(ids)]["frequency"].tolist()
    return used


@pytest.mark.parametrize("mode", LEARNING)
def test_learning_writes_nothing_of_a_pack_down(mode: str) -> None:
    memory = attached(packed(source()), memory_mode=mode, novelty_birth_threshold=2)
    pack = memory.get_attached_packs()["medical"].pack
    before = contents(pack)
    known = torch.from_numpy(np.array(pack.columns["keys"][:BATCH]))
    for seed in (0, 1, 0, 1, 0):
        queries, came = sequences(seed)
        memory.retrieve(queries, origins=torch.arange(1, BATCH + 1))
        memory.retrieve(known)
        context = memory.recall(queries, outcomes=came)
        memory.defer(context, came)
        memory.defer(memory.recall(known), known)  # vectors, which packs explain
        memory.update_topology()
    memory.defer(memory.recall(queries), torch.full_like(came, 9))  # what nobody said before
    memory.update_topology()
    memory.save()
    assert memory.storage.node_count
    assert memory.provisional_count
    assert memory.storage.edge_count
    ids = kept_ids(memory)
    assert ids.any()
    assert not (ids >= np.uint64(PACK_ID)).any()
    assert contents(pack) == before


def test_what_a_pack_explains_is_not_learned_and_is_once_it_is_gone() -> None:
    origin = opened("source")
    origin.remember(patterns(0, 1, 2), [4, 5, 6])
    memory = attached(packed(origin), memory_mode="ONLINE")
    came = torch.tensor([4, 5, 6])
    for _ in range(2):
        memory.retrieve(patterns(0, 1, 2))
        context = memory.recall(patterns(0, 1, 2))
        memory.defer(context, came, torch.eye(8)[came].clamp_min(1e-9).log().log_softmax(-1))
        memory.defer(context, patterns(0, 1, 2))
        memory.update_topology()
    assert memory.provisional_count == memory.storage.node_count == 0
    memory.detach_pack("medical")
    memory.retrieve(patterns(0, 1, 2))
    assert memory.provisional_count == 3


def test_a_memory_learns_what_a_pack_says_too_quietly() -> None:
    origin = opened("source")
    origin.remember(pattern(0), [4])
    memory = attached(packed(origin), memory_mode="ONLINE")
    unlikely = torch.full((1, 8), 1 / 8).log()
    memory.defer(memory.recall(near(0)[None]), torch.tensor([4]), unlikely)
    memory.update_topology()
    assert memory.provisional_count == 1


def test_a_concept_of_the_memory_is_confirmed_beside_a_pack_that_knows_as_much() -> None:
    origin = opened("source")
    origin.remember(pattern(0), [4])
    memory = attached(packed(origin), memory_mode="ONLINE")
    own = memory.remember(near(0), [4])
    (before,) = frequencies(memory, own)
    memory.defer(memory.recall(near(0)[None]), torch.tensor([4]))
    memory.update_topology()
    memory.save()
    assert frequencies(memory, own) == [before + 1]
    assert memory.provisional_count == 0


def test_what_waits_to_be_learned_may_outlast_the_pack() -> None:
    memory = attached(packed(source()), memory_mode="ONLINE")
    queries, came = sequences(0)
    memory.defer(memory.recall(queries, outcomes=came), came)
    memory.detach_pack("medical")
    memory.update_topology()
    assert not (kept_ids(memory) >= np.uint64(PACK_ID)).any()
