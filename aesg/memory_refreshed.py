"""Keys that are refreshed for reading, and go back before training goes on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aesg.graph.arrays import ids_of
from aesg.memory_durable import DurableState
from aesg.memory_keys import KeyChanges, Noted
from storage_backends.types import Floats, Ids


class RefreshedState(DurableState):
    """A durable state that knows which keys a refresh has changed.

    Parameters
    ----------
    store, reopen, durability
        As for `DurableState`; callers hold its `lock` here too.
    """

    _noted: Noted | None = None

    def begin_refresh(self) -> None:
        """Save, and note from now on how keys change; nothing else is to be learned meanwhile.

        What moves is not looked at for duplicates and groups: its keys will go back.
        """
        self.save()
        self._noted, self._is_aside = Noted(self.vector_dim), True

    def end_refresh(self, earlier: KeyChanges) -> KeyChanges:
        """Save, and return how keys have changed since `begin_refresh`.

        Parameters
        ----------
        earlier : KeyChanges
            Of a refresh whose keys were put back. Concepts that this one has not met get those
            keys again, where they have not changed otherwise, and are returned too.
        """
        noted, self._noted = self._noted or Noted(self.vector_dim), None
        try:
            self.save()
        finally:
            self._is_aside = False
        others = earlier.where(~np.isin(earlier.ids, ids_of(noted.met)))
        changed = self._changed(noted.before)
        return changed.followed_by(self.put_keys(others, back=False))

    def put_keys(self, changes: KeyChanges, *, back: bool) -> KeyChanges:
        """Give concepts the keys before a refresh, or after it, where they have the others.

        Durable when the call returns.

        Returns
        -------
        KeyChanges
            Those of the concepts that were given other keys.
        """
        turned = changes if back else changes.turned()
        keys, norms, held = self._present(turned)
        same = held & (keys == turned.after).all(axis=1) & (norms == turned.after_norms)
        turned = turned.where(same)
        if len(turned):
            self.save()
            self._is_aside = True
            try:
                self._put(turned)
                self.save()
            finally:
                self._is_aside = False
        return changes.where(same)

    def _put(self, turned: KeyChanges) -> None:
        provisional = turned.where(turned.provisional)
        self.shortterm.rekey(provisional.ids, provisional.before, provisional.before_norms)
        settled = turned.where(~turned.provisional)
        self._pending.rekeyed.update(zip(settled.ids.tolist(), settled.before, strict=True))
        self._unsaved |= bool(len(provisional))

    def _note(self, ids: Ids) -> None:
        """Note the keys of concepts that are about to be re-keyed, in a refresh."""
        if self._noted is None:
            return
        self._noted.met.update(ids.tolist())
        for provisional in (True, False):
            keys, norms, held = self._keys(ids, provisional=provisional)
            self._noted.note(ids[held], keys[held], norms[held], provisional=provisional)

    def _changed(self, before: KeyChanges) -> KeyChanges:
        """Return those of some keys that are others now, with what they are."""
        keys, norms, held = self._present(before)
        others = (keys != before.before).any(axis=1) | (norms != before.before_norms)
        before.after, before.after_norms = keys, norms
        return before.where(held & others)

    def _present(self, changes: KeyChanges) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Return the present keys and norms, and which of the concepts are where they were."""
        keys, norms, held = self._keys(changes.ids, provisional=True)
        settled = ~changes.provisional
        graph = self._keys(changes.ids[settled], provisional=False)
        keys[settled], norms[settled], held[settled] = graph
        return keys, norms, held

    def _keys(self, ids: Ids, *, provisional: bool) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """Return keys and norms of provisional concepts or those of the graph, and which are."""
        keys = np.zeros((len(ids), self.vector_dim), np.float32)
        norms = np.zeros(len(ids), np.float32)
        slots = self.shortterm.find(ids) if provisional else self.view.slots(ids)
        held = slots >= 0
        if provisional:
            keys[held] = self.shortterm.keys[slots[held]]
            norms[held] = self.shortterm.entries["norm"][slots[held]]
        elif held.any():
            keys[held] = self.engine.store.keys(ids[held])
            norms[held] = self.view.norms[slots[held]]
        return keys, norms, held
