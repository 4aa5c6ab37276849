"""What the ids of a memory's contexts lead to: concepts of its own, and of attached packs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aesg.graph.scope import PACK_ID, Scope
from aesg.memory_attached import AttachedPack
from aesg.memory_inputs import id_of, ids_of
from aesg.memory_packs import MemoryPacks
from aesg.memory_stats import Edge, edges_of
from aesg.payload import unpack_payload
from aesg.state import MemoryState
from storage_backends.types import Ids


class MemorySources(MemoryPacks):
    """How an `AESGMemory` finds what belongs to an id: its own, or one of an attached pack.

    Parameters
    ----------
    directory, config
        As for `AESGMemory`.
    """

    def sources(self, concept_ids: Ids | Sequence[int]) -> list[tuple[str | None, int]]:
        """Return where concepts are from.

        Parameters
        ----------
        concept_ids : (N,) integers
            Of a `RetrievedContext`, for instance.

        Returns
        -------
        list of (str or None, int)
            The name of the pack, None for this memory, and the id of the concept there; 0 where
            the pack is attached no more.

        Raises
        ------
        AESGMemoryError
            If an id is not an integer from 0 to 2**64 - 1.
        """
        ids = ids_of(concept_ids)
        found: list[tuple[str | None, int]] = [
            (None, each if each < PACK_ID else 0) for each in ids.tolist()
        ]
        for each in self._attached:
            places = each.positions(ids)
            rows = np.flatnonzero(places >= 0)
            named = each.pack.columns["ids"][places[rows]].tolist()
            for row, concept_id in zip(rows.tolist(), named, strict=True):
                found[row] = each.name, concept_id
        return found

    def payloads(self, concept_ids: Ids | Sequence[int]) -> list[Any]:
        """Return the payload of each concept; None where there is none.

        For a concept that was merged it is that of the concept that took it over.

        Raises
        ------
        AESGMemoryError
            If an id is not an integer from 0 to 2**64 - 1.
        """
        ids = ids_of(concept_ids)
        own = ids < PACK_ID
        found: list[Any] = [None] * len(ids)
        _fill(found, np.flatnonzero(own), self._own_payloads(ids[own]))
        for each in self._attached if not own.all() else ():
            places = each.positions(ids)
            rows = np.flatnonzero(places >= 0)
            packed = map(each.pack.payload, places[rows].tolist())
            _fill(found, rows, [unpack_payload(payload) for payload in packed])
        return found

    def resolve(self, concept_ids: Ids | Sequence[int]) -> Ids:
        """Return the concept that stands for each id now.

        Returns
        -------
        (N,) uint64 array
            The id itself, or of a concept that was merged the one that took it over; 0 where
            there is none, any more or at all.

        Raises
        ------
        AESGMemoryError
            If an id is not an integer from 0 to 2**64 - 1.
        """
        ids = ids_of(concept_ids)
        own = ids < PACK_ID
        present = np.zeros_like(ids)
        present[own] = self._own_standing(ids[own])
        for each in self._attached if not own.all() else ():
            here = each.positions(ids) >= 0
            present[here] = ids[here]
        return present

    def edges(self, concept_id: int | np.integer[Any]) -> list[Edge]:
        """Return the edges that lead from a concept, the strongest first.

        What is linked is committed first, but within `counted_commits`. For a concept that was
        merged they are those of the concept that took it over.

        Parameters
        ----------
        concept_id : int

        Returns
        -------
        list of Edge
            Empty for a concept without edges, for a provisional one, and where there is none.

        Raises
        ------
        AESGMemoryError
            If the id is not an integer from 0 to 2**64 - 1.
        """
        wanted = id_of(concept_id)
        if wanted[0] < PACK_ID:
            return self._own_edges(wanted)
        for each in self._attached:
            if (place := int(each.positions(wanted)[0])) >= 0:
                return _edges_in(each, place)
        return []

    def _scope(self, state: MemoryState) -> Scope:
        """Return what a retrieval of this handle sees now; the caller shares the lock."""
        guests = tuple(each.guest for each in self._attached if each.weight)
        return replace(state.scope, guests=guests) if guests else state.scope


def _fill(found: list[Any], rows: NDArray[np.intp], values: Sequence[Any]) -> None:
    for row, value in zip(rows.tolist(), values, strict=True):
        found[row] = value


def _edges_in(source: AttachedPack, place: int) -> list[Edge]:
    """Return the edges of a concept of a pack, which lead to others by their ids in contexts."""
    view = source.view
    edges = edges_of(view, int(view.ids[place]), 0)
    targets = view.slots(np.array([each.target for each in edges], np.uint64))
    return [
        replace(each, target=source.first_id + slot)
        for each, slot in zip(edges, targets.tolist(), strict=True)
    ]
