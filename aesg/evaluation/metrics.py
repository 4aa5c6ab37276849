"""The metrics of a domain, over batches of any size."""

from __future__ import annotations

from typing import Any, Protocol

from aesg.evaluation.classes import ClassSums
from aesg.evaluation.domains import Domain, checked_domain
from aesg.evaluation.images import ImageSums
from aesg.evaluation.text import TextSums


class MetricSums(Protocol):
    """Sums from which metrics follow: their size does not depend on how much was taken in."""

    def update(self, predictions: Any, targets: Any) -> None:
        """Take in a batch."""
        ...

    def compute(self) -> dict[str, float]:
        """Return the metrics of all batches so far; NaN before the first."""
        ...


_SUMS: dict[Domain, type[TextSums] | type[ImageSums] | type[ClassSums]] = {
    "text": TextSums,
    "image": ImageSums,
    "classification": ClassSums,
}


class DomainMetrics:
    """The metrics of a domain, over batches of any size.

    They are those that `Evaluator` gives for all batches at once.

    Parameters
    ----------
    domain : {"text", "image", "classification"}
        See `domain_of`.

    Raises
    ------
    AESGTrainingError
        If there is no such domain.
    """

    def __init__(self, domain: str) -> None:
        self._sums: MetricSums = _SUMS[checked_domain(domain)]()

    def update(self, output: Any, targets: Any) -> None:
        """Take in what a model gave for a batch, and what it should have given.

        Raises
        ------
        AESGTrainingError
            If they do not fit each other or the domain, or torchmetrics cannot be imported.
        """
        self._sums.update(output, targets)

    def compute(self) -> dict[str, float]:
        """Return the metrics of all batches so far; NaN before the first."""
        return self._sums.compute()
