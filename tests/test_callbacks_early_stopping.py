from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from aesg.callbacks import Callback, EarlyStopping
from aesg.errors import AESGStorageError, AESGTrainingError
from aesg.memory import AESGMemory
from storage_backends.errors import StoreReadOnlyError
from tests.callback_runs import Run, keep_best, losses, small_memory
from tests.memory_processes import child

NAN = math.nan


@pytest.mark.parametrize(
    ("values", "options", "epochs"),
    [
        ([3, 2, 1, 1, 1, 1], {"patience": 2}, 5),
        ([3, 3, 3, 2, 3, 3, 3, 3], {"patience": 3}, 7),
        ([1, 2, 3], {"patience": 1}, 2),
        ([3, 2, 1, 0], {"patience": 1}, 4),
        ([1.0, 0.95, 0.91, 0.8], {"patience": 2, "min_delta": 0.1}, 3),
        ([1.0, 0.95, 0.85, 0.7], {"patience": 2, "min_delta": 0.1}, 4),
        ([1, 2, 3, 3, 3, 3], {"patience": 2, "mode": "max"}, 5),
        ([NAN, NAN, NAN], {"patience": 2}, 2),
        ([1, NAN, NAN, 0.5], {"patience": 2}, 3),
        ([NAN, math.inf, 5, 4], {"patience": 2}, 4),
    ],
)
def test_it_stops_when_the_loss_was_not_better_for_patience_epochs(
    values: list[float], options: dict[str, Any], epochs: int
) -> None:
    assert Run(EarlyStopping(**options)).fit(losses(*values)) == epochs


def test_the_default_waits_five_epochs_for_a_smaller_loss() -> None:
    assert Run(EarlyStopping()).fit(losses(1.0, *[1.0] * 9)) == 6


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("loss", "min"),
        ("val_loss", "min"),
        ("val_perplexity", "min"),
        ("val_accuracy", "max"),
        ("val_f1", "max"),
        ("val_rouge1", "max"),
        ("psnr", "max"),
        ("val_ssim", "max"),
    ],
)
def test_the_name_tells_which_is_better(name: str, mode: str) -> None:
    better, worse = (1.0, 2.0) if mode == "min" else (2.0, 1.0)
    callback = EarlyStopping(patience=1, monitor=name)
    assert Run(callback).fit([{name: better}, {name: worse}, {name: worse}]) == 2
    assert callback.best == better
    assert Run(EarlyStopping(patience=1, monitor=name)).fit([{name: worse}, {name: better}]) == 2
    assert callback.best_epoch == 0


