"""Torchmetrics, imported when the first metric is computed."""

from __future__ import annotations

from types import ModuleType

from aesg._imports import BROKEN, imported
from aesg.errors import AESGTrainingError


def library(name: str) -> ModuleType:
    """Return a module of torchmetrics.

    Parameters
    ----------
    name : str
        For instance ``"torchmetrics.text"``.

    Raises
    ------
    AESGTrainingError
        If torchmetrics cannot be imported.
    """
    try:
        return imported(name)
    except BROKEN as error:
        reason = str(error).partition("\n")[0]
        raise AESGTrainingError(
            f"metrics: expected torchmetrics, which cannot be imported ({type(error).__name__}: "
            f"{reason}). `pip install torchmetrics` installs it"
        ) from error
