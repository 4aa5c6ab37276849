"""From the loss of a batch to a step of the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from aesg.data import Batch
from aesg.errors import AESGTrainingError
from aesg.losses import first_not_finite, share_of, trainable_value
from aesg.trainable import is_compiled, memory_parameters_of
from aesg.training.passes import Passes

#: Of the loss of network and memory together, where the network has one of its own: with more, the
#: network comes to lean on the memory; with none, it makes no queries that find.
_SHARED = 0.3
#: The loss scale below which half precision has no gradient left: 30 steps in a row were not
#: finite, of a scale that begins at 65,536.
_LEAST_SCALE = 2.0**-14


class Stepper:
    """Trains weights and memory batch by batch.

    Parameters
    ----------
    passes : Passes
    optimizer : torch.optim.Optimizer
    scaler : GradScaler, optional
        Of the loss, for half precision.
    accumulate : int
        Batches whose gradients make one step, at least 1. The memory learns from every batch.
    max_grad_norm : float, optional
        Greatest norm of all gradients of a step together, above 0.
    stepped : callable
        Called behind each step that moved the weights.
    name_of : callable
        Returns what to call a sample, given its row in the batch.
    """

    def __init__(
        self,
        passes: Passes,
        optimizer: Optimizer,
        scaler: GradScaler | None,
        accumulate: int,
        max_grad_norm: float | None,
        stepped: Callable[[], None],
        name_of: Callable[[int], str],
    ) -> None:
        self._passes = passes
        self._optimizer = optimizer
        self._scaler = scaler
        self._accumulate = accumulate
        self._max_grad_norm = max_grad_norm
        self._stepped = stepped
        self._name_of = name_of
        self._gathered = 0  # batches since the last step
        self._expected = self._share = 0.0  # what their shares were taken to add up to, and do

    def take(self, batch: Batch, where: str) -> float:
        """Learn from a batch; return its loss.

        Raises
        ------
        AESGTrainingError
            If it cannot be judged, or loss or gradient are not finite: neither weights nor memory
            have learned from it.
        """
        passes, targets = self._passes, batch[1]
        if not self._gathered:
            self._optimizer.zero_grad()
        of = passes.wanted(batch, where, self._name_of)
        loss = passes.loss(self._output(batch, of, where), targets, where, self._name_of, of)
        value = trainable_value(loss, where, lambda: self._cause(batch))
        passes.observe(targets)  # targets that do not fit leave the weights as they are
        self._backward(loss, targets, of, where)
        self._gathered += 1
        if self._gathered == self._accumulate:
            self._step(where)
        passes.learn()
        return value

    def finish(self, where: str) -> None:
        """Make the step of the batches that are left over at the end of an epoch."""
        if self._gathered:
            self._step(where)

    def _output(self, batch: Batch, of: Tensor | None, where: str) -> Any:
        """Return what the model gives; what it refuses is named by its place in the data."""
        try:
            return self._passes.forward(*batch, of)
        except AESGTrainingError as error:
            found = first_not_finite(batch[0])
            sample = "" if found is None else f", in {self._name_of(found[0])}"
            raise AESGTrainingError(f"{where}: {error.message}{sample}") from error

    def _backward(self, loss: Tensor, targets: Tensor, of: Tensor | None, where: str) -> None:
        """Let the network learn to do without its memory, and the rest to make the best of both.

        What the memory explains leaves no gradient. Where a model tells what the network said by
        itself, the network learns from that, and little from ``loss``.
        """
        passes, factor = self._passes, self._factor(targets)
        own = passes.own_output()
        if own is None:
            self._add(loss, factor)
            return
        own_loss = passes.loss(own, targets, where, of=of)
        trainable_value(own_loss, where)
        if is_compiled(passes.model):  # its graph can be gone through once
            self._add(loss + own_loss, factor)
            return
        spoken = [each for each in memory_parameters_of(passes.model) if each.requires_grad]
        self._add(own_loss + _SHARED * loss, factor, retain_graph=True)
        if spoken:
            self._add((1 - _SHARED) * loss, factor, inputs=spoken)

    def _factor(self, targets: Tensor) -> float:
        """Return what a batch counts among those of its step; they add up to about 1.

        How many samples the others will have is not known yet; `_step` puts it right.
        """
        if self._accumulate == 1:
            return 1.0
        share = share_of(self._passes.criterion, targets)
        if share is None:
            return 1.0
        if not self._gathered:
            self._expected, self._share = share * self._accumulate, 0.0
        self._share += share
        return share / self._expected

    def _add(self, loss: Tensor, factor: float, **options: object) -> None:
        if factor != 1.0:
            loss = loss * factor
        if self._scaler is not None:
            loss = self._scaler.scale(loss)
        loss.backward(**options)  # type: ignore[no-untyped-call]

    def _step(self, where: str) -> None:
        """Move the weights, unless half precision had no room for a gradient."""
        self._gathered = 0
        scaler, optimizer = self._scaler, self._optimizer
        if scaler is not None:
            scaler.unscale_(optimizer)
        gradients = self._gradients()
        self._even_out(gradients)
        finite = self._clip(gradients)
        if scaler is None:
            if not finite:
                raise AESGTrainingError(self._not_finite(where))
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
            if not finite:
                _check_scale(scaler, where)
                return
        self._stepped()

    def _gradients(self) -> list[Tensor]:
        groups = self._optimizer.param_groups
        return [each.grad for group in groups for each in group["params"] if each.grad is not None]

    def _even_out(self, gradients: list[Tensor]) -> None:
        if self._share != self._expected:
            for each in gradients:
                each.mul_(self._expected / self._share)
        self._share = self._expected = 0.0

    def _clip(self, gradients: list[Tensor]) -> bool:
        """Shorten the gradients where they are too long; tell whether they are finite."""
        if not gradients:
            return True
        total = float(torch.linalg.vector_norm(torch.stack([_norm(each) for each in gradients])))
        longest = self._max_grad_norm
        if longest is not None and longest < total < float("inf"):
            for each in gradients:
                each.mul_(longest / total)
        return total < float("inf")

    def _cause(self, batch: Batch) -> str:
        """Return what is known of why the loss of a batch is not finite."""
        for part, tensor in zip(("input", "target"), batch, strict=True):
            found = first_not_finite(tensor)
            if found is not None:
                row, number = found
                return f"the {part} of {self._name_of(row)} holds {number}"
        for name, weight in self._passes.model.named_parameters():
            if not bool(weight.isfinite().all()):
                return f"the weights hold NaN or infinity, in {name!r}"
        return "inputs, targets and weights are finite"

    def _not_finite(self, where: str) -> str:
        held = {
            id(each)
            for group in self._optimizer.param_groups
            for each in group["params"]
            if each.grad is not None and not bool(_values(each.grad).isfinite().all())
        }
        named = self._passes.model.named_parameters()
        name = next((repr(name) for name, each in named if id(each) in held), "the optimizer's own")
        got = f"NaN or infinity in that of {name} ({len(held)} parameters in all)"
        return (
            f"{where}: expected a finite gradient, got {got if held else 'one too long to measure'}"
            ", of a finite loss; neither weights nor memory learned from this batch. A lower "
            "learning_rate or max_grad_norm may help, and a model or criterion without roots or "
            "logarithms of zero"
        )


def _values(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def _norm(gradient: Tensor) -> Tensor:
    values = _values(gradient)
    half = values.dtype in (torch.float16, torch.bfloat16)
    norm: Tensor = torch.linalg.vector_norm(values, dtype=torch.float32 if half else None)
    return norm


def _check_scale(scaler: GradScaler, where: str) -> None:
    if scaler.get_scale() < _LEAST_SCALE:
        raise AESGTrainingError(
            f"{where}: expected gradients that half precision can hold, got none in 30 steps; "
            "try precision='bf16' or 'fp32', or a lower learning_rate"
        )
