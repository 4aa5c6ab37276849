"""A checkpoint brings a trainer back: all of it, or nothing of it."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR, OneCycleLR

from aesg import (
    AESGConfig,
    AESGMemory,
    AESGStorageError,
    AESGTrainer,
    AESGTrainingError,
)
from aesg.checkpoint import load_checkpoint, save_checkpoint
from tests.checkpoint_build import (
    FILES,
    differences,
    language_model,
    memory_of,
    neural,
    pairs,
    picture,
    saved,
    sentences,
    trained,
    trainer_of,
)


class TestSaving:
    def test_the_documented_files_are_there_and_nothing_else(self, tmp_path: Path) -> None:
        saved()
        assert sorted(os.listdir("checkpoint")) == sorted([*FILES, "memory"])
        assert [name for name in os.listdir(".") if name.startswith(".")] == []

    def test_torch_reads_weights_and_moments_without_running_code(self) -> None:
        trainer = trained()
        trainer.save("checkpoint")
        weights = torch.load("checkpoint/model_weights.pt", weights_only=True)
        moments = torch.load("checkpoint/optimizer_state.pt", weights_only=True)
        other = trainer_of("transformer", "other")
        other.model.load_state_dict(weights)
        other.optimizer.load_state_dict(moments)
        assert differences(picture(trainer), picture(other)) != []
        for name in ("weights", "optimizer"):
            assert picture(trainer)[name] == picture(other)[name]

    def test_what_people_read_is_json(self) -> None:
        trainer = trained()
        trainer.save("checkpoint")
        state = json.loads(Path("checkpoint/training_state.json").read_text())
        assert (state["epoch"], state["global_step"]) == (2, 6)
        assert state["best_loss"] == min(logs["loss"] for logs in trainer.history)
        assert [logs["loss"] for logs in state["history"]] == [
            logs["loss"] for logs in trainer.history
        ]
        config = json.loads(Path("checkpoint/config.json").read_text())
        assert AESGConfig(**config["aesg_config"]) == memory_of(trainer).config
        assert config["model"]["class"] == "AESGDecoderLM"
        assert config["trainer"]["batch_size"] == 4
        assert config["versions"]["torch"] == torch.__version__

    def test_an_untrained_model_can_be_saved(self) -> None:
        trainer = trainer_of("transformer", "memory")
        trainer.save("checkpoint")
        assert json.loads(Path("checkpoint/training_state.json").read_text())["best_loss"] is None
        other = trainer_of("transformer", "other")
        assert other.resume("checkpoint") == 0
        assert other.best_loss == math.inf

    def test_the_memory_in_it_can_be_opened_beside_the_one_that_learns(self) -> None:
        trainer = trained()
        trainer.save("checkpoint")
        count = memory_of(trainer).storage.node_count
        with AESGMemory.open("checkpoint/memory") as copy:
            trainer.fit(sentences(), epochs=2)
            assert copy.storage.node_count == count > 0

    def test_it_takes_the_place_of_an_earlier_one(self) -> None:
        trainer = trained()
        trainer.save("checkpoint")
        trainer.fit(sentences(), epochs=1)
        trainer.save("checkpoint")
        assert trainer_of("transformer", "other").resume("checkpoint") == 3

    def test_saving_changes_nothing(self) -> None:
        trainer = trained()
        before = picture(trainer)
        trainer.save("checkpoint")
        assert differences(before, picture(trainer)) == []

    def test_a_folder_with_something_else_in_it_is_refused(self) -> None:
        trainer = trained()
        Path("notes").mkdir()
        Path("notes/diary.txt").write_text("precious")
        with pytest.raises(AESGStorageError, match=r"expected a checkpoint.*diary\.txt"):
            trainer.save("notes")
        assert os.listdir("notes") == ["diary.txt"]

    def test_a_folder_with_the_memory_of_another_model_is_refused(self) -> None:
        with AESGMemory("run/memory", AESGConfig(vector_dim=8)) as other:
            other.remember(torch.randn(3, 8), [1, 2, 3])
        with pytest.raises(AESGStorageError, match=r"expected a checkpoint.*only \['memory'\]"):
            trained().save("run")
        with AESGMemory.open("run/memory") as other:
            assert other.storage.node_count == 3

    def test_a_checkpoint_whose_memory_somebody_writes_to_is_not_replaced(self) -> None:
        trainer = trained()
        trainer.save("checkpoint")
        with AESGMemory.open("checkpoint/memory", mode="TRAIN") as writer:
            with pytest.raises(AESGStorageError, match="expected no writer of memory/ in it, got"):
                trainer.save("checkpoint")
            writer.remember(torch.randn(1, 8), [1])
        trainer.save("checkpoint")

    def test_a_file_in_its_place_is_refused(self) -> None:
        Path("file").write_text("precious")
        with pytest.raises(AESGStorageError, match="expected a folder, got a file"):
            trained().save("file")
        assert Path("file").read_text() == "precious"

    @pytest.mark.parametrize("path", ["", 3, None, b"x"])
    def test_what_is_no_path_is_refused(self, path: Any) -> None:
        with pytest.raises(AESGStorageError, match="expected the path of a folder"):
            save_checkpoint(neural(), path)

    @pytest.mark.parametrize("path", ["run", "run/memory", "run/memory/checkpoint"])
    def test_the_folder_of_the_memory_in_use_is_no_place_for_it(self, path: str) -> None:
        trainer = trained("run/memory")
        with pytest.raises(AESGStorageError, match="apart from the memory"):
            trainer.save(path)
        with pytest.raises(AESGStorageError, match="apart from the memory"):
            trainer.load(path)
        trainer.fit(sentences(), epochs=1)

    def test_a_link_is_followed(self) -> None:
        trainer = trained()
        trainer.save("epoch_2")
        Path("latest").symlink_to("epoch_2")
        trainer.fit(sentences(), epochs=1)
        trainer.save("latest")
        assert Path("latest").is_symlink()
        assert trainer_of("transformer", "other").resume("epoch_2") == 3

    def test_a_state_that_only_code_could_bring_back_is_named(self) -> None:
        trainer = neural()
        trainer.optimizer.param_groups[0]["schedule"] = {"warm": [np.ones(2)]}
        with pytest.raises(
            AESGTrainingError,
            match=r"optimizer\['param_groups'\]\[0\]\['schedule'\]\['warm'\]\[0\].*got ndarray",
        ):
            trainer.save("checkpoint")
        assert not Path("checkpoint").exists()

    def test_a_memory_that_cannot_be_copied_is_left_out_with_a_warning(self) -> None:
        trainer = neural()
        trainer.memory = _Unknown()  # type: ignore[assignment]
        with pytest.warns(UserWarning, match=r"without the memory: _Unknown has no copy"):
            trainer.save("checkpoint")
        assert not Path("checkpoint/memory").exists()


class TestLoading:
    def test_everything_but_random_numbers_comes_back(self) -> None:
        whole = saved()
        trainer = trainer_of("transformer", "other")
        trainer.load("checkpoint")
        assert differences(whole, picture(trainer)) in ([], ["chance"])

    def test_what_was_learned_since_goes(self) -> None:
        trainer = trained()
        trainer.save("checkpoint")
        before = picture(trainer, by_rank=True)
        trainer.fit(sentences(), epochs=2)
        assert differences(before, picture(trainer, by_rank=True)) != []
        trainer.resume("checkpoint")
        assert differences(before, picture(trainer, by_rank=True)) == []

    def test_the_documented_state_is_returned(self) -> None:
        trainer = trained()
        trainer.save("checkpoint")
        other = trainer_of("transformer", "other")
        state = load_checkpoint(other, "checkpoint")
        assert state.path == Path("checkpoint").resolve()
        assert (state.epoch, state.global_step) == (2, 6) == (other.epoch, other.global_step)
        assert state.best_loss == other.best_loss == trainer.best_loss
        assert state.history == other.history == trainer.history

    def test_the_model_keeps_its_own_memory_directory(self) -> None:
        saved()
        trainer = trainer_of("transformer", "other")
        trainer.load("checkpoint")
        assert memory_of(trainer).directory == Path("other").resolve()
        shutil.rmtree("checkpoint")
        trainer.fit(sentences(), epochs=1)

    def test_a_checkpoint_may_be_moved_and_copied(self) -> None:
        whole = saved()
        Path("elsewhere").mkdir()
        shutil.move("checkpoint", "elsewhere/moved")
        shutil.copytree("elsewhere/moved", "copied")
        for number, path in enumerate(["elsewhere/moved", "copied"]):
            trainer = trainer_of("transformer", f"other{number}")
            trainer.resume(path)
            assert differences(whole, picture(trainer)) == []

    def test_every_handle_of_the_process_sees_the_memory_that_came_back(self) -> None:
        trainer = trained()
        trainer.save("checkpoint")
        count = memory_of(trainer).storage.node_count
        reader = AESGMemory.open("memory")
        trainer.fit(sentences(), epochs=3)
        trainer.load("checkpoint")
        assert reader.storage.node_count == memory_of(trainer).storage.node_count == count

    def test_random_numbers_go_on_where_they_stood_when_it_resumes(self) -> None:
        trainer = neural()
        trainer.save("checkpoint")
        drawn = random.random(), np.random.rand(), torch.rand(())
        trainer.resume("checkpoint")
        assert (random.random(), np.random.rand(), torch.rand(())) == drawn
        trainer.load("checkpoint")
        assert random.random() != drawn[0]

    def test_a_model_without_a_memory(self) -> None:
        trainer = neural()
        trainer.fit(pairs(), epochs=2)
        trainer.save("checkpoint")
        assert sorted(os.listdir("checkpoint")) == sorted(FILES)
        other = neural()
        assert other.resume("checkpoint") == 2
        for name, weight in trainer.model.state_dict().items():
            assert torch.equal(weight, other.model.state_dict()[name])

    def test_to_resume_with_other_frozen_parameters_warns(self) -> None:
        model = language_model("memory")
        trainer = AESGTrainer(model)
        model.freeze_trunk()
        trainer.save("checkpoint")
        trainer.resume("checkpoint")
        model.freeze_trunk(False)
        trainer.load("checkpoint")
        with pytest.warns(UserWarning, match=r"was trained with \d+ frozen parameters.*has 0"):
            trainer.resume("checkpoint")

    @pytest.mark.parametrize("kind", [LinearLR, OneCycleLR])
    def test_to_load_leaves_what_a_scheduler_has_set_up(self, kind: Callable[..., Any]) -> None:
        first = neural(learning_rate=0.5)
        first.fit(pairs(), epochs=1)
        first.save("checkpoint")
        options: dict[str, Any] = {"max_lr": 0.1, "total_steps": 9} if kind is OneCycleLR else {}
        trainer = neural(learning_rate=0.01, scheduler=lambda own: kind(own, **options))
        [before] = trainer.optimizer.state_dict()["param_groups"]
        trainer.load("checkpoint")
        state = trainer.optimizer.state_dict()
        assert state["param_groups"] == [before]
        assert state["state"][0]["step"] == 1
        trainer.fit(pairs(), epochs=1)

    def test_to_load_without_the_optimizer_leaves_it_as_it_is(self) -> None:
        saved()
        model = language_model("other")
        trainer = AESGTrainer(model, torch.optim.SGD(model.parameters(), 0.25))
        trainer.load("checkpoint", optimizer=False)
        assert (trainer.learning_rate, trainer.epoch, trainer.global_step) == (0.25, 2, 6)
        expected = picture(trained("third"))
        assert set(differences(expected, picture(trainer))) <= {"optimizer", "chance"}
        trainer.fit(sentences(), epochs=1)

    def test_names_in_a_compiled_model_are_those_of_the_model(self) -> None:
        whole = saved()
        trainer = trainer_of("transformer", "other")
        trainer.model = cast(nn.Module, torch.compile(trainer.model, backend="eager"))
        trainer.resume("checkpoint")
        trainer.save("again")
        plain = trainer_of("transformer", "third")
        plain.resume("again")
        assert differences(whole, picture(plain)) == []

    def test_a_loss_that_learns_comes_back_when_it_resumes(self) -> None:
        loss, other_loss = _Weighted(), _Weighted()
        loss.weight.data.fill_(3.0)
        neural(criterion=loss).save("checkpoint")
        other = neural(criterion=other_loss)
        other.load("checkpoint")
        assert other_loss.weight.item() == 1.0
        other.resume("checkpoint")
        assert other_loss.weight.item() == 3.0


class _Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, output: Tensor, targets: Tensor) -> Tensor:
        return self.weight * nn.functional.cross_entropy(output, targets)


class _Unknown:
    """A memory of somebody else's."""
