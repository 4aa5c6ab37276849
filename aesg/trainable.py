"""What can be trained: a model and its memory, device and optimizer, checked."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from aesg.errors import AESGError, AESGTrainingError
from aesg.modes import MemoryMode

#: Run a model as several copies at once.
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class _Sizes(Protocol):
    @property
    def node_count(self) -> int: ...

    @property
    def edge_count(self) -> int: ...


class _Config(Protocol):
    @property
    def batch_size(self) -> int: ...

    @property
    def learning_rate(self) -> float: ...


@runtime_checkable
class Memory(Protocol):
    """What the trainer needs of a model's memory."""

    @property
    def config(self) -> _Config:
        """Default batch size and learning rate."""
        ...

    @property
    def mode(self) -> MemoryMode:
        """The present mode."""
        ...

    @property
    def storage(self) -> _Sizes:
        """How many concepts and edges there are."""
        ...

    def set_mode(self, mode: MemoryMode) -> None:
        """Change the mode."""
        ...

    def reset_state(self) -> None:
        """Forget navigation state and what the last forward pass queued."""
        ...

    def update_topology(self) -> object:
        """Take in what the last forward pass brought."""
        ...

    def save(self) -> object:
        """Return when everything is on disk."""
        ...


@runtime_checkable
class Rekeyable(Memory, Protocol):
    """What the trainer needs of one whose keys can follow the network."""

    @property
    def can_rekey(self) -> bool:
        """Whether there is anything to re-key."""
        ...

    def asking_only(self) -> AbstractContextManager[None]:
        """Find nothing for a block, and let the model only ask."""
        ...

    def train(self, mode: bool = True) -> object:
        """Listen to queries, as in training."""
        ...

    def update_keys(self) -> object:
        """Let concepts have the keys of the queries that the last forward pass made."""
        ...


@runtime_checkable
class Observing(Memory, Protocol):
    """What the trainer needs of one that is told by itself what came."""

    @property
    def awaits_outcomes(self) -> bool:
        """Whether it has been asked where it is not known what came."""
        ...

    def observe(self, outcomes: Tensor) -> None:
        """Say what came at each query."""
        ...


@runtime_checkable
class Rated(Memory, Protocol):
    """What the trainer needs of one that counts what it does."""

    @property
    def rates(self) -> Any:
        """What was born, pruned and retrieved; `NoveltyRates`."""
        ...

    @property
    def provisional_count(self) -> int:
        """How many provisional concepts there are."""
        ...


@runtime_checkable
class KeyKeeping(Rekeyable, Protocol):
    """What the trainer needs of one with which training can be interrupted and go on the same."""

    def counted_commits(self) -> AbstractContextManager[None]:
        """Let the clock have no part in commits for a block."""
        ...

    def refreshing(self, earlier: Any = None) -> AbstractContextManager[Any]:
        """Note for a block how `update_keys` changes keys; yield the changes."""
        ...

    def put_back(self, changes: Any) -> int:
        """Give concepts the keys that they had before changes."""
        ...

    def put_forward(self, changes: Any) -> int:
        """Give concepts the keys of changes again."""
        ...


def device_of(device: str | torch.device) -> torch.device:
    """Return a device that torch can use here."""
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch asserts that CUDA is there
        reason = str(error).partition("\n")[0]
        raise AESGTrainingError(
            f"device: expected one that torch can use here, such as 'cpu', got {device!r}: {reason}"
        ) from error
    return found


def memory_of(model: nn.Module) -> Memory | None:
    """Return a model's memory; None, with a warning, where it has none.

    Its own, or else the one that its parts have.

    Raises
    ------
    AESGTrainingError
        If its parts have several, or the model is wrapped to run as several copies, which cannot
        share a memory.
    """
    held = _memories_in(model)
    if isinstance(model, _PARALLEL) and held:
        raise AESGTrainingError(
            f"model: expected the model itself, got it within {type(model).__name__}: copies of a "
            "model cannot write to one memory. Pass the model as it is, with a larger batch_size "
            "for one device; or train it within `without_memory()` in parallel and without the "
            "wrapper after that"
        )
    own = getattr(model, "memory", None)
    if isinstance(own, Memory):
        return own
    if len(held) > 1:
        raise AESGTrainingError(
            f"model: expected one memory, got {len(held)} ({', '.join(held)}): set `model.memory` "
            "to the one to train"
        )
    if held:
        return next(iter(held.values()))
    warnings.warn(
        f"{type(model).__name__} has no AESG memory: neural-only mode, only weights are trained",
        stacklevel=3,
    )
    return None


