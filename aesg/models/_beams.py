"""Beam search over any model that goes on one token at a time."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Generated(NamedTuple):
    """What a model generated.

    Parameters
    ----------
    tokens : (B, L) int64 tensor
        Behind the first ``eos`` of a row there are only more of them.
    scores : (B,) tensor
        Log-probability of each row, its first ``eos`` included, over its length to the power of
        the length penalty.
    """

    tokens: Tensor
    scores: Tensor


class Continuation(Protocol):
    """What `beam_search` asks of a model."""

    def __call__(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Go on from some of the rows of the call before.

        Parameters
        ----------
        rows : (N,) int64 tensor
            The row that each of the present ones continues.
        tokens : (N,) int64 tensor
            What each of them is continued with.

        Returns
        -------
        (N, V) tensor
            Log-probabilities of what comes next.
        """
        ...


def beam_search(
    first: Tensor,
    proceed: Continuation,
    length: int,
    *,
    beams: int,
    eos: int | None,
    length_penalty: float,
) -> Generated:
    """Return the best sequence of each row that a beam of ``beams`` finds.

    A finished sequence keeps its place in the beam as long as it is among the best.

    Parameters
    ----------
    first : (B * beams, V) tensor
        Log-probabilities of the first token; the rows of one beam are equal.
    proceed : Continuation
    length : int
        Tokens of the longest sequence.
    beams : int
        One is greedy search.
    eos : int or None
        The token that ends a sequence.
    length_penalty : float
        Sequences are ranked by log-probability over length to this power: 0 prefers short ones, 1
        compares means.
    """
    vocabulary = first.shape[1]
    log_probs = first.view(-1, beams, vocabulary)
    batch = len(log_probs)
    begun = torch.arange(batch, device=first.device)[:, None] * beams  # first row of each beam
    scores = first.new_zeros(batch, beams)
    scores[:, 1:] = -torch.inf  # the rows of a beam begin equal: one of them counts
    lengths, done = torch.zeros_like(scores), torch.zeros_like(scores, dtype=torch.bool)
    tokens = torch.empty(batch, beams, 0, dtype=torch.int64, device=first.device)
    while True:
        lengths = lengths + ~done
        total = scores[..., None] + _held(log_probs, done, eos)  # (B, beams, V)
        ranked = total / lengths[..., None] ** length_penalty
        best = ranked.flatten(1).topk(beams).indices  # (B, beams)
        parents, chosen = best // vocabulary, best % vocabulary
        scores = total.flatten(1).gather(1, best)
        lengths, done = lengths.gather(1, parents), done.gather(1, parents)
        tokens = tokens.gather(1, parents[..., None].expand_as(tokens))
        tokens = torch.cat([tokens, chosen[..., None]], -1)
        if eos is not None:
            done = done | (chosen == eos)
        if tokens.shape[-1] == length or bool(done.all()):
            return Generated(tokens[:, 0], (scores / lengths**length_penalty)[:, 0])
        log_probs = proceed((begun + parents).flatten(), chosen.flatten()).view_as(log_probs)


def _held(log_probs: Tensor, done: Tensor, eos: int | None) -> Tensor:
    """Return log-probabilities with which a finished sequence can only stay what it is."""
    if eos is None:
        return log_probs
    staying = torch.full_like(log_probs[0, 0], -torch.inf)
    staying[eos] = 0
    return torch.where(done[..., None], staying, log_probs)
