"""What retrieved concepts stand for, as one vector."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from aesg.context import RetrievedContext


class _Bags(NamedTuple):
    """Rows of a table to add up, and by which weights, ``(N, K)`` each."""

    ids: Tensor
    weights: Tensor

    def summed(self, table: Tensor) -> Tensor:
        return F.embedding_bag(self.ids, table, per_sample_weights=self.weights, mode="sum")


def embedded_values(context: RetrievedContext, table: Tensor) -> Tensor:
    """Return the attention-weighted sum of the embeddings of integer values.

    Parameters
    ----------
    context : RetrievedContext
    table : (V, H) tensor
        Embedding of integer values; concepts with any other value add nothing.

    Returns
    -------
    (..., H) tensor
        Zeros where nothing was retrieved.
    """
    shape = context.mask.shape[:-1]
    if not context.mask.shape[-1]:
        return table.new_zeros(*shape, table.shape[1])
    return _bags(context, table).summed(table).view(*shape, table.shape[1])


class Readings:
    """Reads a table in every step of a sequence, with one gradient by the table for all of them.

    A gradient of each step would be as large as the table, and they would be added up.

    Parameters
    ----------
    table : (V, H) tensor
        As for `embedded_values`.
    steps, rows : int
        Most steps that read it, and rows ``B`` of each.
    """

    def __init__(self, table: Tensor, steps: int, rows: int) -> None:
        self._table = table
        self._read: list[_Bags] = []
        self._shares: tuple[Tensor, ...] = ()
        if table.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            shares = _OfAllSteps.apply(table, self._read, steps, rows)  # type: ignore[no-untyped-call]
            self._shares = shares.unbind(0)

    def __call__(self, context: RetrievedContext) -> Tensor:
        """Return `embedded_values` of the next step, ``(B, H)``."""
        if not self._shares or not context.mask.shape[-1]:
            return embedded_values(context, self._table)
        bags, share = _bags(context, self._table), self._shares[len(self._read)]
        self._read.append(_Bags(bags.ids, bags.weights.detach()))
        return bags.summed(self._table.detach()) + share


class _OfAllSteps(Function):
    """Zeros ``(T, B, H)`` that have the gradient by the table of what steps read from it.

    The bags are those that the steps will have read by the time that one goes backward.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, read: list[_Bags], steps: int, rows: int) -> Tensor:
        ctx.save_for_backward(table)
        ctx.read = read
        return table.new_zeros(steps, rows, table.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (table,) = ctx.saved_tensors
        read: list[_Bags] = ctx.read
        widest = max((each.ids.shape[1] for each in read), default=1)
        columns = (
            torch.cat([F.pad(each, (0, widest - each.shape[1])) for each in column])
            for column in zip(*read, strict=True)
        )
        with torch.enable_grad():
            leaf = table.detach().requires_grad_()
            summed = _Bags(*columns).summed(leaf)
        (found,) = torch.autograd.grad(summed, leaf, gradient[: len(read)].flatten(0, 1))
        return found, None, None, None


def _bags(context: RetrievedContext, table: Tensor) -> _Bags:
    """Return what a context ``(..., K)`` reads from a table; 0 by 0 where that is nothing."""
    flat = context.weights.flatten(0, -2)  # (N, K)
    ids = context.value_ids.view(flat.shape)
    known = (ids >= 0) & (ids < len(table))
    return _Bags(ids.masked_fill(~known, 0), flat.masked_fill(~known, 0.0).to(table.dtype))
