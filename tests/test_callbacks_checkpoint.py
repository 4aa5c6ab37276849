from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from aesg.callbacks import Callback, Checkpoint, EarlyStopping
from aesg.checkpoint.contents import REQUIRED
from aesg.errors import AESGStorageError, AESGTrainingError
from aesg.models import AESGDecoderLM
from aesg.trainer import AESGTrainer
from tests.callback_runs import Run, losses, remove_until_killed, small_memory
from tests.memory_processes import child

PLACE = "checkpoints"


def kept(path: str = PLACE) -> list[str]:
    """Return what is in the folder of checkpoints, hidden files too."""
    return sorted(os.listdir(path))


def epochs(*numbers: int) -> list[str]:
    return [f"epoch_{number}" for number in numbers]


def test_every_second_epoch_is_saved() -> None:
    Run(Checkpoint(save_every=2, path="./checkpoints")).fit(losses(*[1.0] * 5))
    assert kept() == epochs(2, 4)


def test_by_default_every_epoch_is_saved() -> None:
    Run(Checkpoint()).fit(losses(1.0, 1.0, 1.0))
    assert kept() == epochs(1, 2, 3)


@pytest.mark.parametrize(
    ("values", "options", "left"),
    [
        ([1, 1, 1, 1], {"keep_last": 1}, epochs(4)),
        ([1, 1, 1, 1], {"keep_last": 3}, epochs(2, 3, 4)),
        ([1, 1, 1, 1], {"keep_last": 9}, epochs(1, 2, 3, 4)),
        ([1] * 7, {"keep_last": 2, "save_every": 2}, epochs(4, 6)),
        ([4, 1, 3, 2], {"keep_last": 1, "keep_best": True}, ["best", *epochs(2, 4)]),
        ([4, 3, 2, 1], {"keep_last": 1, "keep_best": True}, ["best", *epochs(4)]),
        ([4, 1, 3, 2], {"keep_best": True}, ["best", *epochs(1, 2, 3, 4)]),
        ([4, 3, 1, 2, 2], {"keep_best": True, "save_every": 2}, ["best", *epochs(2, 3, 4)]),
        ([4, 3, 2, 3], {"keep_best": True, "save_every": 9}, ["best", *epochs(3)]),
        ([1, 2, 3], {"keep_best": True, "save_every": 9, "mode": "max"}, ["best", *epochs(3)]),
        ([1, float("nan")], {"keep_best": True, "save_every": 9}, ["best", *epochs(1)]),
    ],
)
def test_what_is_kept(values: list[float], options: dict[str, Any], left: list[str]) -> None:
    Run(Checkpoint(**options)).fit(losses(*values))
    assert kept() == left


def test_best_leads_to_the_best_also_when_the_folder_has_been_moved() -> None:
    callback = Checkpoint(keep_last=1, keep_best=True)
    run = Run(callback)
    run.fit(losses(3.0, 1.0, 2.0))
    assert callback.best_path == Path.cwd() / PLACE / "epoch_2"
    os.rename(PLACE, "elsewhere")
    assert json.loads(Path("elsewhere/best/training_state.json").read_text()) == {"epoch": 2}


def test_the_path_stays_when_the_program_goes_to_another_folder(tmp_path: Path) -> None:
    run = Run(Checkpoint(path="here"))
    (tmp_path / "other").mkdir()
    os.chdir(tmp_path / "other")
    run.fit(losses(1.0))
    assert kept(str(tmp_path / "here")) == epochs(1)


def test_what_it_did_not_write_stays(caplog: pytest.LogCaptureFixture) -> None:
    Run(Checkpoint()).fit(losses(*[1.0] * 4))
    Path(PLACE, "notes.txt").write_text("mine")
    Path(PLACE, "epoch_zero").mkdir()
    with caplog.at_level(logging.WARNING):
        Run(Checkpoint(keep_last=1)).fit(losses(1.0, 1.0))
    assert kept() == [*epochs(2, 3, 4), "epoch_zero", "notes.txt"]
    assert "holds checkpoints of an earlier training, from epoch_1 on" in caplog.text


