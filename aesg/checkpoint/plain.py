"""States of which every part can be read back without running code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aesg.errors import AESGTrainingError

_SIMPLE = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.Size,
    torch.dtype,
    torch.device,
)


def plain(state: Any, where: str) -> Any:
    """Return a state as tensors and plain containers.

    Parameters
    ----------
    state : object
        Tensors, numbers, texts, and dicts, lists, tuples and sets of these. A number of numpy's
        becomes one of Python's, a dict of another class a dict.
    where : str
        What it is the state of, for the message.

    Raises
    ------
    AESGTrainingError
        If there is something else in it.
    """
    if type(state) in _SIMPLE or isinstance(state, Tensor):
        return state
    if isinstance(state, np.generic):
        return plain(state.item(), where)
    if type(state) is Counter:
        return state
    if isinstance(state, Mapping):
        return {
            plain(key, where): plain(value, f"{where}[{key!r}]") for key, value in state.items()
        }
    if isinstance(state, (list, tuple)):
        items = [plain(each, f"{where}[{number}]") for number, each in enumerate(state)]
        return tuple(items) if isinstance(state, tuple) else items
    if isinstance(state, (set, frozenset)):
        return {plain(each, where) for each in state}
    raise AESGTrainingError(
        f"{where}: expected tensors, numbers, texts and dicts, lists or tuples of these, "
        f"got {type(state).__name__}: a checkpoint is read without running code that is in it"
    )
