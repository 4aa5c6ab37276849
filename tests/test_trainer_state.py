"""What a trainer keeps, and that training which goes on from it is the same training."""

from __future__ import annotations

import io
import os
import random
import signal
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, Dataset

from aesg.callbacks import Callback, Checkpoint
from aesg.errors import AESGTrainingError
from aesg.memory import AESGMemory
from aesg.memory_keys import KeyChanges
from aesg.memory_refreshed import RefreshedState
from aesg.memory_stored import is_save
from aesg.models import AESGDecoderLM
from aesg.trainer import AESGTrainer
from tests.trainer_build import Classifier, classifier, loader, samples, weights

pytestmark = pytest.mark.filterwarnings("ignore:.* has no AESG memory")


class Dropped(Classifier):
    """Draws from torch's generator in training."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(inputs, 0.5, self.training))


def trainer_of(**options: Any) -> AESGTrainer:
    torch.manual_seed(0)
    model = Dropped()
    return AESGTrainer(model, batch_size=2, learning_rate=0.1, **options)


class Noisy(Dataset[Any]):
    """Draws from all three generators for each sample."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        drawn = random.random() + np.random.rand() + float(torch.rand(()))
        return torch.tensor([index + drawn, drawn]), index % 3


FORMS = ["list", "noisy", "loader", "own generator"]


def data_of(form: str) -> Any:
    if form == "list":
        return samples(6)
    if form == "noisy":
        return Noisy()
    own = torch.Generator().manual_seed(3) if form == "own generator" else None
    return loader(samples(6), batch_size=2, shuffle=True, generator=own)


@pytest.mark.parametrize("form", FORMS)
def test_validation_evaluation_and_prediction_draw_nothing_that_training_sees(form: str) -> None:
    def run(*, look: bool) -> list[float]:
        random.seed(1)
        np.random.seed(1)
        trainer, data = trainer_of(), data_of(form)
        losses = []
        for _ in range(2):
            losses += trainer.fit(data, 2, data if look else None)
            if look:
                trainer.evaluate(data, metrics=True)
                trainer.predict(data)
        return losses

    assert run(look=True) == run(look=False)


@pytest.mark.parametrize("form", FORMS)
def test_the_same_seed_gives_the_same_training_whatever_was_drawn_before(form: str) -> None:
    def run(seed: int | None, drawn: int) -> list[float]:
        torch.manual_seed(0)
        trainer = AESGTrainer(Dropped(), batch_size=2, learning_rate=0.1, seed=seed)
        for generator in (
            torch.rand,
            np.random.rand,
            lambda n: [random.random() for _ in range(n)],
        ):
            generator(drawn)
        data = data_of(form)
        return [*trainer.fit(data), *trainer.fit(data)]

    first = run(7, 1)
    assert first == run(7, 5)
    if form != "own generator":
        assert first != run(8, 1)


def test_a_seed_counts_once_and_not_for_every_fit() -> None:
    trainer = trainer_of(seed=3)
    frozen = torch.optim.SGD(trainer.model.parameters(), lr=0.0)
    trainer = AESGTrainer(trainer.model, frozen, batch_size=2, seed=3)
    assert trainer.fit(samples(6)) != trainer.fit(samples(6))


class Counts(Callback):
    def __init__(self) -> None:
        self.epochs = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        self.epochs += 1

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs}

    def load_state_dict(self, state: Any) -> None:
        self.epochs = state["epochs"]


def settings() -> dict[str, Any]:
    return {
        "accumulate": 2,
        "max_grad_norm": 0.1,
        "callbacks": [Counts()],
        "scheduler": lambda optimizer: StepLR(optimizer, 2, 0.5),
        "precision": "fp16",
    }


