"""What a model is worth on data that it does not learn from."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import torch
from torch import nn

from aesg.data import Batches
from aesg.errors import AESGTrainingError
from aesg.evaluation import DomainMetrics, domain_of
from aesg.evaluation.domains import Domain, recognised
from aesg.losses import all_ignored, known_targets
from aesg.modes import MemoryMode
from aesg.training.passes import Passes
from aesg.training.randomness import undisturbed
from aesg.training.reports import Average

_log = logging.getLogger("aesg.trainer")


def known_domain(model: nn.Module) -> Domain:
    """Return the domain of a model whose metrics are asked for.

    Raises
    ------
    AESGTrainingError
        If its class does not say.
    """
    domain = domain_of(model)
    if domain is None:
        raise AESGTrainingError(
            f"metrics: expected a model whose class name says its domain ({recognised()}), got "
            f"{type(model).__name__}: give AESGTrainer a domain, 'text', 'image' or "
            "'classification'"
        )
    return domain


class Metrics(Protocol):
    """What judges outputs beside the loss."""

    def update(self, output: Any, targets: Any) -> None:
        """Take in a batch."""
        ...

    def compute(self) -> dict[str, float]:
        """Return the metrics of all batches."""
        ...


def judge(
    passes: Passes,
    batches: Batches,
    mode: MemoryMode,
    metrics: Metrics | None = None,
    where: str = "",
) -> dict[str, float]:
    """Return the average loss over some data, and metrics; see `AESGTrainer.evaluate`.

    Parameters
    ----------
    passes : Passes
    batches : Batches
    mode : MemoryMode
        Of the memory meanwhile; in all but INFERENCE it learns from each batch once that has been
        judged, and is saved at the end.
    metrics : Metrics, optional
        New ones.
    where : str
        Stands before the number of a batch in messages.

    Returns
    -------
    dict
        ``"loss"``, and the metrics by their names.
    """
    average, learns = Average(), mode is not MemoryMode.INFERENCE
    with (
        undisturbed(batches.loader, passes.device),
        passes.in_mode(mode, training=False),
        torch.no_grad(),
    ):
        for number, batch in enumerate(batches, 1):
            if all_ignored(passes.criterion, batch[1]):
                continue
            inputs, targets = passes.moved(batch)
            output = passes.forward(inputs, targets)
            loss = passes.loss(output, targets, f"{where}batch {number}", batches.name_of)
            average.add(loss.item(), targets)
            if metrics is not None:
                metrics.update(output, known_targets(passes.criterion, targets))
            if learns:
                passes.observe(targets)
                passes.learn()
        if learns and passes.memory is not None:
            passes.memory.save()
    more = metrics.compute() if metrics is not None and average.samples else {}
    return {"loss": average.value, **more}


class _WhereTheyFit:
    """Metrics that are left out, with one warning, where they do not fit what a model does.

    A class name is a guess: a classifier of two classes may have one output.
    """

    def __init__(self, domain: Domain) -> None:
        self._metrics = DomainMetrics(domain)
        self.fits = True

    def update(self, output: Any, targets: Any) -> None:
        if not self.fits:
            return
        try:
            self._metrics.update(output, targets)
        except AESGTrainingError as error:
            self.fits = False
            _log.warning("validation goes on without metrics, which do not fit: %s", error)

    def compute(self) -> dict[str, float]:
        return self._metrics.compute() if self.fits else {}


class Validation:
    """Data that is judged behind each epoch.

    Parameters
    ----------
    batches : Batches
    domain : {"text", "image", "classification"}, optional
        None leaves metrics out.
    """

    def __init__(self, batches: Batches, domain: Domain | None) -> None:
        self._batches = batches
        self._domain = domain

    def logs(self, passes: Passes) -> dict[str, Any]:
        """Return ``val_loss`` and ``val_<metric>``."""
        metrics = None if self._domain is None else _WhereTheyFit(self._domain)
        found = judge(passes, self._batches, MemoryMode.INFERENCE, metrics, "validation, ")
        if metrics is not None and not metrics.fits:
            self._domain = None
        return {f"val_{name}": value for name, value in found.items()}
