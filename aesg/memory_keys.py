"""Keys that a refresh has changed, so that training can go on from those before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aesg.errors import AESGMemoryError
from storage_backends.types import Floats, Ids

_COLUMNS = {
    "ids": np.dtype(np.uint64),
    "before": np.dtype(np.float32),
    "after": np.dtype(np.float32),
    "before_norms": np.dtype(np.float32),
    "after_norms": np.dtype(np.float32),
    "provisional": np.dtype(np.bool_),
}


@dataclass
class KeyChanges:
    """Keys of concepts before and after a refresh, for `AESGMemory.put_back`.

    Parameters
    ----------
    ids : (N,) uint64
        Each once.
    before, after : (N, D) float32
        The keys: as stored, or of provisional concepts unit vectors.
    before_norms, after_norms : (N,) float32
        Their raw length.
    provisional : (N,) bool
        Which of the concepts were in short-term memory.
    """

    ids: Ids
    before: Floats
    after: Floats
    before_norms: Floats
    after_norms: Floats
    provisional: NDArray[np.bool_]

    @classmethod
    def none(cls, vector_dim: int) -> KeyChanges:
        """Return no changes, of keys of a width."""
        keys, norms = np.empty((0, vector_dim), np.float32), np.empty(0, np.float32)
        return cls(np.empty(0, np.uint64), keys, keys, norms, norms, np.empty(0, np.bool_))

    def __len__(self) -> int:
        return len(self.ids)

    def require_width(self, vector_dim: int) -> None:
        """Raise `AESGMemoryError` unless the keys are of this width."""
        if self.before.shape[1] != vector_dim:
            raise AESGMemoryError(
                f"Changes of keys of another width: expected vector_dim={vector_dim}, "
                f"got {self.before.shape[1]}"
            )

    def where(self, chosen: NDArray[np.bool_]) -> KeyChanges:
        """Return some of the changes, in order."""
        return KeyChanges(*(getattr(self, name)[chosen] for name in _COLUMNS))

    def followed_by(self, others: KeyChanges) -> KeyChanges:
        """Return these changes and others, of other concepts, behind them."""
        return KeyChanges(
            *(np.concatenate([getattr(self, name), getattr(others, name)]) for name in _COLUMNS)
        )

    def turned(self) -> KeyChanges:
        """Return the changes in the other direction."""
        return KeyChanges(
            self.ids,
            self.after,
            self.before,
            self.after_norms,
            self.before_norms,
            self.provisional,
        )

    def become(self, others: KeyChanges) -> None:
        """Take over the columns of other changes."""
        for name in _COLUMNS:
            setattr(self, name, getattr(others, name))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the columns as tensors; ids as int64, which has the same bits."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        columns["ids"] = self.ids.view(np.int64)
        return {name: torch.from_numpy(column.copy()) for name, column in columns.items()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> KeyChanges:
        """Return what `state_dict` was called on.

        Raises
        ------
        AESGMemoryError
            If these are not the columns that it returned.
        """
        missing = [name for name in _COLUMNS if not isinstance(state.get(name), Tensor)]
        if missing:
            raise AESGMemoryError(
                f"Changes of keys: expected the tensors {', '.join(_COLUMNS)}, got no {missing[0]}"
            )
        columns = {name: state[name].detach().cpu().numpy() for name in _COLUMNS}
        columns["ids"] = columns["ids"].view(np.uint64)
        _check(columns)
        return cls(**columns)


def _check(columns: Mapping[str, NDArray[np.generic]]) -> None:
    """Raise `AESGMemoryError` unless columns have the types and shapes of `KeyChanges`."""
    count = len(columns["ids"])
    width = columns["before"].shape[-1:]
    for name, dtype in _COLUMNS.items():
        column = columns[name]
        shape = (count, *width) if name in ("before", "after") else (count,)
        if column.dtype != dtype or column.shape != shape:
            raise AESGMemoryError(
                f"Changes of keys: expected {name} of shape {shape} and type {dtype}, "
                f"got shape {column.shape} and type {column.dtype}"
            )


class Noted:
    """What concepts had for keys before a refresh re-keyed them.

    Parameters
    ----------
    vector_dim : int
    """

    def __init__(self, vector_dim: int) -> None:
        self.vector_dim = vector_dim
        self.met: set[int] = set()  # in the refresh, whether their keys moved or not
        self._before: dict[int, tuple[Floats, float, bool]] = {}

    def note(self, ids: Ids, keys: Floats, norms: Floats, *, provisional: bool) -> None:
        """Note the present keys of concepts; of those that were noted before, nothing."""
        for concept_id, key, norm in zip(ids.tolist(), keys, norms.tolist(), strict=True):
            self._before.setdefault(concept_id, (key.copy(), norm, provisional))

    @property
    def before(self) -> KeyChanges:
        """The noted concepts, by ascending id, as if their keys had stayed."""
        if not self._before:
            return KeyChanges.none(self.vector_dim)
        ids = sorted(self._before)
        keys, norms, provisional = zip(*(self._before[each] for each in ids), strict=True)
        stacked, lengths = np.stack(keys), np.array(norms, np.float32)
        return KeyChanges(
            np.array(ids, np.uint64),
            stacked,
            stacked.copy(),
            lengths,
            lengths.copy(),
            np.array(provisional, np.bool_),
        )
