"""The generators of random numbers that a process shares."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from aesg.errors import AESGStorageError


def random_state() -> dict[str, Any]:
    """Return where the generators of Python, numpy, torch and each CUDA device stand."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Let the generators stand where they stood; those of devices that there are.

    Raises
    ------
    AESGStorageError
        If the state is not one that `random_state` returned.
    """
    try:
        version, words, gauss = state["python"]
        name, keys, *rest = state["numpy"]
        random.setstate((version, tuple(words), gauss))
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state["torch"])
        for device, own in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(own, device)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise AESGStorageError(
            f"Random numbers: expected the state of their generators, got {error}"
        ) from error
