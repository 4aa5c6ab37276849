"""Reading and learning as operators, for models that are compiled or exported.

`torch.compile` and `torch.export` cannot look into a memory. They see two operators, which take the
memory as an integer, its *handle*: `recall` gives tensors of fixed shape for detached queries, and
`defer` queues what they teach. The attention over what was retrieved is ordinary torch, so that it
is compiled, and differentiated, with the rest of the model.
"""

from __future__ import annotations

import hashlib
import math
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from aesg.context import COLUMNS, RetrievedContext, Trace
from aesg.errors import AESGMemoryError
from aesg.memory_columns import Columns, blank, flat


class Operated(Protocol):
    """What the operators need of a memory."""

    def retrieved(
        self,
        query: Tensor,
        top_k: int,
        outcomes: Tensor | None,
        before: Sequence[Tensor],
        origins: Tensor | None,
        vectors: bool,
        balanced: bool,
    ) -> tuple[Columns, Trace]:
        """Return what queries retrieve."""
        ...

    def defer(
        self,
        context: RetrievedContext,
        outcomes: Tensor | None = None,
        log_probs: Tensor | None = None,
        expected: Tensor | None = None,
    ) -> None:
        """Queue what a retrieval teaches."""
        ...

    def learn(self, context: RetrievedContext) -> None:
        """Learn from a retrieval at once, where the mode allows."""
        ...


#: Whether torch is exporting; releases that cannot say export a model that learns where it may.
is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)

_live: weakref.WeakValueDictionary[int, nn.Module] = weakref.WeakValueDictionary()
_registering = threading.Lock()


def register(memory: nn.Module, directory: str) -> int:
    """Give a memory a handle that no other in this process has, and return it.

    The first on a directory gets the same handle in every process, so that what was compiled
    earlier may be found in a cache, and what was exported finds its memory.
    """
    digest = hashlib.blake2b(directory.encode(errors="surrogateescape"), digest_size=6).digest()
    with _registering:
        handle = int.from_bytes(digest, "big")
        while handle in _live:
            handle += 1
        _live[handle] = memory
    return handle


def bind(memory: nn.Module, handle: int, earlier: int) -> None:
    """Give a memory another handle, in place of its earlier one.

    Raises
    ------
    AESGMemoryError
        If the handle is no positive integer of 63 bits, or another memory has it.
    """
    if isinstance(handle, bool) or not isinstance(handle, int) or not 0 < handle < 2**63:
        raise AESGMemoryError(f"Handle: expected an integer from 1 to 2**63 - 1, got {handle!r}")
    with _registering:
        if _live.get(handle, memory) is not memory:
            raise AESGMemoryError(
                f"Handle {handle}: expected one that no other memory in this process has; "
                "close and delete that memory, or bind another number before the export"
            )
        _live.pop(earlier, None)
        _live[handle] = memory


def _memory(handle: int) -> Operated:
    memory = _live.get(handle)
    if memory is None:
        raise AESGMemoryError(
            f"No memory with the handle {handle} in this process: "
            f"open it and call memory.bind_handle({handle})"
        )
    return cast(Operated, memory)


def parts_of(context: RetrievedContext) -> list[Tensor]:
    """Return the tensors of a context, without its vectors, as `defer` takes them."""
    return [getattr(context, name).detach() for name in COLUMNS] + [*context.trace]


@torch.library.custom_op("aesg::recall", mutates_args=())
def recall(
    query: Tensor,
    handle: int,
    top_k: int,
    hops: int,
    outcomes: Tensor | None,
    before: Sequence[Tensor],
    origins: Tensor | None,
    vectors: bool,
    balanced: bool,
) -> list[Tensor]:
    """Return what queries ``(..., D)`` retrieve, as `aesg.memory_columns.flat` orders it."""
    memory = _memory(handle)
    columns, trace = memory.retrieved(query, top_k, outcomes, before, origins, vectors, balanced)
    return flat(columns, trace, top_k)


@recall.register_fake
def _(
    query: Tensor,
    handle: int,
    top_k: int,
    hops: int,
    outcomes: Tensor | None,
    before: Sequence[Tensor],
    origins: Tensor | None,
    vectors: bool,
    balanced: bool,
) -> list[Tensor]:
    count = math.prod(query.shape[:-1])
    return blank(count, top_k, query.shape[-1], hops, vectors, query.device)


@torch.library.custom_op("aesg::defer", mutates_args=("counter",))
def defer(
    counter: Tensor,
    handle: int,
    context: Sequence[Tensor],
    gathered: Tensor | None,
    outcomes: Tensor | None,
    log_probs: Tensor | None,
    expected: Tensor | None,
) -> None:
    """Queue what a retrieval teaches, and count that: what changes nothing would be left out."""
    counter.add_(1)
    came, likely, awaited = (
        None if each is None else each.clone() for each in (outcomes, log_probs, expected)
    )
    _memory(handle).defer(_assembled(context, gathered), came, likely, awaited)


@defer.register_fake
def _(
    counter: Tensor,
    handle: int,
    context: Sequence[Tensor],
    gathered: Tensor | None,
    outcomes: Tensor | None,
    log_probs: Tensor | None,
    expected: Tensor | None,
) -> None:
    return None


@torch.library.custom_op("aesg::learn", mutates_args=("counter",))
def learn(counter: Tensor, handle: int, context: Sequence[Tensor]) -> None:
    """Learn from a retrieval at once, and count that, as `defer` does."""
    counter.add_(1)
    _memory(handle).learn(_assembled(context, None))


@learn.register_fake
def _(counter: Tensor, handle: int, context: Sequence[Tensor]) -> None:
    return None


def _assembled(parts: Sequence[Tensor], gathered: Tensor | None) -> RetrievedContext:
    """Return a context of copies, as compiled code writes into its tensors again."""
    held = [each.clone() for each in parts]
    return RetrievedContext(
        **dict(zip(COLUMNS, held, strict=False)),
        trace=Trace(*held[len(COLUMNS) :]),
        gathered=None if gathered is None else gathered.clone(),
    )
