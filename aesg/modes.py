"""The four memory modes and what each allows."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from aesg.errors import AESGMemoryError


class MemoryMode(enum.Enum):
    """What a memory may do to itself; `PERMISSIONS` says what that is."""

    TRAIN = "TRAIN"  # everything
    FINETUNE = "FINETUNE"  # adds with care, keeps the structure
    INFERENCE = "INFERENCE"  # reads only
    ONLINE = "ONLINE"  # adds at full speed, keeps the structure

    @classmethod
    def parse(cls, value: MemoryMode | str) -> MemoryMode:
        """Return the mode that a name stands for.

        Parameters
        ----------
        value : MemoryMode or str
            A mode, or the exact name of one.

        Returns
        -------
        MemoryMode
            The mode.

        Raises
        ------
        AESGMemoryError
            If there is no such mode.
        """
        try:
            return cls(value)
        except ValueError:
            names = [mode.value for mode in cls]
            raise AESGMemoryError(f"Invalid memory mode {value!r}. Valid modes: {names}") from None


@dataclass(frozen=True)
class Permissions:
    """What one mode allows. A blocked operation does nothing and raises nothing.

    Parameters
    ----------
    create_concepts : bool
        New concepts, edges between them, and refinement of those that explain a query.
    consolidation : bool
        Ageing and decay of relevance.
    reorganization : bool
        Merge, split, abstraction and regions.
    evolutionary_pressure : bool
        Pruning.
    learning_rate_scale : float
        Factor of the memory's own learning rates and share of births let through, in [0, 1].
    """

    create_concepts: bool
    consolidation: bool
    reorganization: bool
    evolutionary_pressure: bool
    learning_rate_scale: float


PERMISSIONS: Mapping[MemoryMode, Permissions] = MappingProxyType(
    {
        MemoryMode.TRAIN: Permissions(True, True, True, True, 1.0),
        MemoryMode.FINETUNE: Permissions(True, True, False, False, 0.1),
        MemoryMode.INFERENCE: Permissions(False, False, False, False, 0.0),
        MemoryMode.ONLINE: Permissions(True, True, False, False, 1.0),
    }
)
