"""What `models.py` asks of the files that hold the tasks, `_models_*.py`.

Each of them has ``RUNS: dict[str, ModelRun]``, an entry for every model class that it measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aesg.models.base import AESGModel


@dataclass(frozen=True)
class ModelRun:
    """A small task of one model, with its memory and without.

    Parameters
    ----------
    task : str
        What it is, in a few words.
    measure : str
        What is measured, with its unit where it has one.
    better : "higher" or "lower"
    run : callable
        Takes a seed and an empty folder. Trains the model and its twin without a memory
        (`AESGModel.without_memory`) from the same initialisation, on the same data in the same
        order. Returns the measure of the model, that of the twin, both on data that neither was
        trained on, and the model with its memory open: the caller counts what it grew.
    """

    task: str
    measure: str
    better: Literal["higher", "lower"]
    run: Callable[[int, Path], tuple[float, float, AESGModel]]
