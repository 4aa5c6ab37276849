"""Recurrent cells that ask the memory at every step."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesg.context import RetrievedContext
from aesg.memory import AESGMemory
from aesg.memory_reading import DEFAULT_TOP_K
from aesg.nn.query import MemoryQuery
from aesg.nn.values import Readings, embedded_values
from aesg.outcomes import UNKNOWN

State = TypeVar("State", Tensor, tuple[Tensor, Tensor])

#: Returns what retrieved concepts stand for, as one vector for each row.
Read = Callable[[RetrievedContext], Tensor]

#: What the step before retrieved, None where it did not ask, and what came there, ``(B,)`` int64.
Before = tuple[RetrievedContext | None, Tensor]


@dataclass(frozen=True)
class Unrolled(Generic[State]):
    """What a cell made of a sequence.

    Parameters
    ----------
    hidden : (B, T, H) tensor
    state : (B, H) tensor, or two of them
        Behind the last step.
    queries : (B, T', D) tensor or None
        Of the ``T'`` steps that asked; None where none did.
    context : RetrievedContext or None
        What they retrieved.
    """

    hidden: Tensor
    state: State
    queries: Tensor | None = None
    context: RetrievedContext | None = None


class _MemoryCell(nn.Module, Generic[State]):
    """What the cells share.

    Parameters
    ----------
    cell : nn.GRUCell or nn.LSTMCell
        The same cell without a memory.
    memory : AESGMemory
    top_k : int
        Concepts retrieved at each step.
    values : nn.Embedding or None
        Embedding of integer values; None reads vectors.
    """

    def __init__(
        self, cell: nn.RNNCellBase, memory: AESGMemory, top_k: int, values: nn.Embedding | None
    ) -> None:
        super().__init__()
        self.cell = cell
        self.memory = memory
        self.top_k = top_k
        self.values = values
        self.query = MemoryQuery(cell.input_size + cell.hidden_size, memory)
        width = memory.vector_dim if values is None else values.embedding_dim
        self.inject = nn.Linear(width, len(cell.weight_ih), bias=False)
        nn.init.zeros_(self.inject.weight)

    def forward(
        self,
        inputs: Tensor,
        state: State | None = None,
        *,
        origins: Tensor | None = None,
        after: Before | None = None,
    ) -> tuple[State, RetrievedContext]:
        """Take one step; nothing is learned.

        Parameters
        ----------
        inputs : (B, I) tensor
        state : (B, H) tensor, or two of them, optional
            Default: zeros.
        origins : (B,) int64 tensor, optional
            Sample of each row; see `AESGMemory.retrieve`.
        after : (RetrievedContext, (B,) int64 tensor), optional
            What the step before retrieved, and what came there; see `AESGMemory.recall`.

        Returns
        -------
        state : (B, H) tensor, or two of them
        context : RetrievedContext
            For `MemoryMixture` and `AESGMemory.defer`; `RetrievedContext.stack` joins those of a
            sequence.
        """
        state = self._begun(inputs) if state is None else state
        query = self.query.project(self.asking(inputs, state))
        return self._step(inputs, state, query, origins, after, self._read)

    def alone(self, inputs: Tensor, state: State | None = None) -> State:
        """Take one step without the memory, as `forward` does where nothing is retrieved."""
        return self._advance(self._gates(inputs), self._begun(inputs) if state is None else state)

    def asking(self, inputs: Tensor, state: State) -> Tensor:
        """Return what a step's query is made from, ``(B, I + H)``.

        The state alone does not know the present input. `forward` leaves the running mean of the
        query as it is: a loop of one's own calls ``cell.query.follow`` with these, all steps at
        once, behind the last.
        """
        return torch.cat([_normed(inputs), _normed(_hidden(state))], -1)

    def unroll(
        self,
        inputs: Tensor,
        state: State | None = None,
        *,
        came: Tensor | None = None,
        origins: Tensor | None = None,
        every: int = 1,
        ask: bool = True,
    ) -> Unrolled[State]:
        """Take the steps of a sequence; nothing is learned.

        Parameters
        ----------
        inputs : (B, T, I) tensor
        state : (B, H) tensor, or two of them, optional
            Default: zeros.
        came : (B, T) int64 tensor, optional
            What came at each step, -100 where it is not known: a step follows the successors of
            what was right at the step before. It does not see its own.
        origins : (B,) int64 tensor, optional
        every : int
            Steps from one that asks to the next; successors are followed where it is 1.
        ask : bool
            Whether any step asks.

        Returns
        -------
        Unrolled
        """
        state = self._begun(inputs[:, 0]) if state is None else state
        before = _before(came) if came is not None and every == 1 else None
        steps: list[Tensor] = []
        asking: list[Tensor] = []
        queries: list[Tensor] = []
        contexts: list[RetrievedContext] = []
        read = self._reading(inputs.shape[1], inputs.shape[0]) if ask else self._read
        for t, step in enumerate(inputs.unbind(1)):
            if ask and t % every == 0:
                last = contexts[-1] if contexts else None
                after = None if before is None else (last, before[t])
                asking.append(self.asking(step, state))
                queries.append(self.query.project(asking[-1]))
                state, context = self._step(step, state, queries[-1], origins, after, read)
                contexts.append(context)
            else:
                state = self.alone(step, state)
            steps.append(_hidden(state))
        hidden = torch.stack(steps, 1)
        if not contexts:
            return Unrolled(hidden, state)
        if self.training:
            self.query.follow(torch.stack(asking, 1))
        return Unrolled(hidden, state, torch.stack(queries, 1), RetrievedContext.stack(contexts))

    def _step(
        self,
        inputs: Tensor,
        state: State,
        query: Tensor,
        origins: Tensor | None,
        after: Before | None,
        read: Read,
    ) -> tuple[State, RetrievedContext]:
        context = self.memory.recall(
            query,
            after=after,
            top_k=self.top_k,
            origins=origins,
            vectors=self.values is None,
        )
        said = self.inject(read(context).to(inputs.dtype))
        return self._advance(self._gates(inputs) + said, state), context

    def _reading(self, steps: int, rows: int) -> Read:
        """Return what reads the contexts of so many steps, ``(B, K)`` to ``(B, D)`` each."""
        return self._read if self.values is None else Readings(self.values.weight, steps, rows)

    def _read(self, context: RetrievedContext) -> Tensor:
        if self.values is None:
            return context.aggregate()
        return embedded_values(context, self.values.weight)

    def _gates(self, inputs: Tensor) -> Tensor:
        """Return what the input says to the gates; adding what was read concatenates the two."""
        return F.linear(inputs, self.cell.weight_ih, self.cell.bias_ih)

    def _recurrent_gates(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.cell.weight_hh, self.cell.bias_hh)

    @abstractmethod
    def _begun(self, inputs: Tensor) -> State:
        """Return the state before the first step of ``(B, I)``."""

    @abstractmethod
    def _advance(self, gates: Tensor, state: State) -> State:
        """Return the next state, given what the input says to the gates."""


class MemoryGRUCell(_MemoryCell[Tensor]):
    """A GRU cell that reads the memory at every step.

    The query is made from the state and the present input. The values of what is retrieved,
    weighted by attention, are concatenated with the input. At initialisation, and where nothing
    is retrieved, the cell is an ``nn.GRUCell``.

    Parameters
    ----------
    input_size : int
        Width ``I`` of the input.
    hidden_size : int
        Width ``H`` of the state.
    memory : AESGMemory
        Of width ``D``.
    top_k : int
        Concepts ``K`` retrieved at each step.
    values : nn.Embedding, optional
        Embedding of integer values. Default: vectors of width ``D`` are read.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        memory: AESGMemory,
        *,
        top_k: int = DEFAULT_TOP_K,
        values: nn.Embedding | None = None,
    ) -> None:
        super().__init__(nn.GRUCell(input_size, hidden_size), memory, top_k, values)

    def _begun(self, inputs: Tensor) -> Tensor:
        return inputs.new_zeros(inputs.shape[0], self.cell.hidden_size)

    def _advance(self, gates: Tensor, state: Tensor) -> Tensor:
        reset, update, new = gates.chunk(3, -1)
        reset_by, update_by, new_by = self._recurrent_gates(state).chunk(3, -1)
        share = torch.sigmoid(update + update_by)
        fresh = torch.tanh(new + torch.sigmoid(reset + reset_by) * new_by)
        return fresh + share * (state - fresh)


