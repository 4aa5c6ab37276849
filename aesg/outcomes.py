"""What came at queries, and what was expected of that alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aesg.errors import AESGMemoryError
from storage_backends.types import Floats

#: The outcome that says "not known" (the ``ignore_index`` of cross-entropy).
UNKNOWN = -100


@dataclass(frozen=True)
class Likelihood:
    """What model and memory together gave to some integers, and nothing of all others.

    Parameters
    ----------
    of : (...,) int64 tensor
        One for each query, `UNKNOWN` where there is none.
    log_probs : (...,) tensor
        Log-probability of each.
    """

    of: Tensor
    log_probs: Tensor

    @property
    def nbytes(self) -> int:
        """Memory that the tensors take."""
        return int(self.of.nbytes + self.log_probs.nbytes)

    def detach(self) -> Likelihood:
        """Return the same without a gradient."""
        return Likelihood(self.of.detach(), self.log_probs.detach())

    def to(self, came: NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the probability given to each of ``(N,)`` integers, and of which it is known.

        Raises
        ------
        AESGMemoryError
            If another than that came.
        """
        of: NDArray[np.int64] = self.of.reshape(-1).cpu().numpy()
        told = of != UNKNOWN
        other = np.flatnonzero(told & (came != UNKNOWN) & (of != came))
        if len(other):
            query = int(other[0])
            raise AESGMemoryError(
                f"Outcome of query {query}: expected {of[query]}, whose log-probability is given, "
                f"or {UNKNOWN} where it is not known, got {came[query]}"
            )
        given: Floats = self.log_probs.detach().exp().float().cpu().numpy()
        return given.reshape(came.shape), told


def fitted(outcomes: Any, asked: tuple[int, ...], dim: int) -> Tensor:
    """Return outcomes with one for each query that was asked.

    Parameters
    ----------
    outcomes : (...,) integer or (..., D) float tensor
        In the shape of the queries, or flat; or one for each sample, which is taken for each of
        its queries.
    asked : tuple of int
        Shape of the queries, the sample first, without their width.
    dim : int
        Width ``D``.

    Raises
    ------
    AESGMemoryError
        If they are of another type or shape.
    """
    _check_type(outcomes)
    given: Tensor = outcomes
    width = (dim,) if given.is_floating_point() else ()
    if given.shape in ((*asked, *width), (math.prod(asked), *width)):
        return given
    if given.shape == (*asked[:1], *width):
        return given.reshape(*asked[:1], *(1 for _ in asked[1:]), *width).expand(*asked, *width)
    what = f"vectors of width {dim}" if width else "integers"
    shapes = " or ".join(
        str((*each, *width)) for each in dict.fromkeys([asked, (math.prod(asked),)])
    )
    of_samples = f", or one for each sample, shape {(*asked[:1], *width)}" if asked[1:] else ""
    raise AESGMemoryError(
        f"Outcomes do not fit the queries: expected {math.prod(asked)} {what} in a tensor of shape "
        f"{shapes}{of_samples}, got shape {tuple(given.shape)}"
    )


def _check_type(outcomes: Any) -> None:
    if not isinstance(outcomes, Tensor) or outcomes.is_complex() or outcomes.dtype is torch.bool:
        got = outcomes.dtype if isinstance(outcomes, Tensor) else type(outcomes).__name__
        raise AESGMemoryError(
            f"Outcomes of wrong type: expected a tensor of integers or floats, got {got}"
        )
