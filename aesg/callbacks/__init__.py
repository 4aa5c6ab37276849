"""What follows training: early stopping, checkpoints, logs and a progress bar."""

from __future__ import annotations

from aesg.callbacks.base import Callback, Callbacks
from aesg.callbacks.checkpoint import Checkpoint
from aesg.callbacks.early_stopping import EarlyStopping
from aesg.callbacks.loggers import CSVLogger, JSONLLogger
from aesg.callbacks.progress_bar import ProgressBar
from aesg.callbacks.tensorboard import TensorBoardCallback
from aesg.callbacks.wandb import WandBCallback

__all__ = [
    "CSVLogger",
    "Callback",
    "Callbacks",
    "Checkpoint",
    "EarlyStopping",
    "JSONLLogger",
    "ProgressBar",
    "TensorBoardCallback",
    "WandBCallback",
]