@pytest.mark.parametrize(
    "replace",
    [
        lambda folder: folder.symlink_to("../elsewhere"),
        lambda folder: folder.mkdir(),
        lambda folder: folder.write_text("mine"),
    ],
    ids=["link", "folder", "file"],
)
def test_what_took_the_place_of_a_checkpoint_stays(replace: Callable[[Path], object]) -> None:
    Run().save("elsewhere")

    class Replacing(Callback):
        def on_epoch_start(self, epoch: int, logs: dict[str, Any]) -> None:
            if epoch == 1:
                shutil.rmtree("checkpoints/epoch_1")
                replace(Path("checkpoints/epoch_1"))

    Run(Replacing(), Checkpoint(keep_last=1)).fit(losses(1.0, 1.0, 1.0))
    assert kept() == epochs(1, 3)
    assert kept("elsewhere") == sorted(REQUIRED)


def test_a_checkpoint_with_notes_of_somebody_in_it_stays(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(Checkpoint(keep_last=1))
    run.fit(losses(1.0))
    Path(PLACE, "epoch_1", "NOTES.txt").write_text("mine")
    with caplog.at_level(logging.WARNING):
        run.fit(losses(1.0))
    assert Path(PLACE, "epoch_1", "NOTES.txt").read_text() == "mine"
    assert "stays" in caplog.text and "NOTES.txt" in caplog.text


def test_a_checkpoint_that_somebody_removed_is_not_missed() -> None:
    class Removing(Callback):
        def on_epoch_start(self, epoch: int, logs: dict[str, Any]) -> None:
            if epoch == 1:
                shutil.rmtree("checkpoints/epoch_1")

    Run(Removing(), Checkpoint(keep_last=1)).fit(losses(1.0, 1.0, 1.0))
    assert kept() == epochs(3)


def resumed(state: list[dict[str, Any]], epoch: int, *callbacks: Callback) -> Run:
    run = Run(*callbacks, epoch=epoch)
    run.callbacks.load_state_dict(state)
    return run


def test_a_resumed_training_removes_what_the_first_one_wrote() -> None:
    options: dict[str, Any] = {"keep_last": 2, "keep_best": True}
    first = Run(Checkpoint(**options))
    first.fit(losses(3.0, 1.0, 2.0, 2.0))
    assert kept() == ["best", *epochs(2, 3, 4)]
    second = resumed(first.callbacks.state_dict(), 4, Checkpoint(**options))
    second.fit(losses(2.0))
    assert kept() == ["best", *epochs(2, 4, 5)]
    second.fit(losses(0.5))
    assert kept() == ["best", *epochs(5, 6)]
    assert os.readlink("checkpoints/best") == "epoch_6"


def test_the_state_in_a_checkpoint_counts_that_checkpoint() -> None:
    states: list[Any] = []

    class SavingRun(Run):
        def save(self, path: str | os.PathLike[str]) -> None:
            super().save(path)
            states.append(self.callbacks.state_dict())

    SavingRun(Checkpoint(keep_last=1, keep_best=True)).fit(losses(2.0, 1.0))
    assert [each[0]["state"]["written"] for each in states] == [[1], [1, 2]]
    assert [each[0]["state"]["best"] for each in states] == [1, 2]
    resumed(states[1], 2, Checkpoint(keep_last=1, keep_best=True)).fit(losses(3.0))
    assert kept() == ["best", *epochs(2, 3)]


def test_best_leads_back_when_a_resumed_training_drops_a_later_best() -> None:
    run = Run(Checkpoint(keep_best=True))
    run.fit(losses(3.0, 2.0))
    state = run.callbacks.state_dict()
    run.fit(losses(1.0))
    assert os.readlink("checkpoints/best") == "epoch_3"
    resumed(state, 2, Checkpoint(keep_best=True)).fit(losses(5.0))
    assert os.readlink("checkpoints/best") == "epoch_2"


def test_a_resumed_training_with_another_path_leaves_the_first_alone() -> None:
    first = Run(Checkpoint(path="first", keep_last=1))
    first.fit(losses(1.0, 1.0))
    Run(Checkpoint(path="second")).fit(losses(1.0, 1.0))
    resumed(first.callbacks.state_dict(), 2, Checkpoint(path="second", keep_last=1)).fit(losses(1))
    assert kept("first") == epochs(2)
    assert kept("second") == epochs(1, 2, 3)


def test_a_checkpoint_that_cannot_be_saved_ends_training_and_leaves_the_others() -> None:
    class FullRun(Run):
        def save(self, path: str | os.PathLike[str]) -> None:
            if self.epoch == 2:
                raise AESGStorageError("Failed to save: no space left on device")
            super().save(path)

    callback = Checkpoint(keep_last=1, keep_best=True)
    run = FullRun(callback)
    with pytest.raises(AESGStorageError, match=r"Checkpoint.on_epoch_end: Failed to save: no sp"):
        run.fit(losses(2.0, 1.0))
    assert kept() == ["best", *epochs(1)]
    assert callback.state_dict()["written"] == [1]
    assert callback.best_path == Path(PLACE, "epoch_1").resolve()
    run.fit(losses(1.5))
    assert kept() == ["best", *epochs(3)]


def test_a_checkpoint_that_cannot_be_removed_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(source: object, target: object) -> None:
        raise PermissionError(13, "Permission denied")

    run = Run(Checkpoint(keep_last=1))
    run.fit(losses(1.0))
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(os, "rename", refuse)
        run.fit(losses(1.0))
    assert kept() == epochs(1, 2)
    assert "epoch_1' stays" in caplog.text


def test_something_else_named_best_is_not_replaced() -> None:
    Path(PLACE).mkdir()
    Path(PLACE, "best").write_text("mine")
    with pytest.raises(AESGStorageError, match=r"expected a link or nothing, found a file"):
        Run(Checkpoint(keep_best=True)).fit(losses(1.0))
    assert Path(PLACE, "best").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"save_every": 0}, "save_every: expected an integer >= 1, got 0"),
        ({"save_every": 1.5}, "save_every: expected an integer >= 1, got 1.5"),
        ({"keep_last": 0}, "keep_last: expected an integer >= 1, got 0"),
        ({"path": ""}, "path: expected the path of a file or folder, got ''"),
        ({"path": None}, "path: expected the path of a file or folder, got None"),
        ({"keep_best": True, "monitor": "concepts"}, "mode: expected 'min' or 'max'"),
        ({"monitor": "val_loss"}, "monitor: expected keep_best=True beside monitor='val_loss'"),
        ({"keep_best": "yes"}, "keep_best: expected True or False, got 'yes'"),
        ({"keep_best": True, "monitor": 3}, "monitor: expected a name of the logs, got 3"),
        ({"keep_best": True, "mode": "best"}, "mode: expected 'auto', 'min' or 'max'"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(options: Any, message: str) -> None:
    with pytest.raises(AESGTrainingError, match=message):
        Checkpoint(**options)


def test_a_best_epoch_by_validation_without_validation_is_an_error_before_the_first() -> None:
    run = Run(Checkpoint(keep_best=True, monitor="val_loss"), validated=False)
    with pytest.raises(AESGTrainingError, match="on_train_start: monitor: expected fit"):
        run.fit(losses(1.0))
    assert not Path(PLACE).exists()


def test_the_newest_is_the_one_that_was_written_last() -> None:
    assert Checkpoint.newest() is None
    Run(Checkpoint()).fit(losses(*[1.0] * 11))
    assert Checkpoint.newest() == Path(PLACE, "epoch_11").resolve()
    for age, number in enumerate([11, 3, 10]):  # of an earlier run, of this one
        os.utime(f"checkpoints/epoch_{number}/training_state.json", ns=(0, 2 * 10**18 + age))
    assert Checkpoint.newest(PLACE) == Path(PLACE, "epoch_10").resolve()


def test_the_newest_is_whole() -> None:
    Run(Checkpoint()).fit(losses(1.0))
    Path(PLACE, "epoch_2").mkdir()
    Path(PLACE, "epoch_3").write_text("")
    assert Checkpoint.newest() == Path(PLACE, "epoch_1").resolve()


def tiny_lm(directory: str) -> AESGDecoderLM:
    torch.manual_seed(0)
    return AESGDecoderLM.sized(
        vocab_size=12, hidden_size=8, nhead=2, num_layers=1, storage_dir=directory
    )


def tiny_text() -> list[tuple[torch.Tensor, torch.Tensor]]:
    text = torch.randint(0, 12, (8, 7), generator=torch.Generator().manual_seed(1))
    return [(row[:-1], row[1:]) for row in text]


def test_a_model_with_memory_goes_on_from_the_newest_checkpoint() -> None:
    def trainer(model: nn.Module) -> AESGTrainer:
        callbacks = [Checkpoint(keep_last=2, keep_best=True), EarlyStopping()]
        return AESGTrainer(model, callbacks=callbacks, batch_size=4, seed=0)

    whole = trainer(tiny_lm("whole"))
    expected = whole.fit(tiny_text(), epochs=3)
    shutil.rmtree(PLACE)
    trainer(tiny_lm("first")).fit(tiny_text(), epochs=2)
    second = trainer(tiny_lm("second"))
    newest = Checkpoint.newest()
    assert newest is not None
    assert second.resume(newest) == 2
    assert second.fit(tiny_text(), epochs=1) == expected[2:]
    assert second.callbacks.state_dict() == whole.callbacks.state_dict()
    assert kept() == ["best", *epochs(2, 3)]
    second.load("checkpoints/best")
    assert second.epoch == int(os.readlink("checkpoints/best").removeprefix("epoch_"))


def test_the_best_epoch_of_a_model_with_memory_comes_back() -> None:
    class Judging(Callback):
        """Says that the fourth epoch was best, and what was known then."""

        seen: Any = None

        def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
            assert self.trainer is not None
            logs["score"] = -abs(epoch - 3)
            if epoch == 3:
                weights = {n: p.clone() for n, p in self.trainer.model.state_dict().items()}
                self.seen = weights, self.trainer.memory.storage.node_count

    judging = Judging()
    stopping = EarlyStopping(patience=2, monitor="score", mode="max", restore_best=True)
    model = tiny_lm("memory")
    trainer = AESGTrainer(model, callbacks=[judging, stopping], batch_size=4, seed=0)
    assert len(trainer.fit(tiny_text(), epochs=9)) == 6
    weights, concepts = judging.seen
    assert all(torch.equal(each, weights[name]) for name, each in model.state_dict().items())
    assert model.memory.storage.node_count == concepts > 0
    assert sorted(os.listdir()) == ["memory"]


def test_callbacks_that_copy_the_memory_do_not_change_what_is_learned() -> None:
    def losses_with(directory: str, *callbacks: Callback) -> list[float]:
        trainer = AESGTrainer(tiny_lm(directory), callbacks=list(callbacks), batch_size=4, seed=0)
        return trainer.fit(tiny_text(), epochs=4)

    plain = losses_with("plain")
    stopping = EarlyStopping(monitor="concepts", mode="max", restore_best=True)
    assert losses_with("copied", stopping, Checkpoint()) == plain
    assert stopping.best is not None and stopping.best > 0


def test_one_that_followed_another_training_begins_anew() -> None:
    callback = Checkpoint(keep_last=1, keep_best=True)
    Run(callback).fit(losses(0.1, 0.2))
    assert kept() == ["best", *epochs(1, 2)]
    Run(callback).fit(losses(3.0))
    assert kept() == ["best", *epochs(1, 2)]
    assert callback.state_dict()["best_value"] == 3.0


def test_one_that_followed_another_trainer_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    callback = Checkpoint(keep_last=1, keep_best=True)
    first = Run(callback)
    first.fit(losses(0.3, 0.1, 0.2))
    assert kept() == ["best", *epochs(2, 3)]
    with caplog.at_level(logging.WARNING):
        first.fit(losses(0.2))
        assert caplog.text == ""
        Run(callback, epoch=1).fit(losses(3.0, 4.0))
    assert "holds checkpoints of an earlier training, from epoch_2 on" in caplog.text
    assert kept() == ["best", *epochs(2, 3, 4)]
    assert os.readlink("checkpoints/best") == "epoch_2"
    assert callback.state_dict()["best_value"] == 3.0


def test_a_new_one_for_a_trainer_with_epochs_behind_it_tells_what_it_replaces(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Run(Checkpoint()).fit(losses(*[1.0] * 3))
    with caplog.at_level(logging.WARNING):
        Run(Checkpoint(), epoch=3).fit(losses(1.0))
        assert caplog.text == ""
        Run(Checkpoint(), epoch=1).fit(losses(1.0))
    assert "holds checkpoints of an earlier training, from epoch_2 on" in caplog.text


@pytest.mark.parametrize(
    ("directory", "path"), [("memory", "memory/runs"), ("runs/epoch_2/memory", "runs")]
)
def test_a_path_that_is_not_apart_from_the_memory_is_an_error_before_the_first_epoch(
    directory: str, path: str
) -> None:
    run = Run(Checkpoint(path=path), memory=small_memory(directory))
    before = sorted(os.listdir(directory))
    with pytest.raises(AESGStorageError, match=r"on_train_start: .*apart from the memory"):
        run.fit(losses(1.0))
    assert run.epoch == 0
    assert sorted(os.listdir(directory)) == before


def test_two_of_one_path_are_refused() -> None:
    run = Run(Checkpoint(path="a"), Checkpoint(path="b"), Checkpoint(path="./a"))
    with pytest.raises(AESGTrainingError, match="path: expected one of its own for each callback"):
        run.fit(losses(1.0))
    assert os.listdir() == []


def test_a_path_that_cannot_be_written_is_an_error_before_the_first_epoch() -> None:
    Path("taken").write_text("a file")
    run = Run(Checkpoint(path="taken/checkpoints"))
    with pytest.raises(AESGStorageError, match=r"Checkpoint.on_train_start: Failed to write check"):
        run.fit(losses(1.0))
    assert run.epoch == 0


def test_what_a_killed_removal_left_is_gone_after_the_next_save() -> None:
    with child(remove_until_killed, os.path.abspath(PLACE)) as running:
        assert running.next() == "moved"
        running.kill()
    left = kept()
    assert left[1:] == epochs(2)
    assert left[0].startswith(".epoch_1.")
    AESGTrainer(tiny_lm("memory"), callbacks=[Checkpoint()]).save("checkpoints/epoch_3")
    assert kept() == epochs(2, 3)


def test_a_save_that_was_cut_off_between_its_two_steps_is_completed() -> None:
    Run(Checkpoint()).fit(losses(1.0, 1.0))
    os.mkdir("checkpoints/.epoch_2.saving-00000000")
    shutil.copytree("checkpoints/epoch_1", "checkpoints/.epoch_2.saving-00000000/new")
    os.rename("checkpoints/epoch_2", "checkpoints/.epoch_2.saving-00000000/old")
    os.utime("checkpoints/.epoch_2.saving-00000000/new/training_state.json")
    assert Checkpoint.newest() == Path(PLACE, "epoch_2").resolve()
    assert kept() == epochs(1, 2)
