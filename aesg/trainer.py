"""Trains a model's weights and its memory in one loop."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aesg.data import adapt_inputs, as_tensor
from aesg.evaluation import DomainMetrics
from aesg.modes import MemoryMode
from aesg.training.fitting import Fitting
from aesg.training.judging import judge, known_domain
from aesg.training.randomness import undisturbed


class AESGTrainer(Fitting):
    """Trains, evaluates and applies a model, with or without a memory.

    A model's memory is its attribute ``memory``, or else the one that its parts have. Behind each
    forward pass `fit` calls the model's ``observe(targets)``, so that the memory learns what its
    queries led to; where it has none, that of the part that has the memory, or else the memory's
    own. What `CrossEntropyLoss` or `NLLLoss` ignore, by their ``ignore_index``, is -100 there. A
    model whose attribute ``takes_targets`` is true is called with inputs and targets in `fit` and
    `evaluate` (teacher forcing), and with inputs alone in `predict`. One whose attribute
    ``asks_first`` is true makes its queries before it reads; its keys are refreshed without
    searching.

    Where it has ``own_output()``, what the network said without the memory, or None, `fit` judges
    that too: the network learns most from its own loss, and the parameters that
    ``memory_parameters()`` names from both. The loss that is reported is that of the output.

    Parameters
    ----------
    model : torch.nn.Module
        Moved to ``device``. Without a memory a UserWarning says so and only weights are trained.
    optimizer : torch.optim.Optimizer, optional
        Default ``Adam(lr=learning_rate)`` over all parameters. One that has to evaluate the model
        again within a step (LBFGS) is refused.
    criterion : callable, optional
        ``criterion(output, targets)`` returns the loss. Default: cross-entropy for integer
        targets, the mean squared error for floating ones; see `aesg.losses.batch_loss`. A module
        is moved to ``device``.
    callbacks : iterable of Callback, optional
        Called in this order while `fit` runs.
    device : str or torch.device
        Where model and batches go, for instance ``"cuda:0"``.
    batch_size : int, optional
        Samples of a batch where the data does not come in batches, at least 1. Default: that of
        ``memory.config``; 32 without a memory.
    learning_rate : float, optional
        Of the default optimizer, above 0. Default: that of ``memory.config``; 1e-3 without a
        memory.
    refresh_keys : bool
        Whether `fit` ends with one more pass over its data, without gradient and in eval mode, in
        which the memory's concepts get the keys that the trained network asks with. A model says
        with ``keys_drift = False`` or a frozen trunk that its keys stay good.
    progress : bool, optional
        Whether `fit` shows a progress bar on stderr. None shows one on a terminal.
    max_grad_norm : float, optional
        Greatest norm of all gradients of a step together, above 0; longer ones are shortened.
    accumulate : int
        Batches whose gradients make one step of the optimizer, at least 1; as many as are left at
        the end of an epoch make one too. The step is that of one batch of all their samples. The
        memory learns from every batch.
    precision : str
        ``"fp32"`` computes in the type of the weights; ``"bf16"`` and ``"fp16"`` in half
        precision where torch's autocast does, with weights and losses as they are, and a scaled
        loss for ``"fp16"``.
    scheduler : LRScheduler, ReduceLROnPlateau, or callable, optional
        Changes the learning rate; a callable makes it of the optimizer. ReduceLROnPlateau gets the
        validation loss, or the loss where there is no validation data.
    scheduler_step : str
        ``"epoch"`` or ``"batch"``: behind what the scheduler goes on; ``"batch"`` means each step
        of the optimizer.
    seed : int, optional
        In [0, 2**32). Seeds python's, numpy's and torch's generators and the order of samples,
        when `fit` is called first and nothing has been resumed.
    domain : {"text", "image", "classification"}, optional
        Whose metrics judge the model, in validation and in `evaluate`. None goes by the name of its
        class; see `aesg.evaluation.domain_of`.

    Attributes
    ----------
    epoch, global_step : int
        Completed epochs, and steps of the optimizer.
    best_loss : float
        The least validation loss of an epoch, or loss where it had no validation data; infinite
        before the first.
    history : list of dict
        The logs of each completed epoch.

    Raises
    ------
    AESGTrainingError
        If a parameter is not as described, the device is not there, the model's parts have several
        memories and it has no ``memory`` itself, or a model with a memory is wrapped in
        DataParallel or DistributedDataParallel.
    """

    def evaluate(
        self,
        test_data: Any,
        *,
        mode: MemoryMode | str = MemoryMode.INFERENCE,
        metrics: bool = False,
    ) -> dict[str, float]:
        """Return the average loss over some data; weights never change.

        The model is in eval mode and the memory in ``mode`` meanwhile; both are restored, and so
        are all generators of random numbers.

        Parameters
        ----------
        test_data : DataLoader, Dataset, or list of (input, target) pairs
            Read in its own order.
        mode : MemoryMode or str
            INFERENCE learns and writes nothing. ONLINE learns while it reads: the memory takes
            each batch in after its loss has been counted, and is saved at the end.
        metrics : bool
            Whether those of the model's domain belong to it; see `aesg.evaluation`.

        Returns
        -------
        dict
            ``"loss"``: the average, weighted by samples; infinite or NaN where the losses are.
            Batches whose targets are all ignored do not count; NaN where there are no others.

        Raises
        ------
        AESGTrainingError
            If the data cannot be judged, or metrics are asked of a model of no known domain:
            `AESGTrainer(domain=...)` says it.
        AESGMemoryError
            If there is no such mode.
        """
        measures = DomainMetrics(self.domain or known_domain(self.model)) if metrics else None
        return judge(self._passes, self._batches(test_data), MemoryMode.parse(mode), measures)

    @overload
    def predict(self, inputs: Tensor | NDArray[Any]) -> Tensor: ...

    @overload
    def predict(self, inputs: Any) -> list[Tensor]: ...

    def predict(self, inputs: Any) -> Tensor | list[Tensor]:
        """Return what the model gives; nothing is learned or written.

        The model is in eval mode and the memory in INFERENCE mode meanwhile; both are restored,
        and so are all generators of random numbers.

        Parameters
        ----------
        inputs : (B, ...) tensor or array, iterable of such, or data as for `evaluate`
            One batch, or several. Targets of pairs are left out.

        Returns
        -------
        tensor, or list of tensors
            The output of the batch, or of each, on the trainer's device.

        Raises
        ------
        AESGTrainingError
            If an input is neither a tensor nor an array of numbers.
        """
        passes = self._passes
        if isinstance(inputs, np.ndarray):
            inputs = as_tensor(inputs, "inputs")
        with (
            undisturbed(inputs, self.device),
            passes.in_mode(MemoryMode.INFERENCE, training=False),
            torch.no_grad(),
        ):
            if isinstance(inputs, Tensor):
                output: Tensor = passes.predicted(inputs)
                return output
            return [passes.predicted(each) for each in adapt_inputs(inputs, self.batch_size)]
