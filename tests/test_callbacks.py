from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from aesg.callbacks import Callback, Callbacks, Checkpoint, EarlyStopping
from aesg.callbacks.base import Trainer
from aesg.errors import AESGConfigError, AESGError, AESGStorageError, AESGTrainingError
from aesg.trainer import AESGTrainer
from tests.callback_runs import Run, losses

HOOKS = (
    "on_train_start",
    "on_epoch_start",
    "on_batch_start",
    "on_batch_end",
    "on_epoch_end",
    "on_train_end",
    "teardown",
)


class Recorder(Callback):
    """Writes down which hook was called with which number; does not call ``super().__init__``."""

    def __init__(self, calls: list[Any], name: str = "") -> None:
        self.calls = calls
        self.name = name

    def _note(self, hook: str, *number: int) -> None:
        self.calls.append((self.name, hook, *number) if self.name else (hook, *number))

    def on_train_start(self, logs: dict[str, Any]) -> None:
        self._note("on_train_start")

    def on_train_end(self, logs: dict[str, Any]) -> None:
        self._note("on_train_end")

    def on_epoch_start(self, epoch: int, logs: dict[str, Any]) -> None:
        self._note("on_epoch_start", epoch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        self._note("on_epoch_end", epoch)

    def on_batch_start(self, batch: int, logs: dict[str, Any]) -> None:
        self._note("on_batch_start", batch)

    def on_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        self._note("on_batch_end", batch)

    def teardown(self, error: BaseException | None) -> None:
        self._note("teardown")


class Failing(Callback):
    """Raises in one hook."""

    def __init__(self, hook: str, error: BaseException) -> None:
        def fail(*arguments: Any) -> None:
            raise error

        setattr(self, hook, fail)


def small_trainer(*callbacks: Callback, **options: Any) -> AESGTrainer:
    with pytest.warns(UserWarning, match="neural-only"):
        return AESGTrainer(nn.Linear(2, 1), callbacks=list(callbacks), **options)


def small_data(samples: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(2), torch.randn(1)) for _ in range(samples)]


def test_a_trainer_calls_the_hooks_in_order() -> None:
    calls: list[Any] = []
    small_trainer(Recorder(calls), batch_size=2).fit(small_data(), epochs=2)
    batches = [(hook, n) for n in (0, 1) for hook in ("on_batch_start", "on_batch_end")]
    epochs = [
        step for n in (0, 1) for step in [("on_epoch_start", n), *batches, ("on_epoch_end", n)]
    ]
    assert calls == [("on_train_start",), *epochs, ("on_train_end",), ("teardown",)]


def test_a_trainer_is_what_callbacks_are_promised() -> None:
    trainer = small_trainer()
    promised = [name for name in vars(Trainer) if not name.startswith("_")]
    assert "evaluate" in promised
    assert [name for name in promised if not hasattr(trainer, name)] == []


