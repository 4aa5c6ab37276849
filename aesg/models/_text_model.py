"""What the text models share."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from aesg.errors import AESGTrainingError
from aesg.learning import UNKNOWN
from aesg.memory import AESGMemory
from aesg.memory_inputs import is_integer
from aesg.models.base import AESGModel, check_positive

Text = TypeVar("Text", bound="TextModel")


class TextModel(AESGModel):
    """A model of tokens.

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
