"""A memory whose every generation is known in advance, for processes that cannot be asked."""

from __future__ import annotations

from storage_backends.types import WriteBatch
from tests.storage.build import concepts, edges, events, ids, stats
from tests.storage.picture import Picture, picture
from tests.storage.reference_store import Backing, ReferenceStore

_GROUP, _GROUPS, _LIFE = 8, 7, 5


def batch_of(generation: int) -> WriteBatch:
    """Return the batch that makes a generation, 1 or more.

    A group of eight concepts, linked among themselves, is born in each generation, changed in the
    next, and dies after five; two generations later its ids are used again. Until then the group
    that is born at its death stands for two of them.
    """
    group, older, dead = (_members(generation - age) for age in (0, 1, _LIFE))
    first, *others = group
    aged = older[:3] if generation > 1 else []
    return WriteBatch(
        deleted=ids(*dead) if generation > _LIFE else ids(),
        concepts=concepts(group, seed=generation, values="mixed"),
        stats_ids=ids(*aged),
        stats=stats(aged, seed=generation),
        payloads={first: b"born in %d" % generation} | dict.fromkeys(aged[:1], b""),
        edges={first: edges(*others), others[0]: edges(first)} | {i: edges() for i in aged[:1]},
        aliases={dead[0]: first, dead[3]: others[0]} if generation > _LIFE else {},
        events=events([2 * generation, 2 * generation + 1]),
        shortterm={"clock": b"%d" % generation, "ring": bytes(generation % 251) * 40},
        settings={"epoch": b"%d" % generation},
    )


class Oracle:
    """Says what the memory holds at any generation that is not before the last one asked for.

    Parameters
    ----------
    uuid : str
        Identity of the memory that it is compared with.
    """

    def __init__(self, uuid: str) -> None:
        self._store = ReferenceStore(Backing(uuid=uuid))

    def at(self, generation: int) -> Picture:
        """Return the `picture` of a generation."""
        for number in range(self._store.generation() + 1, generation + 1):
            self._store.commit(batch_of(number))
        assert self._store.generation() == generation, "the oracle cannot go back"
        return picture(self._store)


def _members(generation: int) -> list[int]:
    start = _GROUP * (generation % _GROUPS) + 1
    return list(range(start, start + _GROUP))