def test_a_callback_can_judge_the_model_while_fit_runs() -> None:
    class Judging(Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
            assert self.trainer is not None
            logs["other_loss"] = self.trainer.evaluate(data)["loss"]

    data = small_data()
    stopping = EarlyStopping(monitor="other_loss")
    small_trainer(Judging(), stopping).fit(data)
    assert stopping.best is not None and stopping.best > 0


def test_callbacks_are_called_in_their_order() -> None:
    calls: list[Any] = []
    Run(Recorder(calls, "first"), Recorder(calls, "second")).fit(losses(1.0), batches=[{}])
    by_hook = {hook: [call[0] for call in calls if call[1] == hook] for hook in HOOKS}
    assert by_hook == {hook: ["first", "second"] for hook in HOOKS}


def test_one_that_runs_last_is_called_behind_the_others_wherever_it_stands() -> None:
    class Last(Recorder):
        runs_last = True

    calls: list[Any] = []
    Run(Last(calls, "last"), Recorder(calls, "other")).fit(losses(1.0))
    ends = [name for name, hook, *_ in calls if hook == "on_epoch_end"]
    assert ends == ["other", "last"]


def test_a_checkpoint_has_what_the_callbacks_behind_it_know_of_the_epoch() -> None:
    waited: list[int] = []

    class SavingRun(Run):
        def save(self, path: Any) -> None:
            super().save(path)
            waited.append(self.callbacks.state_dict()[1]["state"]["waited"])

    SavingRun(Checkpoint(), EarlyStopping()).fit(losses(1.0, 2.0, 3.0))
    assert waited == [0, 1, 2]


def test_a_callback_of_one_hook_is_enough() -> None:
    seen: list[float] = []

    class Only(Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
            seen.append(logs["loss"])

    Run(Only()).fit(losses(1.0, 0.5))
    assert seen == [1.0, 0.5]


def test_all_callbacks_of_a_hook_get_the_same_logs() -> None:
    class Adding(Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
            logs["score"] = 10.0 - epoch

    stopping = EarlyStopping(monitor="score", mode="max", patience=1)
    assert Run(Adding(), stopping).fit(losses(1.0, 1.0, 1.0)) == 2


def test_a_callback_has_its_trainer_while_fit_runs() -> None:
    class Watching(Callback):
        seen: Any = None

        def on_train_start(self, logs: dict[str, Any]) -> None:
            self.seen = self.trainer

    watching = Watching()
    run = Run(watching)
    run.fit(losses(1.0))
    assert watching.seen is run
    assert watching.trainer is None


@pytest.mark.parametrize("hook", HOOKS)
def test_an_exception_names_callback_and_hook(hook: str) -> None:
    run = Run(Failing(hook, KeyError("speed")))
    with pytest.raises(AESGTrainingError, match=f"Failing.{hook}: KeyError: 'speed'") as caught:
        run.fit(losses(1.0), batches=[{}])
    assert isinstance(caught.value.__cause__, KeyError)


class ParticularError(AESGError):
    """One that takes other arguments than a message."""

    def __init__(self, path: str, size: int) -> None:
        super().__init__(f"{path} of {size}", "storage")
        self.size = size


@pytest.mark.parametrize(
    "error", [AESGStorageError("disk full"), AESGConfigError("no such"), ParticularError("a", 3)]
)
def test_an_error_of_aesg_keeps_its_type_and_names_callback_and_hook(error: AESGError) -> None:
    message = error.message
    with pytest.raises(type(error)) as caught:
        Run(Failing("on_epoch_end", error)).fit(losses(1.0))
    assert str(caught.value) == caught.value.message == f"Failing.on_epoch_end: {message}"
    assert getattr(caught.value, "size", 3) == 3


def test_a_long_message_still_begins_with_callback_and_hook() -> None:
    with pytest.raises(AESGStorageError) as caught:
        Run(Failing("on_epoch_end", AESGStorageError("x" * 500))).fit(losses(1.0))
    assert caught.value.message.startswith("Failing.on_epoch_end: xxx")
    assert len(caught.value.message) == 500


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_what_is_no_error_passes_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        Run(Failing("on_epoch_end", error)).fit(losses(1.0))
    assert caught.value is error


def test_a_hook_of_other_parameters_is_named() -> None:
    class Odd(Callback):
        def on_epoch_end(self, epoch: int) -> None:  # type: ignore[override]
            """Take too little."""

    with pytest.raises(AESGTrainingError, match=r"Odd.on_epoch_end: TypeError"):
        Run(Odd()).fit(losses(1.0))


def test_all_are_torn_down_whatever_ended_training() -> None:
    seen: list[tuple[str, BaseException | None]] = []

    class Holding(Callback):
        def __init__(self, name: str) -> None:
            self.name = name

        def teardown(self, error: BaseException | None) -> None:
            seen.append((self.name, error))
            raise OSError(f"{self.name} would not close")

    run = Run(Holding("a"), Failing("on_epoch_end", ValueError("bad")), Holding("b"))
    with pytest.raises(AESGTrainingError, match=r"Failing.on_epoch_end: ValueError: bad") as caught:
        run.fit(losses(1.0))
    assert seen == [("a", caught.value), ("b", caught.value)]
    assert all(each.trainer is None for each in run.callbacks)


def test_a_second_error_of_tearing_down_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(*(Failing("teardown", OSError(name)) for name in ("one", "two")))
    with caplog.at_level(logging.WARNING), pytest.raises(AESGTrainingError, match="OSError: one"):
        run.fit(losses(1.0))
    assert "Failing.teardown: OSError: two" in caplog.text


def test_one_that_is_added_while_fit_runs_waits_for_the_next() -> None:
    calls: list[Any] = []

    class Adding(Callback):
        def on_epoch_start(self, epoch: int, logs: dict[str, Any]) -> None:
            if not epoch:
                run.callbacks.append(Recorder(calls))

    run = Run(Adding())
    run.fit(losses(1.0, 1.0))
    assert calls == []
    run.fit(losses(1.0))
    assert ("on_epoch_end", 2) in calls


def test_the_list_can_be_changed_between_trainings() -> None:
    first, second, third = Callback(), EarlyStopping(), Checkpoint()
    callbacks = Callbacks([first])
    callbacks.append(second)
    callbacks += [third]
    assert list(callbacks) == [first, second, third]
    assert callbacks[1:] == [second, third]
    callbacks.remove(first)
    callbacks[0] = first
    del callbacks[1]
    assert list(callbacks) == [first]
    assert repr(callbacks) == f"Callbacks([{first!r}])"


def test_no_callbacks_are_none() -> None:
    assert list(Callbacks()) == list(Callbacks(None)) == list(Callbacks([])) == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (EarlyStopping, r"callbacks\[1\].*the class EarlyStopping: write EarlyStopping\(...\)"),
        (dict, r"callbacks\[1\].*the class dict, which is no subclass of Callback"),
        (print, r"callbacks\[1\].*the function print: make it a method of a subclass"),
        ("EarlyStopping", r"callbacks\[1\]: expected a Callback, got str 'EarlyStopping'"),
        (None, r"callbacks\[1\]: expected a Callback, got NoneType None"),
    ],
)
def test_an_entry_that_is_no_callback_is_refused(entry: Any, message: str) -> None:
    with pytest.raises(AESGTrainingError, match=message):
        Callbacks([Callback(), entry])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Checkpoint(), r"expected a list of callbacks, got one Checkpoint: write \[Checkpoint"),
        (EarlyStopping, "expected a list of callbacks, got the class EarlyStopping"),
        (3, "expected a list of callbacks, got int 3"),
    ],
)
def test_what_is_no_list_is_refused(given: Any, message: str) -> None:
    with pytest.raises(AESGTrainingError, match=message):
        Callbacks(given)


