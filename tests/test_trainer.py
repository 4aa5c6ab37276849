from __future__ import annotations

import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from aesg.config import AESGConfig
from aesg.errors import AESGTrainingError
from aesg.modes import MemoryMode
from aesg.trainer import AESGTrainer


class RecordingMemory:
    """Writes down what is called, in order, and in which mode."""

    def __init__(self, calls: list[str], config: AESGConfig | None = None) -> None:
        self.calls = calls
        self.config = config or AESGConfig()
        self.mode = MemoryMode.ONLINE
        self.storage = SimpleNamespace(node_count=3, edge_count=4)

    def set_mode(self, mode: MemoryMode) -> None:
        self.mode = mode

    def reset_state(self) -> None:
        self.calls.append("reset_state")

    def update_topology(self) -> None:
        self.calls.append("update_topology")

    def save(self) -> None:
        self.calls.append("save")


class Classifier(nn.Module):
    """Two inputs, three classes; tells when it is run, and in which mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.calls: list[str] = []
        self.seen: list[tuple[bool, bool, MemoryMode | None]] = []
        self.memory: RecordingMemory | None = None
        self.during: Callable[[], None] = lambda: None

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls.append("forward")
        mode = self.memory.mode if self.memory is not None else None
        self.seen.append((self.training, torch.is_grad_enabled(), mode))
        self.during()
        output: Tensor = self.linear(inputs)
        return output


class ObservingClassifier(Classifier):
    def observe(self, targets: Tensor) -> None:
        self.calls.append(f"observe {targets.tolist()}")


def with_memory(model: Classifier, config: AESGConfig | None = None) -> RecordingMemory:
    model.memory = RecordingMemory(model.calls, config)
    return model.memory


def classifier() -> tuple[Classifier, RecordingMemory]:
    torch.manual_seed(0)
    model = Classifier()
    return model, with_memory(model)


def samples(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(2, generator=generator), torch.tensor(i % 3)) for i in range(count)]


def loader(data: Any, **options: Any) -> DataLoader[Any]:
    return DataLoader(data, **options)


def failing_at(call: int, error: BaseException) -> Callable[[], None]:
    """Return a function that raises at its ``call``-th call."""
    count = iter(range(1, call))

    def fail() -> None:
        if next(count, None) is None:
            raise error

    return fail


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_a_step_makes_its_calls_in_the_documented_order() -> None:
    model = ObservingClassifier()
    with_memory(model)
    trainer = AESGTrainer(model)
    model.linear.weight.register_hook(  # type: ignore[no-untyped-call]
        lambda gradient: model.calls.append("backward")
    )
    trainer.optimizer.register_step_post_hook(lambda *_: model.calls.append("optimizer step"))
    trainer.fit([(torch.zeros(2), torch.tensor(1))] * 3, epochs=2)
    one_step = ["reset_state", "forward", "backward", "optimizer step", "observe [1, 1, 1]"]
    assert model.calls[:14] == [*one_step, "update_topology", "save"] * 2


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


def test_predict_refuses_what_is_no_tensor() -> None:
    model, memory = classifier()
    with pytest.raises(AESGTrainingError, match="got str as batch 1"):
        AESGTrainer(model).predict("text")  # type: ignore[arg-type]
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
    assert len(losses) == 2  # three steps of the first epoch, two of the second
    assert model.calls.count("update_topology") == 5
    assert model.calls[-4:] == ["update_topology", "reset_state", "save", "reset_state"]
    assert memory.mode is MemoryMode.ONLINE
    assert "interrupted in epoch 2 of 9" in caplog.text


def test_an_interrupt_from_inside_a_step_saves_without_that_step() -> None:
    model, _ = classifier()
    model.during = failing_at(3, KeyboardInterrupt())
    losses = AESGTrainer(model, batch_size=2).fit(samples(8), epochs=2)
    assert len(losses) == 1
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