def kept(*parts: Any) -> Any:
    """Return what a file would give back that is opened without running anything."""
    file = io.BytesIO()
    torch.save(parts, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("form", ["list", "own generator"])
def test_training_goes_on_from_a_state_as_if_it_had_not_stopped(form: str) -> None:
    whole = trainer_of(**settings())
    losses = whole.fit(data_of(form), 4)
    first = trainer_of(**settings())
    begun = first.fit(data_of(form), 2)
    state = kept(first.state_dict(), first.model.state_dict(), first.optimizer.state_dict())
    drawn = torch.get_rng_state()
    second = trainer_of(**settings())
    second.load_state_dict(state[0])
    second.model.load_state_dict(state[1])
    second.optimizer.load_state_dict(state[2])
    torch.set_rng_state(drawn)
    assert [*begun, *second.fit(data_of(form), 2)] == losses
    assert all(map(torch.equal, weights(second.model), weights(whole.model)))
    assert (second.epoch, second.global_step) == (4, whole.global_step)
    assert second.best_loss == whole.best_loss
    assert [logs["loss"] for logs in second.history] == losses
    assert second.learning_rate == whole.learning_rate == 0.025
    assert second.callbacks[0].epochs == 4  # type: ignore[attr-defined]


def test_what_is_absent_from_a_state_stays_as_it_is() -> None:
    trainer = trainer_of()
    trainer.fit(samples(4))
    history = list(trainer.history)
    trainer.load_state_dict({"epoch": 7})
    assert (trainer.epoch, trainer.global_step, trainer.history) == (7, 2, history)


@pytest.mark.parametrize("name", ["scheduler", "precision"])
def test_a_state_of_other_parts_is_refused_and_changes_nothing(name: str) -> None:
    one, other = trainer_of(**{name: settings()[name]}), trainer_of()
    one.fit(samples(4))
    part = "scaler" if name == "precision" else name
    for trainer, state in ((other, one.state_dict()), (one, other.state_dict())):
        epoch = trainer.epoch
        with pytest.raises(AESGTrainingError, match=f"{part}: expected both or neither"):
            trainer.load_state_dict({**state, "epoch": 99})
        assert trainer.epoch == epoch


def text() -> list[tuple[Tensor, Tensor]]:
    rows = torch.arange(20).repeat(8).view(16, 10)
    return [(row[:-1], row[1:]) for row in rows[torch.randperm(16, generator=_generator())]]


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(2)


def lm(folder: Path, **options: Any) -> AESGTrainer:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_layers": 1, "nhead": 2, "vector_dim": 8}
    model = AESGDecoderLM.sized(20, folder, **sizes)
    return AESGTrainer(model, batch_size=4, learning_rate=0.02, **options)


def outcome(trainer: AESGTrainer) -> tuple[Any, ...]:
    """Return what training with a memory came to."""
    memory: Any = trainer.memory
    held = (memory.storage.node_count, memory.storage.edge_count, memory.provisional_count)
    output = trainer.predict(text()[:4])
    return (
        held,
        [each.tolist() for each in output],
        [each.tolist() for each in weights(trainer.model)],
    )


def test_two_fits_are_one_fit_with_a_memory_too(tmp_path: Path) -> None:
    whole = lm(tmp_path / "whole")
    losses = whole.fit(text(), 4)
    expected = outcome(whole)
    assert expected[0][0] > 0
    parts = lm(tmp_path / "parts")
    assert [*lm_fit(parts, 2), *lm_fit(parts, 2)] == losses
    assert outcome(parts) == expected


def test_what_was_learned_by_hand_is_saved_before_fit_goes_on(tmp_path: Path) -> None:
    class Looks(Callback):
        def on_train_start(self, logs: dict[str, Any]) -> None:
            found.append(is_save(memory._state.view.settings))

    found: list[bool] = []
    trainer = lm(tmp_path, refresh_keys=False, callbacks=[Looks()])
    memory: Any = trainer.memory
    trainer.fit(text())
    for _ in range(3):
        memory.retrieve(torch.randn(6, 8, generator=_generator()))
    trainer.fit(text())
    assert found == [True, True]


def test_an_interrupted_refresh_does_not_disturb_the_training_that_goes_on(tmp_path: Path) -> None:
    whole = lm(tmp_path / "whole")
    losses = whole.fit(text(), 3)
    expected = outcome(whole)
    parts = lm(tmp_path / "parts")
    real, calls = AESGMemory.update_keys, iter(range(9))

    def update_keys(memory: AESGMemory) -> int:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(memory)

    with mock.patch.object(AESGMemory, "update_keys", update_keys):
        begun = parts.fit(text(), 2)
    assert next(calls) == 3
    assert [*begun, *parts.fit(text())] == losses
    assert outcome(parts) == expected


def test_an_interrupt_at_the_end_of_a_refresh_waits_until_the_keys_of_training_are_kept(
    tmp_path: Path,
) -> None:
    whole = lm(tmp_path / "whole")
    losses = whole.fit(text(), 3)
    parts = lm(tmp_path / "parts")
    real = RefreshedState.end_refresh

    def end_refresh(state: RefreshedState, earlier: KeyChanges) -> KeyChanges:
        os.kill(os.getpid(), signal.SIGINT)
        return real(state, earlier)

    with mock.patch.object(RefreshedState, "end_refresh", end_refresh):
        begun = parts.fit(text(), 2)
    assert [*begun, *parts.fit(text())] == losses
    assert outcome(parts) == outcome(whole)


@pytest.fixture
def midway(tmp_path: Path) -> tuple[AESGTrainer, Path]:
    """Return a trainer behind two epochs, and the checkpoint that was written in the second."""
    trainer = lm(tmp_path / "memory", callbacks=[Checkpoint(path=tmp_path / "checkpoints")])
    trainer.fit(text(), 2)
    return trainer, tmp_path / "checkpoints/epoch_2"


def test_a_refreshed_checkpoint_has_the_keys_that_fit_ends_with(
    midway: tuple[AESGTrainer, Path], tmp_path: Path
) -> None:
    trainer, checkpoint = midway
    ended, read = all_keys(trainer), lm(tmp_path / "read")
    read.load(checkpoint)
    written = all_keys(read)
    moved = read.refresh(text())
    assert all_keys(read) == ended
    assert moved == sum(written[each] != ended[each] for each in ended) > 0
    assert read.refresh(text()) == moved
    assert read.refresh(iter(text())) == moved
    assert read.evaluate(text()) == trainer.evaluate(text())


def all_keys(trainer: AESGTrainer) -> dict[int, list[float]]:
    assert isinstance(trainer.memory, AESGMemory)
    before = trainer.memory.mode
    trainer.memory.set_mode("INFERENCE")
    held = keys_of(trainer.memory)
    trainer.memory.set_mode(before)
    return {concept_id: key.tolist() for concept_id, key in held.items()}


@pytest.mark.parametrize("interrupted", [False, True])
def test_training_goes_on_behind_a_refresh_as_if_there_had_been_none(
    midway: tuple[AESGTrainer, Path], tmp_path: Path, interrupted: bool
) -> None:
    trainer, checkpoint = midway
    losses = trainer.fit(text(), 2)
    parts = lm(tmp_path / "parts", seed=5, refresh_keys=False)
    parts.resume(checkpoint)
    if interrupted:
        real, calls = AESGMemory.update_keys, iter(range(9))

        def update_keys(memory: AESGMemory) -> int:
            if next(calls) == 2:
                raise KeyboardInterrupt
            return real(memory)

        with (
            mock.patch.object(AESGMemory, "update_keys", update_keys),
            pytest.raises(KeyboardInterrupt),
        ):
            parts.refresh(text())
    else:
        assert parts.refresh(text()) > 0
    assert parts.fit(text(), 2) == losses
    assert parts.refresh(text()) > 0
    assert outcome(parts) == outcome(trainer)


@pytest.mark.parametrize("reason", ["no memory", "frozen", "nothing"])
def test_nothing_is_refreshed_where_no_keys_follow_the_network(tmp_path: Path, reason: str) -> None:
    trainer = trainer_of() if reason == "no memory" else lm(tmp_path)
    if reason == "frozen":
        trainer.fit(text(), 1)
        trainer.model.freeze_trunk()  # type: ignore[operator]
        assert isinstance(trainer.memory, AESGMemory)
        trainer = AESGTrainer(trainer.model)
    with mock.patch.object(type(trainer.model), "forward", side_effect=AssertionError):
        assert trainer.refresh(text()) == 0


def test_a_refresh_within_fit_or_without_data_is_refused(tmp_path: Path) -> None:
    class Refreshes(Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
            trainer.refresh(text())

    trainer = lm(tmp_path, callbacks=[Refreshes()])
    with pytest.raises(AESGTrainingError, match="refresh: expected to be called when fit has"):
        trainer.fit(text())
    with pytest.raises(AESGTrainingError, match="Empty dataset"):
        trainer.refresh([])


def lm_fit(trainer: AESGTrainer, epochs: int) -> list[float]:
    losses = trainer.fit(text(), epochs, text()[:4])
    trainer.evaluate(text())
    return losses


def test_keys_that_no_later_refresh_meets_are_those_of_the_last_one(tmp_path: Path) -> None:
    trainer = lm(tmp_path)
    memory: Any = trainer.memory
    rows = torch.randint(0, 20, (16, 10), generator=_generator())
    data = [(row[:-1], row[1:]) for row in rows]
    trainer.fit(data[:8], 2)
    refreshed = keys_of(memory)
    trainer.fit(data[8:])
    later = keys_of(memory)
    common = refreshed.keys() & later.keys()
    kept_keys = [key for key in common if torch.equal(refreshed[key], later[key])]
    assert len(kept_keys) > 0.3 * len(common) > 0  # training has moved others


def keys_of(memory: Any) -> dict[int, Tensor]:
    context = memory.recall(torch.eye(8).repeat(4, 1), top_k=200)
    ids, vectors = context.concept_ids[context.mask], context.keys[context.mask]
    return dict(zip(ids.tolist(), vectors, strict=True))


def test_saving_and_resuming_give_the_epoch_to_go_on_from(tmp_path: Path) -> None:
    trainer = lm(tmp_path / "memory")
    losses = trainer.fit(text(), 2)
    trainer.save(tmp_path / "checkpoint")
    later = trainer.fit(text(), 1)
    assert trainer.resume(tmp_path / "checkpoint") == 2
    assert [logs["loss"] for logs in trainer.history] == losses
    assert trainer.fit(text(), 1) == later
    trainer.load(tmp_path / "checkpoint")
    assert trainer.epoch == 2


def test_a_model_without_memory_is_saved_and_resumed(tmp_path: Path) -> None:
    trainer = trainer_of(**settings())
    trainer.fit(samples(4), 2)
    trainer.save(tmp_path / "checkpoint")
    expected = trainer.fit(samples(4), 2)
    other = trainer_of(**settings())
    assert other.resume(tmp_path / "checkpoint") == 2
    assert other.fit(samples(4), 2) == expected


def test_workers_serve_every_epoch(tmp_path: Path) -> None:
    trainer = lm(tmp_path)
    data: DataLoader[Any] = loader(text(), batch_size=4, shuffle=True, num_workers=2)
    assert len(trainer.fit(data, 2, loader(text(), batch_size=8, num_workers=1))) == 2


def test_history_and_counts_begin_empty() -> None:
    model, _ = classifier()
    trainer = AESGTrainer(model)
    assert (trainer.epoch, trainer.global_step, trainer.history) == (0, 0, [])
    assert trainer.best_loss == float("inf")
