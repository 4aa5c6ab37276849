"""A memory in models that Lightning trains."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from aesg._imports import BROKEN, imported
from aesg.errors import AESGTrainingError
from aesg.memory import AESGMemory
from aesg.modes import MemoryMode
from aesg.trainable import memory_of, tell

try:
    imported("lightning.pytorch")  # Lightning needs no torchvision, but fails with a broken one
    from lightning.pytorch import Callback, LightningModule, Trainer

    from aesg.callbacks.lightning_files import MemoryCheckpointIO
except BROKEN as error:
    _found = (
        "expected Lightning, by pip install 'aesg[lightning]'"
        if find_spec("lightning") is None
        else "Lightning is installed, but cannot be imported"
    )
    raise ImportError(
        f"AESGLightningCallback: {_found}: {type(error).__name__}: {error}"
    ) from error


class AESGLightningCallback(Callback):
    """Does for the memory of a LightningModule what `AESGTrainer` does.

    The memory is that of the module or of one of its parts. It is in TRAIN mode while Lightning
    trains and in INFERENCE mode while it validates, tests and predicts; the mode is restored at the
    end. Behind each training batch, when the optimizer has made its step, the memory is told the
    targets, which changes nothing where ``training_step`` did so, and learns. It is saved at the
    end of each epoch.

    A checkpoint ``x.ckpt`` has the memory of its time beside it, in ``x.ckpt.memory-<number>``,
    which goes when Lightning removes the checkpoint. Where Lightning loads a checkpoint
    (``ckpt_path=``), the memory comes back with the weights.

    The numbers of concepts and edges are logged as ``memory/concepts`` and so on.

    Parameters
    ----------
    targets : callable, optional
        Takes a batch and returns its targets, as ``observe`` of the model takes them, or None
        where ``training_step`` tells the memory. Default: the second of a pair.

    Raises
    ------
    AESGTrainingError
        When training begins: if the module has no memory or several, or Lightning runs several
        processes, which cannot write to one memory.
    """

    def __init__(self, *, targets: Callable[[Any], Tensor | None] | None = None) -> None:
        self._targets = _second if targets is None else targets
        self._memory: AESGMemory | None = None
        self._before = MemoryMode.INFERENCE
        self._training = ExitStack()
        self._paused: MemoryMode | None = None
        self._files: MemoryCheckpointIO | None = None

    @property
    def memory(self) -> AESGMemory:
        """The memory of the module at work."""
        if self._memory is None:
            raise AESGTrainingError(
                "AESGLightningCallback: expected to be called by a lightning Trainer at work"
            )
        return self._memory

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the memory, and keep it beside the checkpoints."""
        if trainer.world_size > 1:
            raise AESGTrainingError(
                f"AESGLightningCallback: expected one process, got {trainer.world_size}: several "
                "cannot write to one memory. Pass devices=1 to the Trainer"
            )
        memory = memory_of(pl_module)
        if not isinstance(memory, AESGMemory):
            raise AESGTrainingError(
                f"AESGLightningCallback: expected {type(pl_module).__name__} or a part of it to "
                "have an AESGMemory, got none"
            )
        self._memory, self._before = memory, memory.mode
        held = trainer.strategy.checkpoint_io
        inner = held.inner if isinstance(held, MemoryCheckpointIO) else held
        # It stays there: `trainer.save_checkpoint` is also called when all is over.
        self._files = trainer.strategy.checkpoint_io = MemoryCheckpointIO(inner, memory)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the memory as it was found, but for what it has learned."""
        self._leave()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Keep what was learned, if Ctrl-C ended the training."""
        if self._memory is not None:
            self._memory.reset_state()
            if isinstance(exception, KeyboardInterrupt):
                self._memory.save()
        self._leave()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the memory learn."""
        self._restore()
        self.memory.set_mode(MemoryMode.TRAIN)
        self._training.enter_context(self.memory.counted_commits())

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a batch without what another one left."""
        self.memory.reset_state()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Learn from the batch."""
        targets = self._targets(batch)
        if targets is not None:
            tell(pl_module, self.memory, targets)
        self.memory.update_topology()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, and log how much there is."""
        memory = self.memory
        memory.save()
        counts = {
            "memory/concepts": memory.storage.node_count,
            "memory/edges": memory.storage.edge_count,
            "memory/provisional": memory.provisional_count,
        }
        pl_module.log_dict({name: float(count) for name, count in counts.items()})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Commit as in any other process."""
        self._training.close()

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Only read."""
        self._restore()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Only read."""
        self._pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on learning, where validation is a part of training."""
        if self._paused is not None:
            self.memory.set_mode(self._paused)
            self._paused = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Only read."""
        self._pause()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Only read."""
        self._pause()

    def _pause(self) -> None:
        self._restore()
        self._paused = self.memory.mode
        self.memory.set_mode(MemoryMode.INFERENCE)

    def _restore(self) -> None:
        """Bring the memory back, where a checkpoint was loaded."""
        if self._files is not None:
            self._files.restore()

    def _leave(self) -> None:
        self._training.close()
        self._paused = None
        if self._memory is not None:
            self._memory.set_mode(self._before)
        self._memory = self._files = None


def _second(batch: Any) -> Tensor:
    """Return the targets of a pair."""
    if isinstance(batch, list | tuple) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return batch[1]
    raise AESGTrainingError(
        "AESGLightningCallback: expected batches that are pairs of inputs and targets, got "
        f"{type(batch).__name__}: pass targets=, which returns the targets of a batch"
    )