@pytest.mark.parametrize("name", ["concepts", "my_score", "loss_accuracy"])
def test_a_name_that_does_not_tell_needs_a_mode(name: str) -> None:
    with pytest.raises(AESGTrainingError, match=f"mode: expected 'min' or 'max', as '{name}'"):
        EarlyStopping(monitor=name)
    EarlyStopping(monitor=name, mode="max")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "patience: expected an integer >= 1, got 0"),
        ({"patience": 2.5}, "patience: expected an integer >= 1, got 2.5"),
        ({"mode": "minimum"}, "mode: expected 'auto', 'min' or 'max', got 'minimum'"),
        ({"min_delta": -0.1}, "min_delta: expected a finite number of at least 0, got -0.1"),
        ({"min_delta": NAN}, "min_delta"),
        ({"min_delta": "small"}, "min_delta"),
        ({"monitor": ""}, "monitor: expected a name of the logs, got ''"),
        ({"monitor": None}, "monitor: expected a name of the logs, got None"),
        ({"restore_best": "yes"}, "restore_best: expected True or False, got 'yes'"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(options: Any, message: str) -> None:
    with pytest.raises(AESGTrainingError, match=message):
        EarlyStopping(**options)


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(AESGTrainingError) as caught:
        Run(EarlyStopping(monitor="val_loss")).fit([{"loss": 1.0, "edges": 3}])
    assert "EarlyStopping.on_epoch_end: monitor: expected a number 'val_loss'" in str(caught.value)
    assert "got loss, edges, epoch" in str(caught.value)


def test_a_number_of_validation_without_validation_is_an_error_before_the_first_epoch() -> None:
    run = Run(EarlyStopping(monitor="val_loss"), validated=False)
    with pytest.raises(AESGTrainingError, match="on_train_start: monitor: expected fit"):
        run.fit(losses(1.0))
    assert run.epoch == 0
    assert Run(EarlyStopping(), validated=False).fit(losses(1.0)) == 1


def test_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(AESGTrainingError, match="got str 'low' of edges, epoch"):
        Run(EarlyStopping()).fit([{"loss": "low", "edges": 3}])


@pytest.mark.parametrize("number", [torch.tensor(1.0), np.float32(1.0), np.array(1.0)])
def test_numbers_of_torch_and_numpy_are_numbers(number: Any) -> None:
    callback = EarlyStopping()
    Run(callback).fit([{"loss": number}])
    assert callback.best == 1.0


def test_the_trainer_is_told_why_it_stops() -> None:
    run = Run(EarlyStopping(patience=2))
    run.fit(losses(0.5, 0.7, 0.6))
    assert run.reasons == ["loss was not better than 0.5 in epoch 1, for 2 epochs"]
    run = Run(EarlyStopping(patience=1))
    run.fit(losses(NAN))
    assert run.reasons == ["loss was never a number, for 1 epochs"]


def test_training_that_was_stopped_can_go_on_for_as_long_again() -> None:
    run = Run(EarlyStopping(patience=2))
    run.fit(losses(1.0, 2.0, 2.0))
    assert run.fit(losses(2.0, 2.0, 2.0)) == 3 + 2


def test_a_resumed_training_stops_where_it_would_have_stopped() -> None:
    values = losses(1.0, 2.0, 0.9, 2.0, 2.0, 2.0, 0.5)
    whole = Run(EarlyStopping(patience=3)).fit(values)
    assert whole == 6
    for cut in range(1, whole):
        first = Run(EarlyStopping(patience=3))
        first.fit(values[:cut])
        second = Run(EarlyStopping(patience=3), epoch=cut)
        second.callbacks.load_state_dict(first.callbacks.state_dict())
        assert second.fit(values[cut:]) == whole


def best_epoch_back(**options: Any) -> EarlyStopping:
    return EarlyStopping(patience=2, restore_best=True, **options)


def test_without_restore_best_the_last_weights_stay() -> None:
    run = Run(EarlyStopping(patience=2))
    run.fit(losses(2.0, 1.0, 3.0, 3.0))
    assert run.weight == 4


@pytest.mark.parametrize("values", [(2, 1, 3, 3), (2, 1, 3)])
def test_the_best_weights_come_back_however_training_ends(values: tuple[float, ...]) -> None:
    run = Run(best_epoch_back())
    run.fit(losses(*values))
    assert run.weight == 2


def test_the_best_weights_come_back_after_an_interrupt_in_the_epoch_behind_them() -> None:
    class PartOfAnEpoch(Callback):
        def on_train_end(self, logs: dict[str, Any]) -> None:
            torch.nn.init.constant_(run.model.weight, 99.0)

    run = Run(PartOfAnEpoch(), best_epoch_back())
    run.fit(losses(2.0, 1.0), interrupted=True)
    assert run.weight == 2


def test_an_error_leaves_the_weights_as_they_are() -> None:
    run = Run(best_epoch_back(monitor="loss"))
    with pytest.raises(AESGTrainingError):
        run.fit([*losses(1.0, 2.0), {"epoch": 3}])
    assert run.weight == 3


def test_the_best_of_all_trainings_comes_back() -> None:
    run = Run(best_epoch_back())
    run.fit(losses(2.0, 1.0, 3.0, 3.0))  # ends with the weights of epoch 2
    run.fit(losses(1.5, 1.5))
    assert run.weight == 2
    run.fit(losses(0.5, 1.5))
    assert run.weight == 7


def test_what_an_optimizer_holds_stays_bound_to_the_weights() -> None:
    run = Run(best_epoch_back())
    run.fit(losses(1.0, 3.0, 3.0))
    run.model.weight.grad = torch.ones_like(run.model.weight)
    run.optimizer.step()
    assert run.weight == pytest.approx(0.9)


def test_a_best_epoch_that_is_not_at_hand_any_more_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = Run(best_epoch_back(), epoch=5)
    state = {"best": 0.5, "best_epoch": 2, "best_at": 3, "waited": 0, "snapshot": {}}
    run.callbacks[0].load_state_dict(state)
    with caplog.at_level(logging.WARNING):
        run.fit(losses(0.8))
    assert run.weight == 6
    assert "epoch 3 was best, before this training began: nothing is restored" in caplog.text


def test_a_memory_that_cannot_be_copied_is_said() -> None:
    with pytest.warns(UserWarning, match="only weights go back to the best epoch, as object has"):
        Run(best_epoch_back(), memory=object()).fit(losses(1.0))


class Learning(Callback):
    """Tells the memory one more outcome in each epoch."""

    def on_epoch_start(self, epoch: int, logs: dict[str, Any]) -> None:
        assert self.trainer is not None
        key = torch.zeros(1, 4)
        key[0, epoch % 4] = 1.0
        self.trainer.memory.remember(key, [epoch + 1])


def outcomes(memory: AESGMemory) -> list[int]:
    """Return the values of all concepts, in order."""
    memory.set_mode("INFERENCE")
    context = memory.retrieve(torch.eye(4))
    return sorted({int(each) for each in context.value_ids[context.mask]})


def test_the_memory_goes_back_to_the_best_epoch_too(tmp_path: Path) -> None:
    memory = small_memory(tmp_path / "memory")
    run = Run(Learning(), best_epoch_back(), memory=memory)
    run.fit(losses(2.0, 1.0, 3.0, 3.0))
    assert run.weight == 2
    assert outcomes(memory) == [1, 2]
    assert os.listdir(tmp_path) == ["memory"]


@pytest.mark.parametrize("call", [AESGMemory.restore, torch.nn.Module.load_state_dict])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_interrupt_leaves_weights_and_memory_of_one_epoch(
    tmp_path: Path, call: Callable[..., Any], moment: str
) -> None:
    calls = iter(range(9))

    def interrupted(*arguments: Any, **options: Any) -> Any:
        first = next(calls) == 0
        if first and moment == "before":
            raise KeyboardInterrupt
        call(*arguments, **options)
        if first:
            raise KeyboardInterrupt

    memory = small_memory(tmp_path / "memory")
    run = Run(Learning(), best_epoch_back(), memory=memory)
    owner = AESGMemory if call is AESGMemory.restore else torch.nn.Module
    with patch.object(owner, call.__name__, interrupted), pytest.raises(KeyboardInterrupt):
        run.fit(losses(2.0, 1.0, 3.0, 3.0))
    assert next(calls) > 0
    whole = {"restored": (2.0, [1, 2]), "as before": (4.0, [1, 2, 3, 4])}
    restored = owner is AESGMemory and moment == "after"
    assert (run.weight, outcomes(memory)) == whole["restored" if restored else "as before"]
    assert os.listdir(tmp_path) == ["memory"]


def test_however_often_ctrl_c_comes_while_the_best_epoch_comes_back_it_waits(
    tmp_path: Path,
) -> None:
    real = AESGMemory.restore

    def restore(memory: AESGMemory, source: Path) -> None:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        real(memory, source)

    memory = small_memory(tmp_path / "memory")
    run = Run(Learning(), best_epoch_back(), memory=memory)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with patch.object(AESGMemory, "restore", restore), pytest.raises(KeyboardInterrupt):
            run.fit(losses(2.0, 1.0, 3.0, 3.0))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert (run.weight, outcomes(memory)) == (2.0, [1, 2])


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_the_copy_of_the_memory_is_removed_after_an_error(
    tmp_path: Path, error: BaseException
) -> None:
    class Failing(Callback):
        def on_epoch_start(self, epoch: int, logs: dict[str, Any]) -> None:
            if epoch == 2:
                assert len(os.listdir(tmp_path)) == 2
                raise error

    memory = small_memory(tmp_path / "memory")
    run = Run(Learning(), best_epoch_back(), Failing(), memory=memory)
    with pytest.raises((AESGTrainingError, KeyboardInterrupt)):
        run.fit(losses(2.0, 1.0, 0.5))
    assert os.listdir(tmp_path) == ["memory"]
    assert len(outcomes(memory)) == 3


def test_a_resumed_training_goes_back_to_an_epoch_before_it(tmp_path: Path) -> None:
    states: list[Any] = []

    class Keeping(Callback):
        runs_last = True

        def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
            states.append(run.callbacks.state_dict())

    run = Run(Learning(), best_epoch_back(), Keeping(), memory=small_memory(tmp_path / "first"))
    run.fit(losses(2.0, 1.0, 3.0))
    torch.save(states[-1], tmp_path / "state.pt")
    again = small_memory(tmp_path / "second")
    resumed = Run(Learning(), best_epoch_back(), memory=again, epoch=3)
    resumed.callbacks.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed.callbacks.state_dict()[1]["state"]["snapshot"]["memory"]
    resumed.fit(losses(3.0))
    assert resumed.weight == 2
    assert outcomes(again) == [1, 2]


def test_a_copy_that_cannot_be_made_is_an_error_before_the_first_epoch(tmp_path: Path) -> None:
    memory = small_memory(tmp_path / "memory")
    run = Run(best_epoch_back(), memory=memory)
    refusal = StoreReadOnlyError("read-only file system")
    with (
        patch("aesg.callbacks.snapshot.workplace", side_effect=refusal),
        pytest.raises(AESGStorageError, match=r"on_train_start: Failed to make a folder beside"),
    ):
        run.fit(losses(1.0))
    assert run.epoch == 0


def test_a_file_outside_of_the_copy_is_refused(tmp_path: Path) -> None:
    snapshot = {"weights": {}, "memory": {"../escaped": torch.zeros(3, dtype=torch.uint8)}}
    state = {"best": 1.0, "best_epoch": 0, "best_at": 1, "waited": 0, "snapshot": snapshot}
    run = Run(best_epoch_back(), memory=small_memory(tmp_path / "memory"), epoch=2)
    run.callbacks[0].load_state_dict(state)
    with pytest.raises(AESGStorageError, match=r"expected a file of a memory, got '../escaped'"):
        run.fit(losses(1.0))
    assert os.listdir(tmp_path) == ["memory"]


def test_the_next_training_removes_the_copy_of_one_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    with child(keep_best, str(path)) as running:
        assert running.next() == "kept"
        assert len(os.listdir(tmp_path)) == 2
        running.kill()
    assert len(os.listdir(tmp_path)) == 2
    Run(best_epoch_back(), memory=small_memory(path)).fit(losses(1.0))
    assert os.listdir(tmp_path) == ["memory"]


def test_one_that_followed_another_training_begins_anew() -> None:
    callback = EarlyStopping(patience=3)
    Run(callback).fit(losses(0.1, 0.2, 0.2))
    assert Run(callback).fit(losses(5.0, 6.0, 6.0, 6.0)) == 4
    assert (callback.best, callback.best_epoch) == (5.0, 0)


def test_one_that_followed_another_trainer_begins_anew() -> None:
    callback = EarlyStopping(patience=3)
    Run(callback).fit(losses(0.1, 0.2, 0.2))
    assert Run(callback, epoch=3).fit(losses(5.0, 6.0, 6.0, 6.0)) == 7
    assert (callback.best, callback.best_epoch) == (5.0, 3)


def test_a_best_epoch_that_was_given_up_counts_no_more() -> None:
    run = Run(EarlyStopping(patience=2))
    run.fit(losses(3.0, 2.0, 1.0))
    run.epoch = 2  # as by `load` of an earlier checkpoint
    assert run.fit(losses(2.5, 2.5, 2.5, 2.5)) == 5
    assert run.reasons == ["loss was not better than 2.5 in epoch 3, for 2 epochs"]


def test_training_that_goes_on_from_the_best_epoch_keeps_it_as_the_best() -> None:
    run = Run(best_epoch_back())
    run.fit(losses(3.0, 1.0, 2.0))
    run.epoch = 2
    assert run.fit(losses(1.5, 1.5, 1.5)) == 4
    assert run.callbacks.state_dict()[0]["state"]["best_epoch"] == 1
