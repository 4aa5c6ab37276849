"""What `AESGTrainer.fit` calls while it trains: the base class, and the list of them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, MutableSequence, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, overload

import torch
from torch import nn
from torch.optim import Optimizer

from aesg.errors import AESGError, AESGTrainingError

#: What a hook is told: names and numbers. All callbacks of one hook get the same object, and may
#: add to it.
Logs = dict[str, Any]

_log = logging.getLogger(__name__)


class Trainer(Protocol):
    """What a callback may ask of the trainer that calls it."""

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""
        ...

    @property
    def memory(self) -> Any:
        """Its memory, or None."""
        ...

    @property
    def optimizer(self) -> Optimizer:
        """What moves the weights."""
        ...

    @property
    def device(self) -> torch.device:
        """Where model and batches are."""
        ...

    @property
    def callbacks(self) -> Sequence[Callback]:
        """What follows its training."""
        ...

    @property
    def epoch(self) -> int:
        """Completed epochs, those before a `resume` included."""
        ...

    @property
    def global_step(self) -> int:
        """Completed steps of the optimizer."""
        ...

    @property
    def best_loss(self) -> float:
        """The least validation loss, or loss, of an epoch so far."""
        ...

    @property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """The logs of each completed epoch."""
        ...

    def evaluate(self, test_data: Any, **options: Any) -> dict[str, float]:
        """Return loss and metrics over some data; nothing learns from it."""
        ...

    def predict(self, inputs: Any) -> Any:
        """Return what the model gives."""
        ...

    def save(self, path: str | os.PathLike[str]) -> Any:
        """Write a checkpoint."""
        ...

    def stop(self, reason: str = "") -> None:
        """End `fit` after the epoch under way."""
        ...


class Callback:
    """Base class of what follows training; every method does nothing until it is overridden.

    A subclass overrides what it needs, and need not call ``super().__init__()``. Epochs are counted
    from 0 and go on after `AESGTrainer.resume`; batches are counted from 0 within their epoch.

    An exception ends the training, naming class and hook: an `AESGError` keeps its type, any other
    becomes an `AESGTrainingError`. A KeyboardInterrupt is what Ctrl-C would be.

    Attributes
    ----------
    trainer : AESGTrainer or None
        The one that calls, while its `fit` runs.
    runs_last : bool
        Set on a class whose hooks are to be called behind those of all other callbacks.
    """

    trainer: Trainer | None = None
    runs_last = False

    def on_train_start(self, logs: Logs) -> None:
        """Begin, before the first epoch.

        Parameters
        ----------
        logs : dict
            ``"epochs"`` to come, ``"batches"`` of each where that is known, and
            ``"validation"``, whether there is any.
        """

    def on_train_end(self, logs: Logs) -> None:
        """End, after the last epoch, an early stop or an interrupt; not after an error.

        Parameters
        ----------
        logs : dict
            That of the last epoch, ``"interrupted"`` and ``"stopped"``; after an early stop its
            ``"reason"``.
        """

    def on_epoch_start(self, epoch: int, logs: Logs) -> None:
        """Begin an epoch.

        Parameters
        ----------
        epoch : int
            Counted from 0.
        logs : dict
            Empty.
        """

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """End an epoch, with its validation.

        Parameters
        ----------
        epoch : int
            Counted from 0.
        logs : dict
            ``"loss"``, ``"epoch"`` (completed ones), ``"global_step"``, ``"learning_rate"``,
            ``"seconds"`` and ``"samples"``; with validation data ``"val_loss"`` and
            ``"val_<metric>"``; with a memory ``"concepts"``, ``"edges"``, ``"provisional"``,
            ``"births"``, ``"prunes"`` and ``"retrieval_ms"``.
        """

    def on_batch_start(self, batch: int, logs: Logs) -> None:
        """Begin a batch.

        Parameters
        ----------
        batch : int
            Counted from 0 within the epoch.
        logs : dict
            Empty.
        """

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        """End a batch.

        Parameters
        ----------
        batch : int
            Counted from 0 within the epoch.
        logs : dict
            ``"loss"``, ``"samples"`` and ``"global_step"``.
        """

    def teardown(self, error: BaseException | None) -> None:
        """Let go of files and the like: `fit` is left, behind all other hooks, whatever happened.

        Parameters
        ----------
        error : BaseException or None
            What ended `fit`, if something did.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of this callback: tensors and plain containers."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Parameters
        ----------
        state : mapping
            As `state_dict` returned it.
        """


class Callbacks(MutableSequence[Callback]):
    """A list of callbacks, called in its order, but for those that run last.

    Parameters
    ----------
    callbacks : iterable of Callback, optional

    Raises
    ------
    AESGTrainingError
        If an entry is no `Callback`, or is there already; here and wherever one is added.
    """

    def __init__(self, callbacks: Iterable[Callback] | None = None) -> None:
        self._all: list[Callback] = []
        self._attached: list[Callback] | None = None
        if isinstance(callbacks, Callback):
            raise AESGTrainingError(
                f"callbacks: expected a list of callbacks, got one {_name(callbacks)}: write "
                f"[{_name(callbacks)}(...)]"
            )
        if callbacks is not None and not isinstance(callbacks, Iterable):
            raise AESGTrainingError(
                f"callbacks: expected a list of callbacks, got {_described(callbacks)}"
            )
        self.extend(callbacks or ())

    def __len__(self) -> int:
        return len(self._all)

    def __repr__(self) -> str:
        return f"Callbacks({self._all!r})"

    @overload
    def __getitem__(self, index: int) -> Callback: ...

    @overload
    def __getitem__(self, index: slice) -> list[Callback]: ...

    def __getitem__(self, index: int | slice) -> Callback | list[Callback]:
        """Return one callback, or several as a list."""
        return self._all[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        """Replace one callback, or several."""
        changed = self._all.copy()
        changed[index] = value
        self._all = _checked(changed)

    def __delitem__(self, index: int | slice) -> None:
        """Remove one callback, or several."""
        del self._all[index]

    def insert(self, index: int, value: Callback) -> None:
        """Put a callback before another.

        Parameters
        ----------
        index : int
            Of the other one.
        value : Callback
        """
        changed = self._all.copy()
        changed.insert(index, value)
        self._all = _checked(changed)

    @contextmanager
    def attached(self, trainer: Any) -> Iterator[None]:
        """Set ``trainer`` of each callback for a block, and tear all down at its end.

        Parameters
        ----------
        trainer : AESGTrainer
        """
        called = list(self._all)  # one that is added meanwhile waits for the next `fit`
        self._attached = called
        for each in called:
            each.trainer = trainer
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:
            failure = error
            raise
        finally:
            try:
                _teardown(called, failure)
            finally:
                self._attached = None
                for each in called:
                    each.trainer = None

    def on_train_start(self, logs: Logs) -> None:
        """Call this hook of each; see `Callback.on_train_start`."""
        self._call("on_train_start", logs)

    def on_train_end(self, logs: Logs) -> None:
        """Call this hook of each; see `Callback.on_train_end`."""
        self._call("on_train_end", logs)

    def on_epoch_start(self, epoch: int, logs: Logs) -> None:
        """Call this hook of each; see `Callback.on_epoch_start`."""
        self._call("on_epoch_start", epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Call this hook of each; see `Callback.on_epoch_end`."""
        self._call("on_epoch_end", epoch, logs)

    def on_batch_start(self, batch: int, logs: Logs) -> None:
        """Call this hook of each; see `Callback.on_batch_start`."""
        self._call("on_batch_start", batch, logs)

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        """Call this hook of each; see `Callback.on_batch_end`."""
        self._call("on_batch_end", batch, logs)

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the class and the state of each callback, in order."""
        return [{"class": _name(each), "state": _run(each, "state_dict")} for each in self._all]

    def load_state_dict(self, states: Iterable[Mapping[str, Any]]) -> None:
        """Give each callback the state of its class: the first one the first, and so on.

        Parameters
        ----------
        states : iterable of mapping
            As `state_dict` returned them. A callback without one stays as it is, and a state whose
            callback is gone is left out.
        """
        waiting = list(states)
        for each in self._all:
            classes = [state["class"] for state in waiting]
            if _name(each) in classes:
                mine = waiting.pop(classes.index(_name(each)))
                _run(each, "load_state_dict", mine["state"])

    def _call(self, hook: str, *arguments: Any) -> None:
        called = self._all if self._attached is None else self._attached
        for each in sorted(called, key=lambda callback: callback.runs_last):
            _run(each, hook, *arguments)


def _run(callback: Callback, method: str, *arguments: Any) -> Any:
    """Call a method, and let an exception name whose it was."""
    try:
        return getattr(callback, method)(*arguments)
    except AESGError as error:
        message = f"{_name(callback)}.{method}: {error.message}"
        # The same object: a subclass may take other arguments than a message.
        error.message = AESGError(message, error.subsystem).message
        error.args = (error.message, *error.args[1:])
        raise
    except Exception as error:
        raise AESGTrainingError(
            f"{_name(callback)}.{method}: {type(error).__name__}: {error}"
        ) from error


def _teardown(callbacks: Iterable[Callback], failure: BaseException | None) -> None:
    """Tear all down; raise the first error, unless another is under way."""
    first: AESGError | None = None
    for each in callbacks:
        try:
            _run(each, "teardown", failure)
        except AESGError as error:
            if failure is not None or first is not None:
                _log.warning("%s", error)
            else:
                first = error
    if first is not None:
        raise first


def _checked(callbacks: list[Any]) -> list[Callback]:
    seen: dict[int, int] = {}
    for position, each in enumerate(callbacks):
        if not isinstance(each, Callback):
            raise AESGTrainingError(
                f"callbacks[{position}]: expected a Callback, got {_described(each)}"
            )
        if id(each) in seen:
            raise AESGTrainingError(
                f"callbacks[{position}]: expected another {_name(each)}, got the one that is "
                f"callbacks[{seen[id(each)]}] already"
            )
        seen[id(each)] = position
    return callbacks


def _described(given: Any) -> str:
    """Say what stands where a callback should, and what was probably meant."""
    if isinstance(given, type):
        if issubclass(given, Callback):
            return f"the class {given.__name__}: write {given.__name__}(...)"
        return f"the class {given.__name__}, which is no subclass of Callback"
    if callable(given) and hasattr(given, "__name__"):
        return f"the function {given.__name__}: make it a method of a subclass of Callback"
    return f"{type(given).__name__} {given!r:.80}"


def _name(callback: Callback) -> str:
    return type(callback).__name__
