"""Adaptive External Semantic Graph: a persistent memory for PyTorch models.

>>> from aesg import AESGDecoderLM, AESGTrainer
>>> model = AESGDecoderLM.small(vocab_size=10_000)
>>> trainer = AESGTrainer(model)
>>> trainer.fit(data, epochs=5)
"""

from __future__ import annotations

from aesg.benchmark import ColorizationBenchmark
from aesg.callbacks import Callback, Checkpoint, CSVLogger, EarlyStopping, JSONLLogger, ProgressBar
from aesg.callbacks.tensorboard import TensorBoardCallback
from aesg.callbacks.wandb import WandBCallback
from aesg.config import AESGConfig
from aesg.context import RetrievedContext
from aesg.errors import (
    AESGConfigError,
    AESGError,
    AESGMemoryError,
    AESGNavigationError,
    AESGStorageError,
    AESGTrainingError,
)
from aesg.evaluation import Evaluator
from aesg.memory import AESGMemory
from aesg.models import (
    AESGCNNAutoencoder,
    AESGCNNClassifier,
    AESGColorizationNet,
    AESGDecoderLM,
    AESGGRUText,
    AESGLSTMText,
    AESGSeq2Seq,
    AESGTransformer,
)
from aesg.modes import MemoryMode
from aesg.trainer import AESGTrainer

__version__ = "4.0.0.dev1"

__all__ = [
    "AESGCNNAutoencoder",
    "AESGCNNClassifier",
    "AESGColorizationNet",
    "AESGConfig",
    "AESGConfigError",
    "AESGDecoderLM",
    "AESGError",
    "AESGGRUText",
    "AESGLSTMText",
    "AESGMemory",
    "AESGMemoryError",
    "AESGNavigationError",
    "AESGSeq2Seq",
    "AESGStorageError",
    "AESGTrainer",
    "AESGTrainingError",
    "AESGTransformer",
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "ColorizationBenchmark",
    "EarlyStopping",
    "Evaluator",
    "JSONLLogger",
    "MemoryMode",
    "ProgressBar",
    "RetrievedContext",
    "TensorBoardCallback",
    "WandBCallback",
    "__version__",
]
