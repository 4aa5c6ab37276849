"""How texts are read: streams side by side, a log-probability for each token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from aesg.demo.tokenizer import Tokens
from aesg.demo.train import Batches, loader
from aesg.models import AESGDecoderLM
from aesg.trainer import AESGTrainer
from benchmarks.usefulness.ngram import KneserNey

LogProbs = NDArray[np.float64]

#: Tokens that the network sees at once.
SEGMENT = 64


def streams(texts: Sequence[Tokens], length: int) -> Batches:
    """Return batches of texts side by side: batch *i* holds segment *i* of each text.

    Parameters
    ----------
    texts : sequence of B arrays (N,) int64
        Each with more than ``length`` tokens.
    length : int
        Tokens to read of each; what does not fill a segment is left off.

    Returns
    -------
    list of ((B, T), (B, T)) int64 tensors
        Inputs and the targets one token later.
    """
    table = torch.from_numpy(np.stack([text[: length + 1] for text in texts]))
    starts = range(0, length - SEGMENT + 1, SEGMENT)
    return [
        (table[:, start : start + SEGMENT], table[:, start + 1 : start + SEGMENT + 1])
        for start in starts
    ]


def perplexity(log_probs: LogProbs) -> float:
    """Return the perplexity of tokens."""
    return float(np.exp(-log_probs.mean()))


def read(model: AESGDecoderLM, batches: Batches, mode: str = "INFERENCE") -> LogProbs:
    """Return the log-probability ``(N,)`` that a model gives to each target, in reading order.

    Parameters
    ----------
    model : AESGDecoderLM
    batches : Batches
    mode : str
        Of the memory; with ONLINE it takes in each batch after that batch was judged.
    """
    found: list[Tensor] = []

    def criterion(log_probs: Tensor, targets: Tensor) -> Tensor:
        found.append(log_probs.gather(-1, targets.unsqueeze(-1)).flatten())
        return -found[-1].mean()

    AESGTrainer(model, criterion=criterion, progress=False).evaluate(loader(batches), mode=mode)
    return torch.cat(found).double().numpy()


def read_beside(model: AESGDecoderLM, batches: Batches, others: Batches) -> LogProbs:
    """Return what `read` does while the memory takes in other batches in place of those read."""
    parts = []
    for batch, other in zip(batches, others, strict=True):
        parts.append(read(model, [batch]))
        read(model, [other], "ONLINE")
    return np.concatenate(parts)


def read_with_ngrams(model: KneserNey, batches: Batches) -> LogProbs:
    """Return what `read` does, of a model that takes in each batch after it was judged."""
    found = []
    for rows, start in _rows(batches):
        for row in rows:
            found += [
                model.log_prob(row[max(0, place - model.order) : place], row[place])
                for place in range(start + 1, len(row))
            ]
        for row in rows:
            model.learn(row, start + 1)
    return np.asarray(found)


def unseen(train: Tokens, batches: Batches, length: int) -> NDArray[np.bool_]:
    """Tell of which targets the n-gram that they end was neither trained on nor read before.

    Parameters
    ----------
    train : (M,) int64
        Text of the training.
    batches : Batches
        Of a batch, what came in earlier batches counts as read.
    length : int
        Of the n-grams.

    Returns
    -------
    (N,) bool array
        In reading order; also true where fewer tokens came before.
    """
    seen = set(_grams(train.tolist(), length, 0))
    found = []
    for rows, start in _rows(batches):
        fresh = [_grams(row, length, start + 1) for row in rows]
        found += [gram not in seen for grams in fresh for gram in grams]
        seen.update(gram for grams in fresh for gram in grams)
    return np.asarray(found)


def _grams(row: list[int], length: int, start: int) -> list[tuple[int, ...]]:
    return [tuple(row[max(0, end - length) : end]) for end in range(start + 1, len(row) + 1)]


def _rows(batches: Batches) -> Iterator[tuple[list[list[int]], int]]:
    """Yield of each batch all that was read of its streams, and where the batch begins there."""
    read_so_far: list[list[int]] = [[] for _ in batches[0][0]]
    for inputs, targets in batches:
        start = max(0, len(read_so_far[0]) - 1)
        for row, first, came in zip(
            read_so_far, inputs[:, :1].tolist(), targets.tolist(), strict=True
        ):
            row += came if row else first + came
        yield read_so_far, start


class NeuralCache:
    """A continuous cache on a network without memory (Grave et al., 2017, section 3).

    ``p = (1 - share) p_model + share p_cache``, where the cache gives each of the last hidden
    states' next tokens the softmax of ``flatness * cosine``.

    Parameters
    ----------
    model : AESGDecoderLM
        Runs without its memory.
    size : int
        Hidden states held.
    """

    def __init__(self, model: AESGDecoderLM, size: int) -> None:
        self.model = model
        self.size = size

    def read(self, batches: Batches, flatness: float) -> tuple[LogProbs, LogProbs]:
        """Return what the network and what the cache give to each target, in reading order.

        Parameters
        ----------
        batches : Batches
            A batch joins the cache after it was judged.
        flatness : float

        Returns
        -------
        (N,) and (N,) array
            Log-probabilities; those of an empty cache are -inf.
        """
        keys, values = torch.empty(0, 0), torch.empty(0, dtype=torch.long)
        ours, theirs = [], []
        for batch in batches:
            hidden, log_probs = self._states(batch)
            came = batch[1].flatten()
            ours.append(log_probs)
            theirs.append(_cached(hidden, came, keys, values, flatness))
            keys = torch.cat([keys.view(-1, hidden.shape[1]), hidden])[-self.size :]
            values = torch.cat([values, came])[-self.size :]
        return torch.cat(ours).double().numpy(), torch.cat(theirs).double().numpy()

    @torch.no_grad()
    def _states(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return hidden states ``(N, H)`` of length one and log-probabilities ``(N,)``."""
        held: list[Tensor] = []
        with self.model.norm.register_forward_hook(lambda *seen: held.append(seen[-1])):
            log_probs = torch.from_numpy(read(self.model, [batch]))
        return F.normalize(held[0].flatten(0, 1), dim=-1), log_probs


def _cached(hidden: Tensor, came: Tensor, keys: Tensor, values: Tensor, flatness: float) -> Tensor:
    if not len(values):
        return torch.full((len(came),), -torch.inf)
    weights = (flatness * hidden @ keys.T).softmax(-1)
    return (weights * (values == came.unsqueeze(1))).sum(-1).log()


def mixed(ours: LogProbs, theirs: LogProbs, share: float) -> LogProbs:
    """Return the log of ``(1 - share) exp(ours) + share exp(theirs)``."""
    found: LogProbs = np.logaddexp(ours + np.log1p(-share), theirs + np.log(share))
    return found
