"""A reading as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from aesg.context import Trace, widened
from aesg.graph.scope import Scope
from aesg.reading import Reading
from storage_backends.columns import Slots
from storage_backends.types import Floats, Ids, ValueKind


class Columns(NamedTuple):
    """What ``N`` flattened queries retrieved, on their device.

    Parameters
    ----------
    keys : (N, K, D) float32 tensor
    mask : (N, K) bool tensor
    activations, ages, cosines : (N, K) float32 tensor
    roots : (N, K) int64 tensor
        Places of the seeds that activation came from; see `Reading`.
    crowds : (N, K) float32 tensor
        Number of concepts that share the value, where that is asked for; else 1.
    value_kinds : (N, K) uint8 tensor
    value_ids : (N, K) int64 tensor
        -1 where a concept has no integer value.
    vectors : (N, K, D) float32 tensor
        ``(N, K, 0)`` where they are not asked for.
    """

    keys: Tensor
    mask: Tensor
    activations: Tensor
    ages: Tensor
    cosines: Tensor
    roots: Tensor
    crowds: Tensor
    value_kinds: Tensor
    value_ids: Tensor
    vectors: Tensor


def columns_of(
    scope: Scope, reading: Reading, crowds: Floats | None, device: torch.device
) -> tuple[Columns, Trace]:
    """Return a reading as tensors, as long as its scope stays as it is.

    Parameters
    ----------
    scope : Scope
    reading : Reading
    crowds : (N, K) float32 or None
    device : torch.device
        Of the queries; the trace is on the host.
    """
    slots, none = reading.slots, np.empty((*reading.slots.shape, 0), np.float32)
    trace = _trace_of(scope, reading)
    columns = Columns(
        keys=torch.from_numpy(reading.concepts.keys),
        mask=torch.from_numpy(slots >= 0),
        activations=torch.from_numpy(reading.activations),
        ages=torch.from_numpy(reading.ages),
        cosines=trace.cosines,
        roots=torch.from_numpy(reading.roots),
        crowds=torch.from_numpy(np.ones(slots.shape, np.float32) if crowds is None else crowds),
        value_kinds=trace.value_kinds,
        value_ids=trace.value_ids,
        vectors=torch.from_numpy(none if reading.vectors is None else reading.vectors),
    )
    if device.type != "cpu":
        columns = Columns(*(each.to(device) for each in columns))
    return columns, trace


def _trace_of(scope: Scope, reading: Reading) -> Trace:
    queries, concepts = reading.queries, reading.concepts
    integer = (concepts.value_kinds == ValueKind.INTEGER) & (concepts.slots >= 0)

    def bits(column: Ids) -> Tensor:
        return torch.from_numpy(column.view(np.int64))

    return Trace(
        queries=torch.from_numpy(queries.unit),
        norms=torch.from_numpy(queries.norms),
        ids=bits(concepts.ids),
        paths=bits(_ids_along(scope, reading.paths)),
        cosines=torch.from_numpy(reading.cosines),
        value_kinds=torch.from_numpy(concepts.value_kinds),
        value_ids=torch.from_numpy(np.where(integer, concepts.value_ids, -1)),
        origins=bits(np.repeat(queries.origins, queries.sequences[1])),
        seeds=bits(scope.ids(reading.seeds)),
        begun=torch.from_numpy(reading.begun),
        followed=torch.from_numpy(reading.followed),
    )


def _ids_along(scope: Scope, paths: Slots) -> Ids:
    """Return the ids of paths, of which most places are empty."""
    ids, held = np.zeros(paths.shape, np.uint64), np.nonzero(paths >= 0)
    if len(held[0]):
        ids[held] = scope.ids(paths[held])
    return ids


def flat(columns: Columns, trace: Trace, width: int) -> list[Tensor]:
    """Return all columns, ``K`` padded to ``width``; none shares memory with another."""
    ours = [
        widened(name, each, width).contiguous()
        for name, each in zip(Columns._fields, columns, strict=True)
    ]
    # On the host some of the trace are the very columns above.
    own = [
        each if name == "queries" else widened(name, each, width)
        for name, each in zip(Trace._fields, trace, strict=True)
    ]
    return ours + [each.clone(memory_format=torch.contiguous_format) for each in own]


def unflat(tensors: Sequence[Tensor]) -> tuple[Columns, Trace]:
    """Return the columns that `flat` put in a row."""
    split = len(Columns._fields)
    return Columns(*tensors[:split]), Trace(*tensors[split:])


def blank(
    count: int, width: int, dim: int, hops: int, vectors: bool, device: torch.device
) -> list[Tensor]:
    """Return tensors of shape, type and device of those of `flat`, whatever they hold.

    Parameters
    ----------
    count, width, dim, hops : int
        ``N``, ``K``, ``D`` and ``H``.
    vectors : bool
        Whether there are vectors.
    device : torch.device
        Of the queries.
    """

    def there(dtype: torch.dtype, *tail: int) -> Tensor:
        return torch.empty(count, *tail, dtype=dtype, device=device)

    def here(dtype: torch.dtype, *tail: int) -> Tensor:
        return torch.empty(count, *tail, dtype=dtype)

    columns = Columns(
        keys=there(torch.float32, width, dim),
        mask=there(torch.bool, width),
        activations=there(torch.float32, width),
        ages=there(torch.float32, width),
        cosines=there(torch.float32, width),
        roots=there(torch.int64, width),
        crowds=there(torch.float32, width),
        value_kinds=there(torch.uint8, width),
        value_ids=there(torch.int64, width),
        vectors=there(torch.float32, width, dim if vectors else 0),
    )
    trace = Trace(
        queries=here(torch.float32, dim),
        norms=here(torch.float32),
        ids=here(torch.int64, width),
        paths=here(torch.int64, width, hops),
        cosines=here(torch.float32, width),
        value_kinds=here(torch.uint8, width),
        value_ids=here(torch.int64, width),
        origins=here(torch.int64),
        seeds=here(torch.int64, width),
        begun=here(torch.float32, width),
        followed=here(torch.bool),
    )
    return [*columns, *trace]
