from __future__ import annotations

import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from aesg.config import AESGConfig
from aesg.errors import AESGTrainingError
from aesg.memory import AESGMemory
from aesg.models import AESGDecoderLM
from aesg.modes import MemoryMode
from aesg.nn import MemoryCrossAttention
from aesg.trainer import AESGTrainer
from tests.trainer_build import (
    Classifier,
    ObservingClassifier,
    RecordingMemory,
    classifier,
    failing_at,
    loader,
    samples,
    weights,
    with_memory,
)


def test_a_step_makes_its_calls_in_the_documented_order() -> None:
    model = ObservingClassifier()
    with_memory(model)
    trainer = AESGTrainer(model)
    model.linear.weight.register_hook(  # type: ignore[no-untyped-call]
        lambda gradient: model.calls.append("backward")
    )
    trainer.optimizer.register_step_post_hook(lambda *_: model.calls.append("optimizer step"))
    trainer.fit([(torch.zeros(2), torch.tensor(1))] * 3, epochs=2)
    one_step = ["reset_state", "forward", "observe [1, 1, 1]", "backward", "optimizer step"]
    assert model.calls[:16] == [*one_step, "update_topology", "save", "save"] * 2


def test_fit_trains_in_train_mode_and_puts_modes_back() -> None:
    model, memory = classifier()
    model.eval()
    AESGTrainer(model).fit(samples(4))
    assert model.seen == [(True, True, MemoryMode.TRAIN)]
    assert memory.mode is MemoryMode.ONLINE
    assert not model.training


def test_parts_of_a_model_get_their_own_flag_back() -> None:
    model, _ = classifier()
    model.linear.eval()
    trainer = AESGTrainer(model)
    trainer.evaluate(samples(4))
    assert model.training
    assert not model.linear.training


def test_fit_lowers_the_loss_and_returns_one_average_for_each_epoch() -> None:
    model, _ = classifier()
    losses = AESGTrainer(model, learning_rate=0.1).fit(samples(12), epochs=20)
    assert len(losses) == 20
    assert losses[-1] < losses[0]


def test_averages_are_weighted_by_samples() -> None:
    model, _ = classifier()
    data = samples(5)
    frozen = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = AESGTrainer(model, frozen, batch_size=3)
    inputs, targets = (torch.stack(column) for column in zip(*data, strict=True))
    expected = nn.functional.cross_entropy(model.linear(inputs), targets).item()
    assert trainer.fit(data) == pytest.approx([expected])
    assert trainer.evaluate(data) == {"loss": pytest.approx(expected)}


@pytest.mark.parametrize("make_data", [samples, lambda count: loader(samples(count))])
def test_evaluate_judges_without_learning(make_data: Callable[[int], Any]) -> None:
    model, memory = classifier()
    before = weights(model)
    trainer = AESGTrainer(model)
    trainer.evaluate(make_data(4))
    assert set(model.seen) == {(False, False, MemoryMode.INFERENCE)}
    assert set(model.calls) == {"reset_state", "forward"}
    assert memory.mode is MemoryMode.ONLINE
    assert model.training
    assert all(map(torch.equal, weights(model), before))


