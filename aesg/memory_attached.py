"""Packs as a handle has attached them: their weights, and the ids of their concepts in contexts.

Ids of a memory are below 2**63. Those from there on are of attached packs: ``PACK_ID``, plus the
serial number of the attachment times 2**40, plus the place of the concept in its pack.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aesg.errors import AESGError
from aesg.graph.scope import PACK_ID, Guest
from storage_backends.types import Ids

if TYPE_CHECKING:
    from aesg.packs.pack import Nodes, Pack
    from storage_backends.view import View

#: Packs that a handle can have attached.
MOST_PACKS = 16

_PLACE_BITS = 40


@dataclass(frozen=True, eq=False)
class AttachedPack:
    """A pack that takes part in the retrievals of a handle.

    Parameters
    ----------
    pack : Pack
    priority : int
        From 0 to 100.
    weight : float
        Its share of the priorities of all attached packs, from 0 to 1: by it the activation of its
        seeds is multiplied. At 0 it takes no part.
    first_id : int
        What the first of its concepts is called in a `RetrievedContext`; those after it follow.
    kept : bool
        Whether the memory keeps it, and attaches it whenever it is opened.
    """

    pack: Pack
    priority: int
    weight: float
    first_id: int
    kept: bool = False

    @property
    def name(self) -> str:
        """The name by which it is detached."""
        return self.pack.name

    @property
    def nodes(self) -> Nodes:
        """Its concepts, as records."""
        return self.pack.nodes

    @property
    def view(self) -> View:
        """Its concepts and edges, as a retrieval sees them."""
        from aesg.packs.graph import view_of

        return view_of(self.pack)

    @property
    def guest(self) -> Guest:
        """What a retrieval sees of it."""
        return Guest(self.view, self.weight, self.first_id)

    def positions(self, ids: Ids) -> NDArray[np.int64]:
        """Return the place in the pack of each concept of a context; -1 for those of others."""
        places = ids - np.uint64(self.first_id)  # wraps around for smaller ids, to far beyond
        here = places < np.uint64(self.pack.node_count)
        return np.where(here, places, 0).astype(np.int64) - ~here

    def __repr__(self) -> str:
        kept = ", kept" if self.kept else ""
        return (
            f"AttachedPack({self.name!r}, priority={self.priority}, weight={self.weight:.3f}, "
            f"concepts={self.pack.node_count}{kept})"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> AttachedPack:
        return self  # nothing in it ever changes

    def __reduce__(self) -> tuple[Callable[..., AttachedPack | Missing], tuple[Any, ...]]:
        from aesg.packs.pickling import reduced

        make, described = reduced(self.pack)
        rest = self.priority, self.weight, self.first_id, self.kept
        return _again, (self.name, make, described, *rest)


@dataclass(frozen=True)
class Missing:
    """What comes out of a pickle in the place of a pack that could not be read again.

    Parameters
    ----------
    name : str
        Of the pack.
    reason : AESGError
    """

    name: str
    reason: AESGError


def attached(pack: Pack, priority: int, *, kept: bool = False) -> AttachedPack:
    """Return a pack with ids that no other attachment in this process has."""
    return AttachedPack(pack, priority, 0.0, _serials.first_id(pack.digest), kept)


def weighed(packs: Iterable[AttachedPack]) -> tuple[AttachedPack, ...]:
    """Return the packs with weights that sum to one; with priorities of 0 only, all are 0."""
    given = tuple(packs)
    total = sum(each.priority for each in given)
    return tuple(replace(each, weight=each.priority / total if total else 0.0) for each in given)


class _Serials:
    """The numbers of the attachments of a process; none is given to two packs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digests: dict[int, str] = {}
        self._next = 0

    def first_id(self, digest: str, wanted: int | None = None) -> int:
        """Return the first id of an attachment: ``wanted``, unless another pack has that."""
        with self._lock:
            first = self._next_id() if wanted is None else wanted
            if self._digests.setdefault(first, digest) != digest:
                first = self._next_id()
                self._digests[first] = digest
            return first

    def _next_id(self) -> int:
        while (first := PACK_ID + (self._next << _PLACE_BITS)) in self._digests:
            self._next += 1
        return first


_serials = _Serials()


def _again(
    name: str,
    make: Callable[..., Pack],
    described: tuple[Any, ...],
    priority: int,
    weight: float,
    first_id: int,
    kept: bool,
) -> AttachedPack | Missing:
    """Return what was pickled; with the same ids, so that contexts may be pickled too."""
    from aesg.packs.cache import indexed

    try:
        pack = indexed(make(*described))
    except AESGError as error:
        return Missing(name, error)
    return AttachedPack(pack, priority, weight, _serials.first_id(pack.digest, first_id), kept)
