"""One pass of a batch through a model and its memory, for training and judging alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aesg.data import Batch
from aesg.losses import (
    Criterion,
    asks_of_targets,
    batch_loss,
    check_targets,
    known_targets,
    loss_of_targets,
)
from aesg.modes import MemoryMode
from aesg.trainable import Memory, is_compiled, tell

#: What numbers a network computes with, by the name of a precision; None is what its weights are.
PRECISIONS: dict[str, torch.dtype | None] = {
    "fp32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True)
class Passes:
    """How batches go through a model.

    Parameters
    ----------
    model : torch.nn.Module
    memory : Memory or None
        Its memory.
    criterion : callable or None
        As for `batch_loss`.
    device : torch.device
    precision : str
        A key of `PRECISIONS`.
    dtype : torch.dtype or None
        What floating inputs and targets become; None leaves them as they are.
    """

    model: nn.Module
    memory: Memory | None
    criterion: Criterion | None
    device: torch.device
    precision: str
    dtype: torch.dtype | None

    def moved(self, batch: Batch) -> Batch:
        """Return a batch on the device, floating numbers in the type of the model's weights."""
        inputs, targets = batch
        return self._moved(inputs), self._moved(targets)

    def wanted(self, batch: Batch, where: str, name_of: Callable[[int], str]) -> Tensor | None:
        """Return the targets that model and criterion need speak of alone; None where of all.

        A text model says of one token for each position at half the cost of saying it of all.

        Returns
        -------
        (B, T) int64 tensor or None
            As the memory takes them.

        Raises
        ------
        AESGTrainingError
            If a target is out of range.
        """
        model: Any = self.model
        inputs, targets = batch
        told = getattr(model, "takes_targets", False)
        if not (
            hasattr(type(model), "speaks_of_targets")  # and not of a model inside, that is wrapped
            and model.speaks_of_targets
            and asks_of_targets(self.criterion, targets)
            and (targets.shape == inputs.shape or (told and targets.ndim == 2))
            and not is_compiled(model)
        ):
            return None
        check_targets(self.criterion, targets, model.vocab_size, where, name_of)
        return known_targets(self.criterion, targets).long()

    def forward(
        self, inputs: Tensor, targets: Tensor | None = None, of: Tensor | None = None
    ) -> Any:
        """Return what the model gives; no batch depends on the one before it.

        Parameters
        ----------
        inputs : (B, ...) tensor
        targets : tensor, optional
            Told to a model that takes them.
        of : tensor, optional
            What is `wanted`.

        Returns
        -------
        Any
            The output, or of it what is wanted; a tensor of half precision is brought back to
            single precision.
        """
        if self.memory is not None:
            self.memory.reset_state()
        told = targets is not None and getattr(self.model, "takes_targets", False)
        with self._autocast():
            given = (inputs, targets) if told else (inputs,)
            output = self.model(*given) if of is None else self.model(*given, of=of)
        return self._single(output)

    def predicted(self, inputs: Tensor) -> Any:
        """Return the output of inputs that may be anywhere."""
        return self.forward(self._moved(inputs))

    def own_output(self) -> Tensor | None:
        """Return what the network said by itself in the pass just made, if it tells and can learn.

        Returns
        -------
        tensor or None
            Like the output.
        """
        take = getattr(self.model, "own_output", None)
        own = take() if callable(take) else None
        if own is None or not own.requires_grad:
            return None
        single: Tensor = self._single(own)
        return single

    def loss(
        self,
        output: Any,
        targets: Tensor,
        where: str,
        name_of: Callable[[int], str] | None = None,
        of: Tensor | None = None,
    ) -> Tensor:
        """Judge an output, or what was wanted ``of`` it; see `batch_loss`."""
        if of is not None:
            return loss_of_targets(self.criterion, output, of)
        return batch_loss(self.criterion, output, targets, where, name_of)

    def observe(self, targets: Tensor) -> None:
        """Tell the memory what came."""
        tell(self.model, self.memory, known_targets(self.criterion, targets))

    def learn(self) -> None:
        """Let the memory learn what the pass just made led to."""
        if self.memory is not None:
            self.memory.update_topology()

    @contextmanager
    def in_mode(self, mode: MemoryMode, *, training: bool) -> Iterator[None]:
        """Switch model and memory for a block, and back however the block ends."""
        flags = [(module, module.training) for module in self.model.modules()]
        before = None if self.memory is None else self.memory.mode
        try:
            self.model.train(training)
            if self.memory is not None:
                self.memory.set_mode(mode)
            yield
        finally:
            for module, flag in flags:
                module.training = flag
            if self.memory is not None and before is not None:
                self.memory.reset_state()  # drops what a step that failed has queued
                self.memory.set_mode(before)

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = PRECISIONS[self.precision]
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)

    def _single(self, output: Any) -> Any:
        """Return an output in which a criterion can count exactly."""
        if PRECISIONS[self.precision] is None or not isinstance(output, Tensor):
            return output
        return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output

    def _moved(self, tensor: Tensor) -> Tensor:
        floating = tensor.is_floating_point() and self.dtype is not None
        return tensor.to(self.device, self.dtype) if floating else tensor.to(self.device)


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """Return the one floating type of a model's parameters; None where there are several."""
    found = {each.dtype for each in model.parameters() if each.is_floating_point()}
    return found.pop() if len(found) == 1 else None
