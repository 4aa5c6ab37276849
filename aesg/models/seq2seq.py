"""The sequence-to-sequence model."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from aesg.context import RetrievedContext, Trace
from aesg.errors import AESGTrainingError
from aesg.memory import AESGMemory
from aesg.models._beams import Generated, beam_search
from aesg.models._sampling import check_eos
from aesg.models.base import check_positive
from aesg.models.recurrent import RecurrentModel
from aesg.nn.likelihood import log_probabilities
from aesg.nn.origins import origins_of
from aesg.nn.recurrent import Before, MemoryGRUCell
from aesg.outcomes import UNKNOWN


@dataclass(frozen=True)
class _Decoding:
    """Where the decoder stands in ``N`` rows.

    Parameters
    ----------
    lower : (L - 1, N, H) tensor or None
        States of the plain layers.
    state : (N, H) tensor
        That of the memory cell.
    origins : (N,) int64 tensor
    ask : bool
        Whether the memory is asked.
    step : int
        Steps taken.
    context : RetrievedContext or None
        Of the last step, where it asked.
    """

    lower: Tensor | None
    state: Tensor
    origins: Tensor
    ask: bool
    step: int = 0
    context: RetrievedContext | None = None

    def rows(self, index: Tensor) -> _Decoding:
        """Return some of the rows, in the order of ``index``."""
        return replace(
            self,
            lower=None if self.lower is None else self.lower[:, index],
            state=self.state[index],
            origins=self.origins[index.cpu()],
            context=None if self.context is None else _rows(self.context, index),
        )


class AESGSeq2Seq(RecurrentModel):
    """An encoder, and a decoder that asks its memory at every step and remembers what came.

    The encoder is a plain GRU. Its last states begin the decoder, whose top layer is a
    `aesg.nn.MemoryGRUCell`. A step asks with the state before it and the token before it; the
    retrieved concepts stand for the tokens that came in such a place. In training, a step never
    sees concepts of its own source.

    Parameters
    ----------
    vocab_size, memory
        As for `RecurrentModel`; source and target share the vocabulary.
    **options
        Keyword parameters of `RecurrentModel`.
    """

    takes_targets: ClassVar[bool] = True
    cell: MemoryGRUCell

    def __init__(self, vocab_size: int, memory: AESGMemory, **options: Any) -> None:
        super().__init__(vocab_size, memory, **options)
        width = self.embedding.embedding_dim
        self.encoder = nn.GRU(width, width, self.num_layers, batch_first=True)
        self.start = nn.Parameter(torch.zeros(width))

    def forward(
        self, src: Tensor, targets: Tensor | None = None, *, of: Tensor | None = None
    ) -> Tensor:
        """Return the log-probabilities of the output's tokens, which serve as logits.

        Parameters
        ----------
        src : (B, S) integer tensor
            In ``0 .. vocab_size - 1``.
        targets : (B, T) integer tensor, optional
            The output (teacher forcing): step ``t`` knows the targets before ``t``, and the memory
            learns from all of them. -100 where there is none. Without targets each step takes the
            most probable token of the step before, ``T`` is ``S``, and nothing is learned.
        of : (B, T) integer tensor, optional
            The tokens whose log-probabilities are wanted, -100 where none is; with targets only.

        Returns
        -------
        (B, T, V) tensor
            Or ``(B, T)``, those of the tokens ``of``, 0 where there is none.

        Raises
        ------
        AESGTrainingError
            If tokens are of another type or shape, or out of range.
        """
        src = self._checked(src)
        if targets is None:
            return self._greedy(src)
        targets = self._checked_targets(targets, src)
        of = self._wanted(of, targets)
        begun = self._begun(src, self.uses_memory())
        inputs = self._shifted(targets)
        if self.lower is not None:
            inputs, _ = self.lower(inputs, begun.lower)
        unrolled = self.cell.unroll(
            inputs,
            begun.state,
            came=targets,
            origins=begun.origins,
            every=self.query_every,
            ask=begun.ask,
        )
        return self._said(unrolled, targets, of)

    @torch.no_grad()
    def generate(
        self,
        src: Tensor,
        max_length: int,
        *,
        beams: int = 1,
        eos: int | None = None,
        length_penalty: float = 1.0,
    ) -> Generated:
        """Return the output that greedy or beam search finds; nothing is learned.

        Dropout is as the model's mode has it: call ``eval()`` first.

        Parameters
        ----------
        src : (B, S) integer tensor
        max_length : int
            Tokens of the longest output.
        beams : int
            Candidates kept for each row; 1 is greedy search.
        eos : int, optional
            The token that ends an output. Default: all have ``max_length`` tokens.
        length_penalty : float
            Candidates are ranked by log-probability over length to this power: 0 prefers short
            ones, 1 compares means.

        Returns
        -------
        Generated
            ``tokens`` (B, L) and ``scores`` (B,).

        Raises
        ------
        AESGTrainingError
            If the source is no batch of tokens.
        AESGConfigError
            If another argument is out of range.
        """
        check_positive(max_length=max_length, beams=beams)
        check_eos(eos, self.vocab_size)
        src = self._checked(src)
        each = torch.arange(len(src), device=src.device).repeat_interleave(beams)
        log_probs, decoding = self._step(self._begun(src, self.memory_enabled).rows(each), None)

        def proceed(rows: Tensor, tokens: Tensor) -> Tensor:
            nonlocal decoding
            log_probs, decoding = self._step(decoding.rows(rows), tokens)
            return log_probs

        return beam_search(
            log_probs, proceed, max_length, beams=beams, eos=eos, length_penalty=length_penalty
        )

    def _greedy(self, src: Tensor) -> Tensor:
        decoding, tokens = self._begun(src, self.uses_memory()), None
        steps: list[Tensor] = []
        for _ in range(src.shape[1]):
            log_probs, decoding = self._step(decoding, tokens)
            tokens = log_probs.argmax(-1)
            steps.append(log_probs)
        return torch.stack(steps, 1)

    def _begun(self, src: Tensor, ask: bool) -> _Decoding:
        """Return the decoder before its first step: the encoder's last states."""
        _, states = self.encoder(self._embedded(src))  # (L, B, H)
        lower = None if self.lower is None else states[:-1].contiguous()
        return _Decoding(lower, states[-1], origins_of(src), ask)

    def _step(self, decoding: _Decoding, tokens: Tensor | None) -> tuple[Tensor, _Decoding]:
        """Take one step behind ``tokens`` ``(N,)``, None at the first.

        Returns log-probabilities ``(N, V)`` and where the decoder stands then.
        """
        state, lower = decoding.state, decoding.lower
        inputs = self.start.expand_as(state) if tokens is None else self._embedded(tokens)
        if self.lower is not None:
            above, lower = self.lower(inputs[:, None], lower)
            inputs = above[:, 0]
        context = None
        if decoding.ask and decoding.step % self.query_every == 0:
            state, context = self.cell(
                inputs, state, origins=decoding.origins, after=self._before(decoding, tokens)
            )
        else:
            state = self.cell.alone(inputs, state)
        stands = replace(
            decoding, lower=lower, state=state, step=decoding.step + 1, context=context
        )
        logits = self._logits(state)
        if context is None:
            return log_probabilities(logits), stands
        return self.mixture(logits, state, context), stands

    def _before(self, decoding: _Decoding, tokens: Tensor | None) -> Before | None:
        """Return what a step follows, as `unroll` has it."""
        if self.query_every != 1:
            return None
        if tokens is None:
            return None, torch.full_like(decoding.origins, UNKNOWN)
        return decoding.context, tokens

    def _shifted(self, targets: Tensor) -> Tensor:
        """Return the inputs ``(B, T, H)``: the start, then each target but the last."""
        known = targets != UNKNOWN
        embedded = self._embedded(targets.where(known, 0)) * known[..., None]
        start = self.start.expand(targets.shape[0], 1, -1)
        return torch.cat([start, embedded[:, :-1]], 1)

    def _checked_targets(self, targets: Tensor, src: Tensor) -> Tensor:
        known = targets != UNKNOWN
        checked = self._checked(targets.where(known, 0))
        if checked.shape[0] != src.shape[0]:
            raise AESGTrainingError(
                f"Targets do not fit the source: expected {len(src)} rows, got {len(checked)}"
            )
        return checked.where(known, UNKNOWN)


def _rows(context: RetrievedContext, index: Tensor) -> RetrievedContext:
    """Return the contexts of some queries of ``(N, ...)``, in the order of ``index``."""
    columns = {each.name: getattr(context, each.name) for each in fields(context)}
    trace: Trace = columns.pop("trace")
    taken: dict[str, Any] = {
        name: one if one is None else one[index] for name, one in columns.items()
    }
    host = index.cpu()
    return RetrievedContext(**taken, trace=Trace(*(column[host] for column in trace)))
