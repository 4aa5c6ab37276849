"""Five epochs, a checkpoint and five more are ten epochs, to the bit."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from torch.utils.data import DataLoader

from aesg import AESGTrainer
from aesg.callbacks import Callback, Checkpoint, EarlyStopping
from tests import checkpoint_children as children
from tests.checkpoint_build import (
    KINDS,
    Picture,
    close,
    data_of,
    differences,
    picture,
    sentences,
    trainer_of,
)
from tests.memory_processes import child, run_child


@functools.cache
def whole(kind: str, epochs: int = 10) -> tuple[list[float], Picture, Picture]:
    """Train at a stretch; return also what that makes, with concepts by their ids and by rank."""
    trainer = trainer_of(kind, "whole")
    losses = trainer.fit(data_of(kind), epochs=epochs)
    found = picture(trainer)
    assert found["ids"], "the memory has taken part"
    return losses, found, picture(trainer, by_rank=True)


HALVES = [(kind, 5 if kind == "transformer" else 2) for kind in KINDS]


@pytest.mark.parametrize(("kind", "half"), HALVES)
def test_a_resumed_run_equals_one_that_never_stopped(kind: str, half: int) -> None:
    losses, expected, _ = whole(kind, 2 * half)
    first = trainer_of(kind, "first")
    begun = first.fit(data_of(kind), epochs=half)
    first.save("checkpoint")
    close(first)
    torch.manual_seed(77)
    second = trainer_of(kind, "second")
    assert second.resume("checkpoint") == half
    assert begun + second.fit(data_of(kind), epochs=half) == losses
    assert differences(expected, picture(second)) == []


def test_two_calls_of_fit_equal_one() -> None:
    losses, expected, _ = whole("transformer")
    trainer = trainer_of("transformer", "twice")
    assert trainer.fit(sentences(), epochs=5) + trainer.fit(sentences(), epochs=5) == losses
    assert differences(expected, picture(trainer)) == []


def test_a_run_goes_on_in_a_new_process_with_a_new_directory() -> None:
    losses, expected, _ = whole("transformer")
    [(begun, _)] = run_child(children.fit_and_save, "first", "checkpoint", 5)
    [(ended, found)] = run_child(children.resume_and_fit, "second", "checkpoint", 5)
    assert begun + ended == losses
    assert differences(expected, found) == []


def test_a_run_that_was_killed_goes_on_in_its_own_directory() -> None:
    losses, _, expected = whole("transformer")
    with child(children.fit_until_killed, "memory", "checkpoints", 7) as dying:
        assert dying.said() == [6]
    assert Checkpoint.newest("checkpoints") == Path("checkpoints/epoch_5").resolve()
    [(ended, found)] = run_child(children.resume_and_fit, "memory", "checkpoints/epoch_5", 5)
    assert ended == losses[5:]
    assert differences(expected, found) == []


def _everything() -> dict[str, Any]:
    """Return options under which all that a trainer can remember matters."""
    return {
        "scheduler": lambda optimizer: OneCycleLR(optimizer, 0.02, total_steps=40),
        "scheduler_step": "batch",
        "accumulate": 2,
        "max_grad_norm": 0.5,
        "callbacks": [
            EarlyStopping(patience=2, restore_best=True, min_delta=0.1),
            Checkpoint(path="checkpoints"),
            _Noise(),
        ],
    }


class _Noise(Callback):
    """Draws random numbers of its own, and shows the model that it has."""

    def on_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        assert self.trainer is not None
        with torch.no_grad():
            next(iter(self.trainer.model.parameters())).add_(0.001 * torch.rand(()))


def test_scheduler_accumulation_clipping_and_early_stopping_go_on() -> None:
    judged = sentences(4)
    trainer = trainer_of("transformer", "whole", **_everything())
    losses = trainer.fit(sentences(), epochs=10, validation_data=judged)
    assert 3 < len(losses) < 10  # it has stopped early, and gone back to the best
    other = trainer_of("transformer", "other", **_everything())
    assert other.resume("checkpoints/epoch_2") == 2
    assert other.fit(sentences(), epochs=8, validation_data=judged) == losses[2:]
    assert differences(picture(trainer), picture(other)) == []


def _loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(5)
    return DataLoader(sentences(), batch_size=4, shuffle=True, generator=generator)  # type: ignore[arg-type]


def test_a_loader_with_a_generator_of_its_own_goes_on() -> None:
    trainer = trainer_of("transformer", "whole")
    losses = trainer.fit(_loader(), epochs=4)
    first = trainer_of("transformer", "first")
    begun = first.fit(_loader(), epochs=2)
    first.save("checkpoint")
    second = trainer_of("transformer", "second")
    second.resume("checkpoint")
    assert begun + second.fit(_loader(), epochs=2) == losses
    assert differences(picture(trainer), picture(second)) == []


def test_checkpoints_on_the_way_change_nothing() -> None:
    losses, expected, _ = whole("transformer")
    trainer = trainer_of("transformer", "saved", callbacks=[Checkpoint(path="checkpoints")])
    assert trainer.fit(sentences(), epochs=10) == losses
    assert differences(expected, picture(trainer)) == []
    assert Path("checkpoints/epoch_10").exists()


def test_a_model_without_a_memory_goes_on() -> None:
    def trainer() -> AESGTrainer:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 4))
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        with pytest.warns(UserWarning, match="neural-only"):
            return AESGTrainer(
                model, optimizer, scheduler=lambda each: CosineAnnealingLR(each, 10), seed=3
            )

    data = [(torch.randn(3), torch.tensor(k % 4)) for k in range(12)]
    at_once, first, second = trainer(), trainer(), trainer()
    losses = at_once.fit(data, epochs=10)
    begun = first.fit(data, epochs=5)
    first.save("checkpoint")
    second.resume("checkpoint")
    assert begun + second.fit(data, epochs=5) == losses
    for name, weight in at_once.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name])
