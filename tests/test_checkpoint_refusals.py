"""A checkpoint that does not fit, or is damaged, is refused, and nothing has changed then."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, CosineAnnealingLR, LRScheduler, StepLR

from aesg import (
    AESGConfigError,
    AESGMemory,
    AESGMemoryError,
    AESGStorageError,
    AESGTrainer,
    AESGTrainingError,
)
from aesg.callbacks import Callback
from tests.checkpoint_build import (
    FILES,
    Picture,
    close,
    differences,
    language_model,
    neural,
    picture,
    saved,
    sentences,
    trained,
    trainer_of,
)


def refused(
    trainer: AESGTrainer, error: type[Exception], message: str, path: str = "checkpoint"
) -> None:
    before = _all_of(trainer)
    for act in (trainer.load, trainer.resume):
        with pytest.raises(error, match=message):
            act(path)
    assert differences(before, _all_of(trainer)) == []


def test_no_checkpoint() -> None:
    refused(trained(), AESGStorageError, "expected a folder, found none", "nowhere")


def test_a_file() -> None:
    Path("file").touch()
    refused(trained(), AESGStorageError, "expected a folder, got a file", "file")


def test_something_else() -> None:
    Path("notes").mkdir()
    refused(trained(), AESGStorageError, "expected model_weights.pt", "notes")


@pytest.mark.parametrize("name", [*FILES, "data.mdb"])
def test_a_damaged_file(name: str) -> None:
    saved()
    trainer, file = trained(), next(Path("checkpoint").rglob(name))
    sound = file.read_bytes()
    half = len(sound) // 2
    flipped = bytearray(sound)
    for place in range(half, len(sound), 1500):
        flipped[place] ^= 0x40
    for damaged in (sound[:half], flipped, b""):
        file.write_bytes(damaged)
        refused(trainer, AESGStorageError, re.escape(file.name))


@pytest.mark.parametrize("name", ["model_weights.pt", "optimizer_state.pt", "config.json"])
def test_a_missing_file_is_named(name: str) -> None:
    saved()
    Path("checkpoint", name).unlink()
    refused(trained(), AESGStorageError, f"expected {name} in it, found ")


def test_a_missing_memory() -> None:
    saved()
    shutil.rmtree("checkpoint/memory")
    refused(trained(), AESGStorageError, "expected memory/, found none")


def test_a_file_that_runs_code_is_refused_without_advice_to_run_it() -> None:
    saved()
    Path("checkpoint/manifest.json").unlink()
    torch.save({"weight": _Code()}, "checkpoint/model_weights.pt")
    refused(trained(), AESGStorageError, "expected tensors and plain containers, got getattr$")
    assert not Path("ran").exists()


def test_the_memory_of_another_checkpoint() -> None:
    saved()
    trainer = trained()
    trainer.fit(sentences(), epochs=1)
    trainer.save("later")
    shutil.rmtree("checkpoint/memory")
    shutil.copytree("later/memory", "checkpoint/memory")
    refused(trainer, AESGStorageError, "expected memory/ as it was saved")


def test_a_memory_that_was_written_to_since() -> None:
    saved()
    trainer = trained()
    AESGMemory.open("checkpoint/memory", mode="TRAIN").close()
    trainer.load("checkpoint")
    with AESGMemory.open("checkpoint/memory", mode="TRAIN") as memory:
        memory.remember(torch.randn(1, 8), [1])
    refused(trainer, AESGStorageError, "expected memory/ as it was saved")
    Path("checkpoint/manifest.json").unlink()
    trainer.load("checkpoint")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("training_state.json", {"epoch": math.inf}, "epoch"),
        ("training_state.json", {"epoch": -5}, "epoch"),
        ("training_state.json", {"global_step": 2.5}, "global_step"),
        ("training_state.json", {"history": None}, "history"),
        ("config.json", {"aesg_config": 5}, "expected a dict as 'aesg_config', got 5"),
        ("config.json", {"model": [1]}, r"expected a dict as 'model', got \[1\]"),
        ("config.json", {"model": {"modules": 5}}, "expected a dict as 'modules', got 5"),
        ("config.json", {"optimizer": "x"}, "expected a dict as 'optimizer', got 'x'"),
        ("config.json", {"optimizer": {"groups": 5}}, "expected a list as 'groups', got 5"),
        ("config.json", {"optimizer": {"groups": [5]}}, r"expected groups of names, got \[5\]"),
    ],
)
def test_json_that_makes_no_sense(name: str, change: dict[str, Any], message: str) -> None:
    saved()
    Path("checkpoint/manifest.json").unlink()
    path = Path("checkpoint", name)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(trained(), AESGStorageError, message)


def test_a_list_of_frozen_parameters_that_is_none() -> None:
    saved()
    Path("checkpoint/manifest.json").unlink()
    path = Path("checkpoint/config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model": {"frozen": 5}}))
    with pytest.raises(AESGStorageError, match="expected a list as 'frozen', got 5"):
        trained().resume("checkpoint")


def test_states_of_two_trainings_do_not_resume() -> None:
    saved()
    Path("checkpoint/manifest.json").unlink()
    trainer = trained()
    trainer.fit(sentences(), epochs=1)
    trainer.save("later")
    shutil.copy("later/trainer_state.pt", "checkpoint")
    with pytest.raises(AESGStorageError, match=r"trainer_state\.pt': expected epoch 2, .* got 3"):
        trainer.resume("checkpoint")


def test_a_newer_format() -> None:
    saved()
    manifest = json.loads(Path("checkpoint/manifest.json").read_text())
    Path("checkpoint/manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    refused(trained(), AESGStorageError, "expected format 1, got 2")


def test_another_class() -> None:
    saved()
    trainer = trainer_of("recurrent", "other")
    refused(trainer, AESGStorageError, "model: expected AESGGRUText, got AESGDecoderLM")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 12}, r"weights '.*': expected \(.*12.*\), got \(.*8.*\)"),
        ({"num_layers": 2}, r"weights 'blocks\.1\..*': expected \(.*\), got none"),
        ({"nhead": 4}, r"part 'blocks\.0': expected Block\(nhead=4\), got Block\(nhead=2\)"),
        ({"top_k": 5}, r"part 'memory_attention.*top_k=5.*top_k=32"),
    ],
)
def test_another_architecture(options: dict[str, int], message: str) -> None:
    saved()
    model = language_model("other", **options)
    refused(AESGTrainer(model), AESGStorageError, message)


def test_a_model_with_less_in_it() -> None:
    trainer = AESGTrainer(language_model("first", num_layers=2))
    trainer.save("checkpoint")
    message = r"weights 'blocks\.1\.[a-z_.]+': expected none, got \("
    refused(trained(), AESGStorageError, message)


def test_another_width_of_the_memory() -> None:
    saved()
    trainer = AESGTrainer(language_model("other", vector_dim=16))
    refused(trainer, AESGConfigError, "expected a memory of vector_dim=16, got 8")


def test_a_checkpoint_without_a_memory_for_a_model_with_one() -> None:
    neural().save("checkpoint")
    refused(trained(), AESGStorageError, "expected a memory in it, got none")


def test_a_checkpoint_with_a_memory_for_a_model_without() -> None:
    saved()
    refused(neural(), AESGStorageError, "expected none in it, got a memory")


def test_another_optimizer() -> None:
    saved()
    model = language_model("other")
    trainer = AESGTrainer(model, torch.optim.SGD(model.parameters(), 0.1))
    refused(trainer, AESGStorageError, r"optimizer: expected SGD, got Adam; load\(path, opt")


def test_numbers_of_another_type() -> None:
    saved()
    trainer = AESGTrainer(language_model("other").double())
    refused(trainer, AESGStorageError, r"weights '.*': expected torch\.float64, got torch\.float32")


@pytest.mark.parametrize(
    ("schedule", "name"),
    [
        (lambda own: CosineAnnealingLR(own, 5), "CosineAnnealingLR"),
        (lambda own: ChainedScheduler([StepLR(own, 3)]), r"ChainedScheduler\(StepLR\)"),
    ],
)
def test_another_scheduler(schedule: Callable[[Optimizer], LRScheduler], name: str) -> None:
    neural(scheduler=lambda own: StepLR(own, 3)).save("checkpoint")
    trainer = neural(scheduler=schedule)
    with pytest.raises(AESGStorageError, match=f"scheduler: expected {name}, got StepLR"):
        trainer.resume("checkpoint")
    trainer.load("checkpoint")
    assert neural(scheduler=lambda own: StepLR(own, 3)).resume("checkpoint") == 0


def test_an_optimizer_of_other_groups() -> None:
    saved()
    model = language_model("other")
    first, *rest = model.parameters()
    groups = [{"params": [first]}, {"params": rest}]
    trainer = AESGTrainer(model, torch.optim.Adam(groups))
    refused(trainer, AESGStorageError, r"optimizer's groups: expected \[1, ")


def test_an_optimizer_of_other_parameters() -> None:
    saved()
    model = language_model("other")
    trainer = AESGTrainer(model, torch.optim.Adam(list(model.parameters())[::-1]))
    refused(trainer, AESGStorageError, "group 0, parameter 0': expected ")


def test_a_memory_that_is_only_read() -> None:
    saved()
    close(trained("other"))
    trainer = AESGTrainer(language_model("other", memory_mode="INFERENCE"))
    refused(trainer, AESGMemoryError, "expected a handle that may write")


def test_a_memory_that_cannot_be_brought_back(monkeypatch: pytest.MonkeyPatch) -> None:
    saved()
    trainer = trained()

    def fails(self: AESGMemory, source: Path) -> None:
        raise AESGStorageError("no room")

    monkeypatch.setattr(AESGMemory, "restore", fails)
    refused(trainer, AESGStorageError, "no room")


def test_a_callback_that_cannot_take_its_state_back() -> None:
    trainer = trainer_of("transformer", "memory", callbacks=[_Fussy()])
    trainer.save("checkpoint")
    trainer.fit(sentences(), epochs=1)
    before = picture(trainer)
    with pytest.raises(AESGTrainingError, match="_Fussy"):
        trainer.resume("checkpoint")
    assert differences(before, picture(trainer)) == []


def test_a_checkpoint_without_the_state_of_training_loads_but_does_not_resume() -> None:
    saved()
    Path("checkpoint/trainer_state.pt").unlink()
    Path("checkpoint/manifest.json").unlink()
    trainer = trainer_of("transformer", "other")
    with pytest.raises(AESGStorageError, match=r"expected trainer_state\.pt to resume from"):
        trainer.resume("checkpoint")
    trainer.load("checkpoint")
    assert trainer.epoch == 2


def test_keys_of_another_training_do_not_outlive_a_checkpoint_without_its_state() -> None:
    saved()
    Path("checkpoint/trainer_state.pt").unlink()
    Path("checkpoint/manifest.json").unlink()
    trainer = trained()
    assert trainer.state_dict()["keys"]
    trainer.load("checkpoint")
    assert not trainer.state_dict()["keys"]


def _all_of(trainer: AESGTrainer) -> Picture:
    if isinstance(trainer.memory, AESGMemory):
        return picture(trainer)
    state = {name: each.tolist() for name, each in trainer.model.state_dict().items()}
    return {"weights": state, "epoch": trainer.epoch, "chance": torch.get_rng_state().tolist()}


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


class _Fussy(Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"mood": 1}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        raise ValueError("not in this mood")
