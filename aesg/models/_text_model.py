"""What the text models share."""

from __future__ import annotations

import os
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from aesg.context import RetrievedContext
from aesg.errors import AESGTrainingError
from aesg.memory import AESGMemory
from aesg.memory_inputs import is_integer
from aesg.models.base import AESGModel, check_positive
from aesg.nn.likelihood import LastLayer, log_probabilities
from aesg.nn.mixture import MemoryMixture
from aesg.nn.query import QueryPolicy
from aesg.outcomes import UNKNOWN, Likelihood

Text = TypeVar("Text", bound="TextModel")

#: What a last layer is made of; a linear one has no bias.
_LAST = (MemoryMixture, nn.Linear)


class TextModel(AESGModel):
    """A model of tokens.

    Its forward pass returns the log-probabilities of all tokens at each position; or, with ``of``,
    those of one token for each, which is all that a loss asks for and costs a training step half
    as much.

    Parameters
    ----------
    vocab_size : int
        Tokens ``V``, at least 1.
    memory : AESGMemory
    memory_dropout : float
        As for `AESGModel`.

    Raises
    ------
    AESGConfigError
        If a parameter is out of range.
    """

    embedding: nn.Embedding
    norm: nn.LayerNorm
    mixture: MemoryMixture | None
    query_every: QueryPolicy

    def __init__(self, vocab_size: int, memory: AESGMemory, *, memory_dropout: float = 0.3) -> None:
        check_positive(vocab_size=vocab_size)
        super().__init__(memory, memory_dropout=memory_dropout)
        self.vocab_size = vocab_size

    @classmethod
    def small(
        cls: type[Text],
        vocab_size: int,
        storage_dir: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Text:
        """Make one of 128 hidden, 1 layer, 4 heads and a 64-d memory; see `sized`."""
        return cls._of_vocabulary("small", vocab_size, storage_dir, options)

    @classmethod
    def medium(
        cls: type[Text],
        vocab_size: int,
        storage_dir: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Text:
        """Make one of 256 hidden, 2 layers, 8 heads and a 128-d memory; see `sized`."""
        return cls._of_vocabulary("medium", vocab_size, storage_dir, options)

    @classmethod
    def large(
        cls: type[Text],
        vocab_size: int,
        storage_dir: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Text:
        """Make one of 512 hidden, 4 layers, 16 heads and a 256-d memory; see `sized`."""
        return cls._of_vocabulary("large", vocab_size, storage_dir, options)

    @classmethod
    def sized(
        cls: type[Text],
        vocab_size: int,
        storage_dir: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> Text:
        """Make one of any size: 192 hidden, 2 layers, 6 heads and a 96-d memory unless told.

        Parameters
        ----------
        vocab_size : int
            Tokens ``V``, at least 1.
        storage_dir : str or path, optional
            Directory of the memory. Default: ``./aesg_memory``.
        **options
            Keyword parameters of the model (``hidden_size``, ``num_layers``, ``top_k``, ...) and
            fields of its `AESGConfig` (``vector_dim``, ``max_concepts``, ...).

        Raises
        ------
        AESGConfigError
            If an option is of neither kind or out of range, or the memory has another
            ``vector_dim``.
        AESGStorageError
            If the directory cannot be opened.
        """
        return cls._of_vocabulary("between", vocab_size, storage_dir, options)

    @classmethod
    def _of_vocabulary(
        cls: type[Text],
        name: str,
        vocab_size: int,
        storage_dir: str | os.PathLike[str] | None,
        options: dict[str, Any],
    ) -> Text:
        check_positive(vocab_size=vocab_size)  # before the memory's directory is made
        return cls._preset(name, (vocab_size,), storage_dir, options)

    @property
    def speaks_of_targets(self) -> bool:
        """Whether ``of`` saves anything, and nobody waits for the output that it is a part of.

        True of a model as it was made: not where a subclass, a hook or another ``forward`` changed
        it or a module of its last layer, or another kind of module stands in its place.
        """
        if torch.compiler.is_compiling() or not type(self).__module__.startswith("aesg.models."):
            return False
        everywhere = _has_any_global_hook()  # type: ignore[no-untyped-call]
        last = self._last_modules()
        known = all(type(each) in _LAST and getattr(each, "bias", None) is None for each in last)
        return known and not everywhere and not any(map(_is_changed, (self, *last)))

    def _last_modules(self) -> tuple[nn.Module, ...]:
        """Return the modules whose place another computation takes where ``of`` is asked for."""
        return () if self.mixture is None else (self.mixture,)

    def _last_layer(self, hidden: Tensor) -> LastLayer:
        """Return what makes the logits of hidden states ``(..., H)``."""
        return LastLayer(self.norm(hidden), self.embedding.weight)

    def _logits(self, hidden: Tensor) -> Tensor:
        return F.linear(*self._last_layer(hidden))

    def _alone(self, hidden: Tensor, of: Tensor | None = None) -> Tensor:
        """Return what the network says without the memory, ``(B, T, V)``, or ``(B, T)`` of some."""
        if of is not None and self.speaks_of_targets:
            return self._last_layer(hidden).of_targets(of)
        return _at(log_probabilities(self._logits(hidden)), of)

    def _together(
        self, hidden: Tensor, context: RetrievedContext, of: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return what network and memory say, ``(B, T, V)``, and of it the places that asked."""
        logits = self._logits(hidden)
        self._keep_own(lambda: _at(log_probabilities(logits), of))
        mixture, every = self._mixing
        return mixture.where_asked(every, logits, hidden, context)

    def _spoken(
        self, hidden: Tensor, context: RetrievedContext, known: Tensor | None, of: Tensor | None
    ) -> Tensor:
        """Return what network and memory say, ``(B, T, V)``, or ``(B, T)`` of some; learn of it.

        ``known`` is what the input says of the outcomes where positions ask, ``(B, T')``.
        """
        if of is None or not self.speaks_of_targets:
            log_probs, asked = self._together(hidden, context, of)
            self.memory.defer(context, known, asked)
            return _at(log_probs, of)
        mixture, every = self._mixing
        own, both = mixture.of_targets(of, every, self._last_layer(hidden), hidden, context)
        self._keep_own(lambda: own)
        self.memory.defer(context, known, Likelihood(of[:, ::every], both[:, ::every]))
        return both

    @property
    def _mixing(self) -> tuple[MemoryMixture, int]:
        """What mixes the memory in, and positions from one that asks to the next."""
        return cast(MemoryMixture, self.mixture), cast(int, self.query_every)

    def _checked(self, tokens: Tensor) -> Tensor:
        """Return tokens as int64, so that their origin does not depend on the type they came in.

        Raises
        ------
        AESGTrainingError
            If they are of another type or shape or, unless compiled, out of range.
        """
        if tokens.ndim != 2 or not is_integer(tokens) or not tokens.numel():
            raise AESGTrainingError(
                f"Tokens: expected integers of shape (batch, time), at least one of each, "
                f"got {tokens.dtype} of shape {tuple(tokens.shape)}"
            )
        tokens = tokens.long()
        if not torch.compiler.is_compiling():  # a branch on what tokens hold cannot be traced
            self._check_range(tokens)
        return tokens

    def _each(self, targets: Tensor) -> Tensor:
        """Return the targets of all positions as they are.

        Raises
        ------
        AESGTrainingError
            If they are of another type or shape.
        """
        if targets.ndim != 2 or not is_integer(targets):
            raise AESGTrainingError(
                f"Targets: expected integers of shape (batch, time), {UNKNOWN} at positions "
                f"without a target, got {targets.dtype} of shape {tuple(targets.shape)}"
            )
        return targets

    def _wanted(self, of: Tensor | None, tokens: Tensor) -> Tensor | None:
        """Return as int64 the targets that are asked of.

        Raises
        ------
        AESGTrainingError
            If they are of another type, or shape than the output's positions, or out of range.
        """
        if of is None:
            return None
        of = self._each(of).long()
        known = of != UNKNOWN
        if of.shape != tokens.shape:
            raise AESGTrainingError(
                f"of: expected a token for each position, shape {tuple(tokens.shape)}, got shape "
                f"{tuple(of.shape)}"
            )
        return self._checked(of.where(known, 0)).where(known, UNKNOWN)

    def _check_range(self, tokens: Tensor) -> None:
        least, most = (int(bound) for bound in tokens.aminmax())
        if least < 0 or most >= self.vocab_size:
            raise AESGTrainingError(
                f"Token out of range: expected 0 to {self.vocab_size - 1}, "
                f"got {least if least < 0 else most}"
            )


def next_tokens(tokens: Tensor) -> Tensor:
    """Return what came next at each position ``(B, T)``: the input says it, but for the last."""
    return F.pad(tokens[:, 1:], (0, 1), value=UNKNOWN)


def _at(log_probs: Tensor, of: Tensor | None) -> Tensor:
    """Return what is said of some tokens ``(B, T)``, 0 where there is none; all where not asked."""
    if of is None:
        return log_probs
    unknown = of == UNKNOWN
    picked = log_probs.gather(-1, of.masked_fill(unknown, 0).unsqueeze(-1)).squeeze(-1)
    return picked.masked_fill(unknown, 0.0)


def _is_changed(module: nn.Module) -> bool:
    """Tell whether a module has another ``forward``, or hooks, which need input or output."""
    hooks = (
        module._forward_pre_hooks,
        module._forward_hooks,
        module._backward_pre_hooks,
        module._backward_hooks,
    )
    return any(hooks) or "forward" in vars(module)
