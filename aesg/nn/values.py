"""What retrieved concepts stand for, as one vector."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from aesg.context import RetrievedContext


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
    flat = context.weights.flatten(0, -2)  # (N, K)
    ids = context.value_ids.view(flat.shape)
    known = (ids >= 0) & (ids < len(table))
    weights = flat.masked_fill(~known, 0.0).to(table.dtype)
    ids = ids.masked_fill(~known, 0)
    summed = F.embedding_bag(ids, table, per_sample_weights=weights, mode="sum")
    return summed.view(*shape, table.shape[1])