def test_evaluate_leaves_the_random_numbers_of_training_alone() -> None:
    model, _ = classifier()
    trainer = AESGTrainer(model)
    before = torch.get_rng_state()
    trainer.evaluate(samples(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_evaluate_reports_a_loss_that_is_not_finite() -> None:
    model, _ = classifier()
    loss = AESGTrainer(model).evaluate([(torch.full((2,), math.inf), torch.tensor(0))])["loss"]
    assert math.isnan(loss)


def test_predict_gives_the_output_of_one_batch() -> None:
    model, memory = classifier()
    inputs = torch.randn(4, 2)
    output = AESGTrainer(model).predict(inputs)
    assert torch.equal(output, model.linear(inputs))
    assert not output.requires_grad
    assert model.seen == [(False, False, MemoryMode.INFERENCE)]
    assert memory.mode is MemoryMode.ONLINE
    assert model.training


def test_predict_gives_one_output_for_each_batch_of_an_iterable() -> None:
    model, _ = classifier()
    batches = [torch.randn(4, 2), torch.randn(1, 2)]
    outputs = AESGTrainer(model).predict(batch for batch in batches)
    assert [output.shape for output in outputs] == [(4, 3), (1, 3)]


def test_predict_takes_an_array_as_one_batch() -> None:
    model, _ = classifier()
    inputs = np.ones((4, 2))
    assert torch.equal(AESGTrainer(model).predict(inputs), model.linear(torch.ones(4, 2)))


def test_predict_refuses_what_is_no_tensor() -> None:
    model, memory = classifier()
    with pytest.raises(AESGTrainingError, match="got str as batch 1"):
        AESGTrainer(model).predict("text")
    assert memory.mode is MemoryMode.ONLINE


@pytest.mark.parametrize("act", [AESGTrainer.fit, AESGTrainer.evaluate])
def test_modes_are_restored_after_an_error(act: Callable[[AESGTrainer, Any], Any]) -> None:
    model, memory = classifier()
    model.during = failing_at(2, RuntimeError("out of luck"))
    with pytest.raises(RuntimeError, match="out of luck"):
        act(AESGTrainer(model, batch_size=2), samples(6))
    assert memory.mode is MemoryMode.ONLINE
    assert model.training
    assert model.calls[-2:] == ["forward", "reset_state"]


def test_a_loss_that_is_not_finite_stops_before_anything_learns_from_it() -> None:
    model, memory = classifier()
    data = [*samples(4), (torch.full((2,), math.nan), torch.tensor(0)), *samples(1)]
    trainer = AESGTrainer(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(
        AESGTrainingError, match="epoch 1, batch 3: expected a finite loss, got nan"
    ):
        trainer.fit(loader(data, batch_size=2), epochs=2)
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())
    assert model.calls.count("update_topology") == 2
    assert model.calls[-2:] == ["forward", "reset_state"]
    assert memory.mode is MemoryMode.ONLINE


def test_a_model_without_trainable_parameters_is_told_so() -> None:
    model, _ = classifier()
    trainer = AESGTrainer(model)
    model.requires_grad_(False)
    with pytest.raises(AESGTrainingError, match=r"epoch 1, batch 1: .* trainable parameter"):
        trainer.fit(samples(2))


@pytest.fixture
def _python_interrupts() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_python_interrupts")
def test_an_interrupt_ends_training_after_its_step_and_loses_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, memory = classifier()
    steps = iter(range(100))

    def interrupt_in_fifth_step() -> None:
        if next(steps) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    model.during = interrupt_in_fifth_step
    with caplog.at_level(logging.WARNING):
        losses = AESGTrainer(model, batch_size=2).fit(samples(6), epochs=9)
    assert len(losses) == 1  # three steps of the first epoch, two of the second
    assert model.calls.count("update_topology") == 5
    assert model.calls[-4:] == ["update_topology", "reset_state", "save", "reset_state"]
    assert memory.mode is MemoryMode.ONLINE
    assert "interrupted in epoch 2 of 9" in caplog.text


def test_an_interrupt_from_inside_a_step_saves_without_that_step() -> None:
    model, _ = classifier()
    model.during = failing_at(3, KeyboardInterrupt())
    assert AESGTrainer(model, batch_size=2).fit(samples(8), epochs=2) == []
    assert model.calls.count("update_topology") == 2
    assert model.calls[-4:] == ["forward", "reset_state", "save", "reset_state"]


def test_an_interrupt_before_the_first_batch_gives_no_losses() -> None:
    model, _ = classifier()
    model.during = failing_at(1, KeyboardInterrupt())
    assert AESGTrainer(model).fit(samples(2)) == []


def test_a_second_interrupt_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    model, memory = classifier()
    model.during = failing_at(1, KeyboardInterrupt())
    monkeypatch.setattr(memory, "save", failing_at(1, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        AESGTrainer(model).fit(samples(2))
    assert memory.mode is MemoryMode.ONLINE


def test_a_loader_with_workers_trains() -> None:
    model, _ = classifier()
    dataset = TensorDataset(torch.randn(8, 2), torch.zeros(8, dtype=torch.int64))
    losses = AESGTrainer(model).fit(loader(dataset, batch_size=4, num_workers=2), epochs=2)
    assert len(losses) == 2
    assert model.calls.count("update_topology") == 4


class Tagger(nn.Module):
    """Tokens (B, T) to logits (B, T, 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Embedding(7, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.scores(tokens)
        return output


@pytest.mark.filterwarnings("ignore:Tagger has no AESG memory")
@pytest.mark.parametrize("criterion", [None, nn.CrossEntropyLoss()])
def test_sequences_are_trained_token_by_token(criterion: nn.Module | None) -> None:
    data = [(torch.arange(5), torch.arange(5) + 1) for _ in range(4)]
    losses = AESGTrainer(Tagger(), criterion=criterion, learning_rate=0.5).fit(data, epochs=20)
    assert losses[-1] < 0.1


@pytest.mark.filterwarnings("ignore:Linear has no AESG memory")
def test_images_and_other_reals_are_trained_by_their_distance() -> None:
    data = [(torch.full((2,), float(i)), torch.full((1,), 3.0 * i)) for i in range(4)]
    losses = AESGTrainer(nn.Linear(2, 1), learning_rate=0.1).fit(data, epochs=100)
    assert losses[-1] < 0.1


def test_a_model_without_memory_is_trained_with_a_warning() -> None:
    model = Classifier()
    before = weights(model)
    with pytest.warns(UserWarning, match="Classifier has no AESG memory: neural-only") as caught:
        trainer = AESGTrainer(model)
    assert caught[0].filename == __file__
    assert len(trainer.fit(samples(4), epochs=2)) == 2
    assert not any(map(torch.equal, weights(model), before))
    assert trainer.evaluate(samples(4))["loss"] > 0


def test_an_attribute_that_only_shares_the_name_is_no_memory() -> None:
    model = nn.Linear(2, 3)
    model.memory = nn.Parameter(torch.zeros(2))
    with pytest.warns(UserWarning, match="no AESG memory"):
        trainer = AESGTrainer(model)
    assert trainer.memory is None


def test_the_configuration_of_the_memory_gives_the_defaults() -> None:
    model = Classifier()
    with_memory(model, AESGConfig(batch_size=5, learning_rate=0.25))
    trainer = AESGTrainer(model)
    assert trainer.batch_size == 5
    assert trainer.optimizer.param_groups[0]["lr"] == 0.25
    given = AESGTrainer(model, batch_size=7, learning_rate=0.5)
    assert given.batch_size == 7
    assert given.optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.filterwarnings("ignore:Classifier has no AESG memory")
def test_without_a_memory_the_documented_defaults_hold() -> None:
    trainer = AESGTrainer(Classifier())
    assert isinstance(trainer.optimizer, torch.optim.Adam)
    assert trainer.optimizer.param_groups[0]["lr"] == 1e-3
    assert trainer.batch_size == 32


def test_the_order_of_samples_follows_the_global_seed() -> None:
    def order(seed: int) -> list[float]:
        model, _ = classifier()
        torch.manual_seed(seed)
        seen: list[float] = []
        model.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0][:, 0].tolist()))
        AESGTrainer(model, batch_size=4).fit(samples(40), epochs=2)
        return seen

    first = order(1)
    assert first == order(1)
    assert first != order(2)
    assert first[:40] != first[40:]
    assert sorted(first[:40]) == sorted(first[40:])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": lambda x: x}, "model: expected a torch.nn.Module, got function"),
        ({"model": nn.ReLU()}, "model: expected at least one parameter to train, ReLU has none"),
        ({"device": "gpu"}, "device: .* got 'gpu'"),
        ({"device": "cuda:99"}, "device: .* got 'cuda:99'"),
        ({"batch_size": 0}, "batch_size: expected an integer >= 1, got 0"),
        ({"batch_size": 2.0}, "batch_size: expected an integer >= 1, got 2.0"),
        ({"learning_rate": 0.0}, "learning_rate: expected a finite number > 0, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate: .* got nan"),
        ({"optimizer": torch.optim.Adam}, r"got the class Adam: write Adam\(model.parameters"),
        ({"optimizer": "adam"}, "optimizer: expected a torch.optim.Optimizer, got str"),
        (
            {"optimizer": torch.optim.SGD([torch.zeros(1)], lr=1.0)},
            "optimizer: expected one that holds parameters of Linear",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.* has no AESG memory")
def test_a_parameter_out_of_range_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(AESGTrainingError, match=words):
        AESGTrainer(**{"model": nn.Linear(2, 3), **options})


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True, None])
def test_epochs_must_be_counted(epochs: Any) -> None:
    model, _ = classifier()
    with pytest.raises(AESGTrainingError, match=f"epochs: expected an integer >= 1, got {epochs}"):
        AESGTrainer(model).fit(samples(2), epochs=epochs)


def test_targets_in_the_place_of_epochs_are_recognised() -> None:
    model, _ = classifier()
    with pytest.raises(
        AESGTrainingError, match=r"got a Tensor: .* TensorDataset\(inputs, targets\)"
    ):
        AESGTrainer(model).fit(torch.zeros(4, 2), torch.zeros(4))  # type: ignore[arg-type]


@pytest.mark.parametrize("data", [[], loader([])])
@pytest.mark.parametrize("act", [AESGTrainer.fit, AESGTrainer.evaluate])
def test_empty_data_is_refused(act: Callable[[AESGTrainer, Any], Any], data: Any) -> None:
    model, memory = classifier()
    with pytest.raises(AESGTrainingError) as caught:
        act(AESGTrainer(model), data)
    assert str(caught.value) == "Empty dataset provided. Training requires at least one sample."
    assert memory.mode is MemoryMode.ONLINE
    assert "save" not in model.calls


def test_an_iterator_serves_one_epoch() -> None:
    model, _ = classifier()
    assert len(AESGTrainer(model).fit(iter(samples(3)))) == 1
    with pytest.raises(AESGTrainingError, match="2 epochs"):
        AESGTrainer(model).fit(iter(samples(3)), epochs=2)


def test_errors_of_a_batch_name_epoch_and_batch() -> None:
    model, _ = classifier()
    data = [*samples(2), (torch.zeros(2), torch.tensor(3))]
    with pytest.raises(AESGTrainingError, match=r"epoch 1, batch 3: .* in \[0, 3\), got 3"):
        AESGTrainer(model).fit(loader(data))


def test_nothing_is_printed_where_there_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    model, _ = classifier()
    assert not sys.stderr.isatty()
    AESGTrainer(model).fit(samples(4))
    assert capfd.readouterr() == ("", "")


class Teacherforced(Classifier):
    """Is told its targets where the trainer knows them."""

    takes_targets = True

    def __init__(self) -> None:
        super().__init__()
        self.told: list[list[int] | None] = []

    def forward(self, inputs: Tensor, targets: Tensor | None = None) -> Tensor:
        self.told.append(None if targets is None else targets.tolist())
        return super().forward(inputs)


def test_a_model_that_takes_targets_is_told_them_but_in_predict() -> None:
    model = Teacherforced()
    with_memory(model)
    trainer = AESGTrainer(model)
    data = [(torch.zeros(2), torch.tensor(1)), (torch.ones(2), torch.tensor(1))]
    trainer.fit(data)
    trainer.evaluate(data)
    trainer.predict(torch.zeros(3, 2))
    assert model.told == [[1, 1], [1, 1], None]


def test_copies_of_a_model_cannot_share_a_memory() -> None:
    with pytest.raises(AESGTrainingError, match="without_memory"):
        AESGTrainer(nn.DataParallel(classifier()[0]))


def test_copies_of_a_model_without_memory_are_trained() -> None:
    with pytest.warns(UserWarning, match="neural-only"):
        trainer = AESGTrainer(nn.DataParallel(Classifier()))
    assert len(trainer.fit(samples(4))) == 1


class RekeyingMemory(RecordingMemory):
    """Has keys that can follow the network."""

    can_rekey = True

    @contextmanager
    def asking_only(self) -> Iterator[None]:
        self.calls.append("asking only")
        yield
        self.calls.append("reads again")

    def train(self, mode: bool = True) -> None:
        self.calls.append("train" if mode else "eval")

    def update_keys(self) -> None:
        self.calls.append("update_keys")


def rekeying(model: Classifier) -> AESGTrainer:
    model.memory = RekeyingMemory(model.calls)
    return AESGTrainer(model)


def test_fit_ends_with_a_pass_that_only_re_keys() -> None:
    model = ObservingClassifier()
    trainer = rekeying(model)
    trainer.fit(samples(4))
    before = weights(model)
    end = model.calls.index("save") + 1
    (observed,) = {call for call in model.calls[end:] if call.startswith("observe")}
    steps = ["train", "reset_state", "forward", observed, "update_keys", "reset_state", "save"]
    assert model.calls[end : end + 8] == ["save", *steps]
    assert model.seen == [(True, True, MemoryMode.TRAIN), (False, False, MemoryMode.TRAIN)]
    assert all(map(torch.equal, before, weights(model)))
    assert trainer.memory is not None
    assert trainer.memory.mode is MemoryMode.ONLINE


def test_a_model_that_asks_first_is_not_given_anything_while_keys_are_refreshed() -> None:
    model = Classifier()
    model.asks_first = True  # type: ignore[assignment]
    rekeying(model).fit(samples(4))
    begun, ended = (model.calls.index(each) for each in ("asking only", "reads again"))
    assert model.calls[begun:ended].count("update_keys") == 1


@pytest.mark.parametrize("reason", ["setting", "fixed keys", "frozen", "nothing", "iterator"])
def test_keys_are_not_refreshed_where_that_is_not_wanted_or_of_no_use(reason: str) -> None:
    model = Classifier()
    trainer = rekeying(model)
    data: Any = samples(4)
    if reason == "setting":
        trainer.refresh_keys = False
    elif reason == "fixed keys":
        model.keys_drift = False  # type: ignore[assignment]
    elif reason == "frozen":
        model.trunk_frozen = True  # type: ignore[assignment]
    elif reason == "nothing":
        model.memory.can_rekey = False  # type: ignore[union-attr]
    else:
        data = iter(data)
    trainer.fit(data)
    assert "update_keys" not in model.calls
    assert model.calls.count("forward") == 1


def test_a_refresh_draws_no_random_numbers() -> None:
    drawn = []
    for refresh in (False, True):
        torch.manual_seed(0)
        trainer = rekeying(Classifier())
        trainer.refresh_keys = refresh
        trainer.fit(loader(samples(6), batch_size=2, shuffle=True))
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[1]


def test_an_interrupt_while_keys_are_refreshed_ends_the_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Classifier()
    trainer = rekeying(model)
    model.during = failing_at(2, KeyboardInterrupt())
    losses = trainer.fit(samples(4))
    assert len(losses) == 1
    assert model.calls[-2:] == ["save", "reset_state"]
    assert "update_keys" not in model.calls
    assert "interrupted while the memory's keys were refreshed" in caplog.text
    assert trainer.memory is not None
    assert trainer.memory.mode is MemoryMode.ONLINE


class Part(nn.Module):
    """Has a memory, whose mode it writes down; like a layer of `aesg.nn`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.modes: list[MemoryMode] = []
        self.memory = RecordingMemory(self.calls)

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls.append("forward")
        self.modes.append(self.memory.mode)
        return inputs


class ObservingPart(Part):
    def observe(self, targets: Tensor) -> None:
        self.calls.append(f"observe {targets.tolist()}")


def test_the_memory_of_a_part_is_trained_evaluated_and_put_back() -> None:
    part = Part()
    trainer = AESGTrainer(nn.Sequential(nn.Linear(2, 3), part))
    assert trainer.memory is part.memory
    trainer.fit(samples(4))
    step = ["reset_state", "forward", "update_topology"]
    assert part.calls == [*step, "save", "save", "reset_state"]
    trainer.evaluate(samples(4))
    trainer.predict(torch.zeros(1, 2))
    inference = MemoryMode.INFERENCE
    assert part.modes == [MemoryMode.TRAIN, inference, inference]
    assert part.memory.mode is MemoryMode.ONLINE


def test_a_memory_that_several_parts_share_is_one() -> None:
    first, second = Part(), Part()
    second.memory = first.memory
    assert AESGTrainer(nn.Sequential(nn.Linear(2, 3), first, second)).memory is first.memory


def test_several_memories_are_named_unless_the_model_says_which() -> None:
    part = Part()
    model = nn.Sequential(nn.Linear(2, 3), part, nn.Sequential(Part()))
    with pytest.raises(AESGTrainingError, match=r"got 2 \(1\.memory, 2\.0\.memory\): set"):
        AESGTrainer(model)
    model.memory = part.memory  # type: ignore[assignment]
    assert AESGTrainer(model).memory is part.memory


def test_the_part_that_has_the_memory_observes_where_the_model_does_not() -> None:
    part = ObservingPart()
    trainer = AESGTrainer(nn.Sequential(nn.Linear(2, 3), part))
    trainer.fit([(torch.zeros(2), torch.tensor(1))] * 2)
    assert part.calls.count("observe [1, 1]") == 1


def test_the_model_observes_where_both_could() -> None:
    model, part = ObservingClassifier(), ObservingPart()
    model.part = part
    AESGTrainer(model).fit([(torch.zeros(2), torch.tensor(1))] * 2)
    assert "observe [1, 1]" in model.calls
    assert "observe [1, 1]" not in part.calls


def test_copies_of_a_model_cannot_share_the_memory_of_a_part() -> None:
    with pytest.raises(AESGTrainingError, match="without_memory"):
        AESGTrainer(nn.DataParallel(nn.Sequential(nn.Linear(2, 3), Part())))


class Labelled(nn.Module):
    """Tokens (B, T) to scores of labels (B, T, 5), with a memory in the middle."""

    def __init__(self, memory: AESGMemory, *, knows: bool = False) -> None:
        super().__init__()
        self.knows = knows
        self.words, self.labels = nn.Embedding(20, 16), nn.Embedding(5, 16)
        self.read = MemoryCrossAttention(16, memory, 2, value_size=16)

    def forward(self, words: Tensor) -> Tensor:
        came = torch.full_like(words, 4) if self.knows else None
        hidden: Tensor = self.read(self.words(words), self.labels.weight, outcomes=came)
        return hidden @ self.labels.weight.T


def labelled(folder: Path) -> AESGMemory:
    torch.manual_seed(0)
    return AESGMemory(folder, AESGConfig(vector_dim=8))


def values_in(memory: AESGMemory) -> set[int]:
    context = memory.recall(torch.randn(30, 8), top_k=50)
    return set(context.value_ids[context.mask].tolist())


def rows(count: int = 8) -> list[tuple[Tensor, Tensor]]:
    return [(words, words % 4) for words in torch.randint(0, 20, (count, 6))]


def test_targets_are_the_values_where_nobody_says_what_they_mean(tmp_path: Path) -> None:
    memory = labelled(tmp_path)
    AESGTrainer(nn.Sequential(Labelled(memory))).fit(rows(), epochs=2)
    assert values_in(memory) == {0, 1, 2, 3}


def test_what_the_forward_pass_knows_is_not_replaced_by_targets(tmp_path: Path) -> None:
    memory = labelled(tmp_path)
    AESGTrainer(Labelled(memory, knows=True)).fit(rows(), epochs=2)
    assert values_in(memory) == {4}


def test_a_model_around_one_with_a_memory_is_judged_without_learning(tmp_path: Path) -> None:
    memory = AESGMemory(tmp_path, AESGConfig(vector_dim=8))
    lm = AESGDecoderLM(20, memory, hidden_size=16, num_layers=1, nhead=2)
    wrapper = nn.Sequential(lm, nn.Identity())
    trainer = AESGTrainer(wrapper)
    data = [(row[:-1], row[1:]) for row in torch.randint(0, 20, (8, 7))]
    trainer.fit(data)
    before = memory.provisional_count
    assert before > 0
    trainer.evaluate(data)
    memory.update_topology()
    assert memory.provisional_count == before


def test_a_control_finds_nothing_and_teaches_nothing(tmp_path: Path) -> None:
    memory = labelled(tmp_path)
    model = Labelled(memory)
    nn.init.normal_(model.read.out.weight)
    trainer, data = AESGTrainer(model), rows()
    trainer.fit(data, epochs=2)
    words = data[0][0][None]
    alone = model.words(words) @ model.labels.weight.T
    assert not torch.allclose(trainer.predict(words), alone)
    with memory.asking_only():
        assert torch.equal(trainer.predict(words), alone)
    held = memory.storage.node_count, memory.provisional_count
    assert sum(held) > 0
    with memory.asking_only(), memory.at_rest():
        AESGTrainer(Labelled(memory)).fit(data)
    memory.update_topology()
    assert (memory.storage.node_count, memory.provisional_count) == held


def test_targets_that_say_nothing_to_the_memory_are_refused_with_what_to_do(
    tmp_path: Path,
) -> None:
    model = nn.Sequential(nn.Linear(16, 16), MemoryCrossAttention(16, labelled(tmp_path), 2))
    data = [(torch.randn(6, 16), torch.randn(6, 16)) for _ in range(2)]
    with pytest.raises(AESGTrainingError, match=r"`observe\(targets\)` of Sequential"):
        AESGTrainer(model).fit(data)


@pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss, nn.NLLLoss])
def test_what_the_criterion_ignores_is_not_known_to_the_memory(
    criterion: type[nn.CrossEntropyLoss] | type[nn.NLLLoss],
) -> None:
    model = ObservingClassifier()
    with_memory(model)
    trainer = AESGTrainer(model, criterion=criterion(ignore_index=0), batch_size=3)
    data = [(torch.zeros(2), torch.tensor(i, dtype=torch.uint8)) for i in (0, 1, 2)]
    trainer.evaluate(data, mode="ONLINE")
    assert "observe [-100, 1, 2]" in model.calls


def test_a_batch_of_ignored_targets_is_passed_over() -> None:
    model = ObservingClassifier()
    memory = with_memory(model)
    trainer = AESGTrainer(model, batch_size=2)
    good = [(torch.ones(2), torch.tensor(1))] * 2
    ignored = [(torch.ones(2), torch.tensor(-100))] * 2
    batches = loader([*good, *ignored], batch_size=2)
    loss = trainer.evaluate(good)["loss"]
    assert trainer.evaluate(batches)["loss"] == pytest.approx(loss)
    assert trainer.fit(batches) == pytest.approx([loss])
    assert model.calls.count("update_topology") == 1
    assert memory.calls.count("observe [1, 1]") == 1


def test_an_epoch_of_nothing_but_ignored_targets_is_refused() -> None:
    model, _ = classifier()
    before = weights(model)
    data = [(torch.ones(2), torch.tensor(2))] * 3
    with pytest.raises(AESGTrainingError, match="epoch 1: expected targets to learn from"):
        AESGTrainer(model, criterion=nn.CrossEntropyLoss(ignore_index=2)).fit(data)
    assert all(map(torch.equal, before, weights(model)))
