"""Abstraction: a concept that stands for a tight group of others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aesg.graph.arrays import common_origin, unit
from aesg.graph.clock import Clock
from aesg.graph.draft import Draft
from aesg.graph.edges import Use, Uses, strengthened
from aesg.graph.out_edges import OutEdges
from aesg.graph.pending import newborn
from storage_backends.columns import Slots
from storage_backends.types import (
    EDGE,
    Concepts,
    EdgeKind,
    EventType,
    Floats,
    ValueKind,
    WriteBatch,
)
from storage_backends.view import View

#: Members of a group.
LEAST_MEMBERS = 3
MOST_MEMBERS = 64
#: Cosine of each member to the centre of its group. Members that lie so around a centre are
#: similar to one another by about its square, 0.64, which is more than the 0.6 from which, by
#: default, one concept explains another.
TIGHTNESS = 0.8


def groups(view: View, candidates: Slots, density: int) -> list[Slots]:
    """Find tight groups of concepts that no abstract concept stands for.

    Parameters
    ----------
    view : View
        With regions.
    candidates : (M,) int64
        Slots around which groups are looked for; those in no region are passed over.
    density : int
        Out-edges beyond which a concept is split, thus the most members that one can stand for.

    Returns
    -------
    list of (G,) int64
        Slots of each group, G from 3 to 64, of one region, nearest to its centre first; no slot is
        in two. Concepts with an abstraction edge, abstract ones among them, are in none.
    """
    candidates = _free(view, np.unique(candidates))
    if not len(candidates):
        return []
    use = view.stats.field("frequency")[candidates].astype(np.int64)
    candidates = candidates[np.lexsort((view.ids[candidates], -use))]
    slots, cosines = view.index.search(view.keys[candidates], MOST_MEMBERS)
    near = (slots >= 0) & (cosines >= TIGHTNESS)
    free = set(_free(view, np.unique(slots[near])).tolist())
    found = []
    for slot, neighbours in zip(candidates.tolist(), map(np.extract, near, slots), strict=True):
        if slot in free:
            held = np.array([each for each in neighbours.tolist() if each in free], np.int64)
            group = _tight(view, held[view.regions[held] == view.regions[slot]])[:density]
            if len(group) >= LEAST_MEMBERS:
                found.append(group)
                free.difference_update(group.tolist())
    return found


def abstract(
    view: View, groups: Sequence[Slots], projection: Floats, clock: Clock, most_edges: int
) -> WriteBatch | None:
    """Make a concept above each group, linked with its members both ways.

    Its key is the direction of ``mean + projection @ mean`` over the members' unit keys. Its value
    is theirs where they share one integer, the mean where they are vectors, else its own key. It is
    of their origin where they share one, else of none. Uses of its members are uses of it, those
    before it came to be included, so that it outlasts them.

    Parameters
    ----------
    view : View
    groups : sequence of (G,) int64
        What `groups` found in it.
    projection : (D, D) float32
        Weight of the learned projection.
    clock : Clock
        Gives the first id of the new concepts.
    most_edges : int
        Out-edges that a concept may have; the weakest yield.

    Returns
    -------
    WriteBatch or None
        None where there is nothing to make.
    """
    draft = Draft(view, clock)
    made = 0
    for group in groups:
        mean = view.keys[group].mean(axis=0)
        key = mean + projection @ mean
        length = np.linalg.norm(key)
        if not (0 < length < np.inf):
            continue  # a projection that has gone astray gives no direction
        new = draft.new_id()
        draft.put_concepts(_above(draft, group, new, (key / length).astype(np.float32)))
        _link_members(draft, group, new, mean, most_edges)
        draft.note(EventType.CREATE, new, len(group), 1.0)
        made += 1
    return draft.batch() if made else None


def _free(view: View, slots: Slots) -> Slots:
    """Return the live slots that are in a region and have a direction and no abstraction edge."""
    slots = slots[view.alive[slots] & (view.norms[slots] > 0)]
    slots = slots[view.regions[slots] > 0]
    related = view.adjacency.kinds(slots) & np.uint32(EdgeKind.ABSTRACTION)
    free: Slots = slots[related == 0]
    return free


def _tight(view: View, slots: Slots) -> Slots:
    """Return those of some slots that lie near their common centre, nearest first."""
    if not len(slots):
        return slots
    keys = view.keys[slots]
    centre = keys.mean(axis=0)
    cosines = keys @ unit(centre)
    order = np.lexsort((view.ids[slots], -cosines))
    tight: Slots = slots[order[cosines[order] >= TIGHTNESS]]
    return tight


def _above(draft: Draft, group: Slots, new: int, key: Floats) -> Concepts:
    """Return the concept, one row, that stands for a group."""
    view = draft.view
    held = view.stats[group]
    stats = newborn(common_origin(held["origin"]), draft.clock, draft.now)
    stats["region"] = view.regions[group[0]]
    uses = max(int(held["frequency"].sum(dtype=np.uint64)), 1)
    stats["frequency"] = min(uses, np.iinfo(np.uint32).max)
    kind, value, vector = _common_value(view, group)
    return Concepts(
        ids=np.array([new], np.uint64),
        keys=key[None],
        value_kinds=np.array([kind], np.uint8),
        value_ids=np.array([value], np.int64),
        value_vectors=None if vector is None else vector[None],
        stats=stats,
    )


def _common_value(view: View, group: Slots) -> tuple[ValueKind, int, Floats | None]:
    """Return what the members of a group stand for together: kind, integer, vector."""
    kinds, values = view.value_kinds[group], view.value_ids[group]
    if (kinds == ValueKind.INTEGER).all() and (values == values[0]).all():
        return ValueKind.INTEGER, int(values[0]), None
    if (kinds == ValueKind.VECTOR).all() and view.value_vectors is not None:
        return ValueKind.VECTOR, 0, view.value_vectors[group].mean(axis=0)
    return ValueKind.KEY, 0, None


def _link_members(draft: Draft, group: Slots, new: int, mean: Floats, most: int) -> None:
    """Link a new concept with its group; the weight is how near a member is to the centre."""
    weights = np.minimum(draft.view.keys[group] @ unit(mean), 1)
    members = draft.view.ids[group]
    every, first = np.arange(len(group)), np.zeros(len(group), np.int64)
    from_new = [
        Use(member, EdgeKind.ABSTRACTION, weight=weight)
        for member, weight in zip(members.tolist(), weights.tolist(), strict=True)
    ]
    to_new = Uses.of(every, [use._replace(target=new) for use in from_new])
    rows = draft.rows(members).strongest(most - 1)  # the new edge yields to none
    draft.put_rows(members, strengthened(rows, to_new, most))
    rows = OutEdges.of([np.empty(0, EDGE)])
    draft.put_row(new, strengthened(rows, Uses.of(first, from_new), most).edges)
