"""One number of the logs that is to become better."""

from __future__ import annotations

import math
from typing import Any

from aesg.callbacks.base import Logs
from aesg.errors import AESGTrainingError

#: How the parts of a name begin whose number is better when it is smaller, or greater.
_MIN = ("loss", "perplexity", "error", "mse", "rmse", "mae", "nll")
_MAX = ("accuracy", "precision", "recall", "f1", "bleu", "rouge", "psnr", "ssim", "auc")


class Monitor:
    """Reads a number from the logs of an epoch and compares it with the best so far.

    Parameters
    ----------
    name : str
        Its key in the logs.
    mode : {"auto", "min", "max"}
        Whether smaller or greater is better; "auto" goes by the name.
    min_delta : float
        What a number must differ by to be better, at least 0.

    Raises
    ------
    AESGTrainingError
        If a parameter is not as described, or ``mode`` is "auto" and the name does not tell.
    """

    def __init__(self, name: str, mode: str = "auto", min_delta: float = 0.0) -> None:
        if not isinstance(name, str) or not name:
            raise AESGTrainingError(f"monitor: expected a name of the logs, got {name!r}")
        if mode not in ("auto", "min", "max"):
            raise AESGTrainingError(f"mode: expected 'auto', 'min' or 'max', got {mode!r}")
        if not _is_number(min_delta) or not 0 <= min_delta < math.inf:
            raise AESGTrainingError(
                f"min_delta: expected a finite number of at least 0, got {min_delta!r}"
            )
        self.name = name
        self.mode = _mode_of(name) if mode == "auto" else mode
        self._least = float(min_delta)

    def require(self, logs: Logs) -> None:
        """Raise `AESGTrainingError` where the number belongs to validation that is not to come.

        Parameters
        ----------
        logs : dict
            Those of `Callback.on_train_start`.
        """
        if self.name.startswith("val_") and not logs.get("validation", True):
            raise AESGTrainingError(
                f"monitor: expected fit(..., validation_data=...) for '{self.name}', got none; "
                "names that begin with 'val_' are those of validation"
            )

    def value(self, logs: Logs) -> float:
        """Return the number.

        Raises
        ------
        AESGTrainingError
            If the logs have none of this name.
        """
        found: Any = logs.get(self.name)
        value: Any = found
        if hasattr(found, "item") and not getattr(found, "ndim", 0):  # a tensor or a numpy number
            value = found.item()
        if _is_number(value):
            return float(value)
        there = ", ".join(name for name, each in logs.items() if _is_number(each))
        got = "" if found is None else f"{type(found).__name__} {found!r:.40} of "
        raise AESGTrainingError(
            f"monitor: expected a number '{self.name}' in the logs of the epoch, got {got}"
            f"{there or 'none'}"
        )

    def improves(self, value: float, best: float | None) -> bool:
        """Tell whether a number is better than the best before it; NaN never is.

        Parameters
        ----------
        value : float
        best : float or None
            None before the first.
        """
        if math.isnan(value):
            return False
        if best is None:
            return True
        return value < best - self._least if self.mode == "min" else value > best + self._least


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _mode_of(name: str) -> str:
    parts = name.lower().split("_")
    found = {
        mode
        for mode, starts in (("min", _MIN), ("max", _MAX))
        if any(part.startswith(starts) for part in parts)
    }
    if len(found) != 1:
        raise AESGTrainingError(
            f"mode: expected 'min' or 'max', as '{name}' does not tell which is better, got 'auto'"
        )
    return found.pop()
