"""What all models share: sizes, factories, and the hook for outcomes."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from aesg.config import AESGConfig
from aesg.errors import AESGConfigError
from aesg.memory import AESGMemory
from aesg.models._once import Once

Model = TypeVar("Model", bound="AESGModel")


@dataclass(frozen=True)
class Size:
    """A preset. A model takes what its constructor has a parameter for.

    Parameters
    ----------
    hidden_size : int
        Width of a text model's internal states.
    num_layers : int
        Stacked layers of a text model.
    nhead : int
        Attention heads of a Transformer.
    base_filters : int
        Channels behind the first block of an image model; each block has twice as many as the one
        before it.
    blocks : int
        Blocks of an image model, each of which halves height and width.
    vector_dim : int
        Width of the concepts.
    """

    hidden_size: int
    num_layers: int
    nhead: int
    base_filters: int
    blocks: int
    vector_dim: int


SIZES = {
    "small": Size(128, 1, 4, 32, 3, 64),
    "between": Size(192, 2, 6, 48, 4, 96),
    "medium": Size(256, 2, 8, 64, 4, 128),
    "large": Size(512, 4, 16, 128, 5, 256),
}

_MAX_CONCEPTS = 100_000


class AESGModel(nn.Module):
    """A network with a memory.

    Parameters
    ----------
    memory : AESGMemory
    memory_dropout : float
        Share of training batches that run without the memory, so that the network does not come
        to lean on it, in [0, 1).

    Attributes
    ----------
    takes_targets : bool
        Whether the trainer calls ``model(inputs, targets)`` where it knows the targets.
    asks_first : bool
        Whether no query depends on what another retrieved, so that keys can be refreshed without
        searching.
    keys_drift : bool
        Whether queries change as the weights do, so that there is anything to refresh.

    Raises
    ------
    AESGConfigError
        If ``memory_dropout`` is out of range.
    """

    takes_targets: ClassVar[bool] = False
    asks_first: bool = False
    keys_drift: bool = True

    def __init__(self, memory: AESGMemory, *, memory_dropout: float = 0.3) -> None:
        if not 0 <= memory_dropout < 1:
            raise AESGConfigError(f"memory_dropout: got {memory_dropout}, expected [0, 1)")
        super().__init__()
        self.memory = memory
        self.memory_dropout = memory_dropout
        self.memory_enabled = True
        self.trunk_frozen = False
        self._own_output = Once()

    @classmethod
    def _preset(
        cls: type[Model],
        name: str,
        arguments: tuple[Any, ...],
        storage_dir: str | os.PathLike[str] | None,
        options: dict[str, Any],
    ) -> Model:
        """Return a model of a preset size with a memory of its own.

        ``arguments`` come before the memory. ``options`` are keyword parameters of the model or
        fields of its `AESGConfig`, and win over the preset.
        """
        size, make = dataclasses.asdict(SIZES[name]), cast(Callable[..., Model], cls)
        own = _keyword_parameters(cls)
        fields = {field.name for field in dataclasses.fields(AESGConfig)}
        _check_known(cls, options, own, fields)
        given = {"max_concepts": _MAX_CONCEPTS, **size, **options}
        config = AESGConfig(**{key: given[key] for key in given if key in fields})
        with ExitStack() as undo:
            memory = AESGMemory(storage_dir, config)
            undo.callback(memory.close)
            model = make(*arguments, memory, **{key: given[key] for key in given if key in own})
            undo.pop_all()
        return model

    def memory_parts(self) -> tuple[nn.Module, ...]:
        """Return the modules, besides the memory itself, through which the memory speaks."""
        return ()

    def memory_parameters(self) -> list[nn.Parameter]:
        """Return the parameters through which the memory speaks, each once.

        The rest is the trunk.
        """
        parts = nn.ModuleList([self.memory, *self.memory_parts()])
        return list(parts.parameters())

    def outcomes(self, targets: Tensor) -> Tensor:
        """Return what the targets of a batch say of the queries that its forward pass made.

        The targets themselves, unless a model says otherwise.
        """
        return targets

    def observe(self, targets: Tensor) -> None:
        """Tell the memory what really came, after a forward pass and before `update_topology`.

        Ignored in INFERENCE.

        Parameters
        ----------
        targets : tensor
            As the loss takes them.
        """
        self.memory.observe(self.outcomes(targets))

    def uses_memory(self) -> bool:
        """Tell, or draw, whether the forward pass that begins asks the memory."""
        self._own_output.take()  # that of another pass
        if not self.memory_enabled:
            return False
        if not self.training or self.trunk_frozen:  # a frozen trunk cannot come to lean on it
            return True
        return not self.memory_dropout or float(torch.rand(())) >= self.memory_dropout

    def own_output(self) -> Tensor | None:
        """Return, once, what the network said by itself in the last forward pass.

        What the memory explains leaves the network without a gradient, and it would not come to
        know it. So `AESGTrainer` lets the trunk learn most from ``criterion(own_output, targets)``,
        and the memory's parameters from that and from the loss of the output.

        Returns
        -------
        tensor or None
            As the output, but before the memory is mixed in. None where nothing was mixed in, the
            model is in eval mode, the trunk is frozen, gradients are off, or it was returned
            before.
        """
        return self._own_output.take()

    def _keep_own(self, say: Callable[[], Tensor]) -> None:
        """Keep what the network says by itself, where a training step may ask for it."""
        if self.training and torch.is_grad_enabled() and not self.trunk_frozen:
            self._own_output.held = say()

    def freeze_trunk(self, frozen: bool = True) -> None:
        """Leave only the memory's parameters trainable, or make all of them so again.

        For training in two stages: the network alone first (`without_memory`), then the way in
        which it uses the memory. The network without its memory stays exactly what it was, and
        the hidden states that queries are made from do not drift. A frozen trunk runs without
        dropout, and its batch normalisation with the statistics that it has.
        """
        spoken = {id(parameter) for parameter in self.memory_parameters()}
        for parameter in self.parameters():
            parameter.requires_grad_(not frozen or id(parameter) in spoken)
        self.trunk_frozen = frozen
        self.train(self.training)

    def train(self: Model, mode: bool = True) -> Model:
        """Set training mode; see `torch.nn.Module.train`."""
        super().train(mode)
        if self.trunk_frozen:
            for module in self.modules():
                if isinstance(module, (nn.Dropout, nn.BatchNorm2d)):
                    module.eval()
        return self

    @contextmanager
    def without_memory(self) -> Iterator[None]:
        """Run, or train, as the network alone: the memory is neither read nor written.

        It is `at_rest` meanwhile: it neither learns nor ages nor prunes, whatever its mode and
        however often `update_topology` is called.
        """
        before, self.memory_enabled = self.memory_enabled, False
        try:
            with self.memory.at_rest():
                yield
        finally:
            self.memory_enabled = before


def check_positive(**numbers: int) -> None:
    """Raise the documented error where one of the sizes is not a positive integer."""
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise AESGConfigError(f"{name} must be an integer >= 1, got {number!r}")
        if number < 1:
            raise AESGConfigError(f"{name} must be >= 1")


def _keyword_parameters(model: type[nn.Module]) -> set[str]:
    """Return the names of a constructor's keyword parameters, and of those that it hands on."""
    found: set[str] = set()
    for owner in model.__mro__:
        if "__init__" in vars(owner):
            parameters = inspect.signature(owner).parameters.values()
            found |= {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
            if not any(each.kind is each.VAR_KEYWORD for each in parameters):
                break
    return found


def _check_known(
    model: type[nn.Module], options: dict[str, Any], own: set[str], fields: set[str]
) -> None:
    for name in options:
        if name not in own | fields:
            close = difflib.get_close_matches(name, own | fields, 1)
            meant = f"; did you mean {close[0]}?" if close else ""
            raise AESGConfigError(
                f"Unknown parameter {name}: expected a field of AESGConfig or one of "
                f"{model.__name__}'s {', '.join(sorted(own))}{meant}"
            )