def test_the_same_callback_twice_is_refused_and_changes_nothing() -> None:
    callback = EarlyStopping()
    with pytest.raises(AESGTrainingError, match=r"callbacks\[2\].*that is callbacks\[0\]"):
        Callbacks([callback, Callback(), callback])
    callbacks = Callbacks([callback, Checkpoint()])
    changes: list[Callable[[], object]] = [
        lambda: callbacks.append(callback),
        lambda: callbacks.insert(0, callback),
        lambda: callbacks.__setitem__(1, callback),
    ]
    for change in changes:
        with pytest.raises(AESGTrainingError, match="expected another EarlyStopping"):
            change()
    assert len(callbacks) == 2


class Counting(Callback):
    """Has a state."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: Any) -> None:
        self.count = state["count"]


def counting(*counts: int) -> Callbacks:
    callbacks = [Counting() for _ in counts]
    for each, count in zip(callbacks, counts, strict=True):
        each.count = count
    return Callbacks([Callback(), *callbacks])


def test_states_go_to_callbacks_of_their_class_in_order() -> None:
    target = Callbacks([Counting(), EarlyStopping(), Counting()])
    target.load_state_dict(counting(5, 7).state_dict())
    assert [each.count for each in target if isinstance(each, Counting)] == [5, 7]


def test_a_state_too_many_and_a_callback_too_many_are_passed_over() -> None:
    fewer = counting(0)
    fewer.load_state_dict(counting(5, 7).state_dict())
    more = counting(0, 9)
    more.load_state_dict(counting(5).state_dict())
    assert [each.state_dict() for each in fewer] == [{}, {"count": 5}]
    assert [each.state_dict() for each in more] == [{}, {"count": 5}, {"count": 9}]


def test_a_state_that_does_not_fit_names_the_callback() -> None:
    with pytest.raises(AESGTrainingError, match=r"Counting.load_state_dict: KeyError: 'count'"):
        counting(1).load_state_dict([{"class": "Counting", "state": {}}])