class MemoryLSTMCell(_MemoryCell[tuple[Tensor, Tensor]]):
    """An LSTM cell that reads the memory at every step; see `MemoryGRUCell`.

    Its state is the pair of hidden state and cell state, ``(B, H)`` each.

    Parameters
    ----------
    input_size, hidden_size, memory, top_k, values
        As for `MemoryGRUCell`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        memory: AESGMemory,
        *,
        top_k: int = DEFAULT_TOP_K,
        values: nn.Embedding | None = None,
    ) -> None:
        super().__init__(nn.LSTMCell(input_size, hidden_size), memory, top_k, values)

    def _begun(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        zeros = inputs.new_zeros(inputs.shape[0], self.cell.hidden_size)
        return zeros, zeros

    def _advance(self, gates: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        hidden, kept = state
        enter, forget, new, leave = (gates + self._recurrent_gates(hidden)).chunk(4, -1)
        kept = torch.sigmoid(forget) * kept + torch.sigmoid(enter) * torch.tanh(new)
        return torch.sigmoid(leave) * torch.tanh(kept), kept


def _hidden(state: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    return state if isinstance(state, Tensor) else state[0]


def _before(came: Tensor) -> tuple[Tensor, ...]:
    """Return what came at the step before each of ``(B, T)``, unknown at the first."""
    return F.pad(came[:, :-1], (1, 0), value=UNKNOWN).unbind(1)


def _normed(vectors: Tensor) -> Tensor:
    return F.layer_norm(vectors, vectors.shape[-1:])