def _memories_in(model: nn.Module) -> dict[str, Memory]:
    """Return the memories that a model and its parts have, each once, by the name of the part."""
    found: dict[str, Memory] = {}
    for name, module in model.named_modules():
        path = f"{name}.memory".removeprefix(".")
        for where, each in ((name, module), (path, getattr(module, "memory", None))):
            if isinstance(each, Memory) and not any(each is other for other in found.values()):
                found[where] = each
    return found


def tell(model: nn.Module, memory: Memory | None, targets: Tensor) -> None:
    """Tell a model's memory the targets of the forward pass just made.

    By the model's own ``observe``, or else by that of the part that has the memory. Without
    either they are what came at the queries of which nothing has been said.

    Raises
    ------
    AESGTrainingError
        If the model does not say what targets mean to its memory, and as they are they do not fit.
    """
    own = getattr(model, "observe", None)
    if callable(own):
        own(targets)
        return
    observe = None if memory is None else _observer_in(model, memory)
    if observe is None:
        return
    try:
        observe(targets)
    except AESGError as error:
        raise AESGTrainingError(
            f"model: expected targets that say what came at the memory's queries, or a method "
            f"`observe(targets)` of {type(model).__name__} that tells `memory.observe`: "
            f"{error.message}"
        ) from error


def _observer_in(model: nn.Module, memory: Memory) -> Callable[[Tensor], object] | None:
    for module in model.modules():
        if getattr(module, "memory", None) is memory:
            observe = getattr(module, "observe", None)
            if callable(observe):
                found: Callable[[Tensor], object] = observe
                return found
    return memory.observe if isinstance(memory, Observing) and memory.awaits_outcomes else None


def memory_parameters_of(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters through which a model's memory speaks: those that it names, or all."""
    named = getattr(model, "memory_parameters", None)
    return list(named() if callable(named) else model.parameters())


def is_compiled(model: nn.Module) -> bool:
    """Tell whether torch has compiled a model, or a part of it."""
    return any(
        hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
        for module in model.modules()
    )


def check_count(name: str, value: object) -> None:
    """Raise `AESGTrainingError` unless a number is an integer of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise AESGTrainingError(f"{name}: expected an integer >= 1, got {value!r:.80}")


def check_criterion(criterion: object) -> None:
    """Raise `AESGTrainingError` unless a criterion is None or can be called for a loss."""
    if isinstance(criterion, type):
        raise AESGTrainingError(
            f"criterion: expected a function or an instance, got the class {criterion.__name__}: "
            f"write {criterion.__name__}()"
        )
    if criterion is not None and not callable(criterion):
        raise AESGTrainingError(
            f"criterion: expected criterion(output, targets), got {criterion!r:.80}"
        )


def adam(model: nn.Module, learning_rate: float) -> Adam:
    """Return the default optimizer, over all parameters."""
    if not 0 < learning_rate < math.inf:
        raise AESGTrainingError(
            f"learning_rate: expected a finite number > 0, got {learning_rate!r}"
        )
    parameters = list(model.parameters())
    if not parameters:
        raise AESGTrainingError(
            f"model: expected at least one parameter to train, {type(model).__name__} has none"
        )
    return Adam(parameters, lr=learning_rate)


def check_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    """Raise `AESGTrainingError` unless an optimizer moves a parameter of the model."""
    if isinstance(optimizer, type):
        raise AESGTrainingError(
            f"optimizer: expected a torch.optim.Optimizer, got the class {optimizer.__name__}: "
            f"write {optimizer.__name__}(model.parameters(), lr=...)"
        )
    if not isinstance(optimizer, Optimizer):
        raise AESGTrainingError(
            f"optimizer: expected a torch.optim.Optimizer, got {type(optimizer).__name__}"
        )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise AESGTrainingError(
            "optimizer: expected one that makes a step of one gradient, got "
            f"{type(optimizer).__name__}, which evaluates the model several times in a step: the "
            "memory would learn each batch as often"
        )
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if held.isdisjoint(map(id, model.parameters())):
        raise AESGTrainingError(
            f"optimizer: expected one that holds parameters of {type(model).__name__}, "
            f"got {len(held)} parameters of something else"
        )
