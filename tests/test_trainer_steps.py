"""Steps of the trainer: accumulated, clipped, in half precision, scheduled; losses not finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import Dataset

from aesg.errors import AESGTrainingError
from aesg.losses import Criterion
from aesg.models import AESGDecoderLM
from aesg.trainer import AESGTrainer
from tests.trainer_build import Classifier, classifier, loader, samples, weights

pytestmark = pytest.mark.filterwarnings("ignore:.* has no AESG memory")


def after(
    data: Any, epochs: int = 1, model: nn.Module | None = None, **options: Any
) -> tuple[AESGTrainer, list[Tensor]]:
    """Return a trainer that has trained from the same weights as any other, and its weights."""
    torch.manual_seed(0)
    model = model or Classifier()
    rate = options.pop("lr", 0.5)
    options.setdefault("optimizer", torch.optim.SGD(model.parameters(), lr=rate))
    trainer = AESGTrainer(model, **options)
    trainer.fit(data, epochs)
    return trainer, weights(model)


def near(first: list[Tensor], second: list[Tensor]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.allclose(one, other, atol=1e-6) for one, other in pairs)


CRITERIA: list[tuple[Criterion | None, int | None]] = [
    (None, None),
    (None, -100),
    (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.5]), ignore_index=1), None),
    (nn.CrossEntropyLoss(reduction="sum"), None),
]


@pytest.mark.parametrize(("criterion", "hidden"), CRITERIA)
@pytest.mark.parametrize("count", [8, 7, 3])
def test_accumulated_batches_step_as_one_larger_batch_does(
    criterion: Criterion | None, hidden: int | None, count: int
) -> None:
    data = samples(count)
    if hidden is not None:
        data = [(x, torch.tensor(hidden) if i % 4 == 1 else y) for i, (x, y) in enumerate(data)]
    whole, expected = after(loader(data, batch_size=8), 3, criterion=criterion)
    parts, got = after(loader(data, batch_size=2), 3, criterion=criterion, accumulate=4)
    assert near(got, expected)
    assert whole.global_step == parts.global_step == 3


def test_distances_are_accumulated_by_samples() -> None:
    torch.manual_seed(1)
    data = [(torch.randn(2), torch.randn(3)) for _ in range(5)]
    _, expected = after(loader(data, batch_size=5))
    _, got = after(loader(data, batch_size=2), accumulate=3)
    assert near(got, expected)


def test_batches_left_over_at_the_end_of_an_epoch_make_a_step() -> None:
    trainer, got = after(loader(samples(10), batch_size=2), accumulate=2)
    assert trainer.global_step == 3
    data = samples(10)
    _, expected = after(loader([data[:4], data[4:8], data[8:]], collate_fn=_opened))
    assert near(got, expected)


def _opened(groups: list[list[tuple[Tensor, Tensor]]]) -> tuple[Tensor, Tensor]:
    inputs, targets = zip(*groups[0], strict=True)
    return torch.stack(inputs), torch.stack(targets)


def test_the_memory_learns_from_every_batch_of_a_step() -> None:
    model, _ = classifier()
    AESGTrainer(model, batch_size=2, accumulate=3).fit(samples(8))
    assert model.calls.count("update_topology") == 4


def test_gradients_are_cleared_behind_an_interrupt() -> None:
    steps = iter(range(100))

    class Interrupted(Classifier):
        def forward(self, inputs: Tensor) -> Tensor:
            if next(steps) == 1:
                raise KeyboardInterrupt
            return super().forward(inputs)

    torch.manual_seed(0)
    model = Interrupted()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = AESGTrainer(model, optimizer, accumulate=2)
    before = weights(model)
    trainer.fit(loader(samples(2)))
    assert all(map(torch.equal, before, weights(model)))
    trainer.fit(loader(samples(4)[2:], batch_size=2))
    _, expected = after(loader(samples(4)[2:], batch_size=2))
    assert near(weights(model), expected)


def moved(before: list[Tensor], later: list[Tensor]) -> float:
    return math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(before, later, strict=True)))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_long_gradients_are_shortened_and_short_ones_left(accumulate: int) -> None:
    torch.manual_seed(0)
    before = weights(Classifier())
    data = loader(samples(4), batch_size=4 // accumulate)
    _, free = after(data, lr=1.0, accumulate=accumulate)
    length = moved(before, free)
    _, same = after(data, lr=1.0, accumulate=accumulate, max_grad_norm=2 * length)
    _, clipped = after(data, lr=1.0, accumulate=accumulate, max_grad_norm=length / 4)
    assert all(map(torch.equal, same, free))
    assert moved(before, clipped) == pytest.approx(length / 4, rel=1e-4)


def test_sparse_gradients_can_be_clipped() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 4, sparse=True)

        def forward(self, tokens: Tensor) -> Tensor:
            scores: Tensor = self.table(tokens)
            return scores

    torch.manual_seed(0)
    model = Bag()
    before = weights(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    data = [(torch.tensor([1, 2]), torch.tensor([0, 3]))] * 2
    AESGTrainer(model, optimizer, max_grad_norm=0.01).fit(data)
    assert moved(before, weights(model)) == pytest.approx(0.01, rel=1e-3)


def test_an_optimizer_of_a_part_moves_that_part_and_clips_its_gradient_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3))
    first, last = weights(model[0]), weights(model[1])
    optimizer = torch.optim.SGD(model[1].parameters(), lr=1.0)
    AESGTrainer(model, optimizer, max_grad_norm=0.01, accumulate=2).fit(loader(samples(2)))
    assert all(map(torch.equal, weights(model[0]), first))
    assert moved(weights(model[1]), last) == pytest.approx(0.01, rel=1e-3)


class Listed(Dataset[Any]):
    """A Dataset of what is in a list."""

    def __init__(self, held: list[Any]) -> None:
        self.held = held

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: int) -> Any:
        return self.held[index]


class Root(nn.Module):
    """Has a finite loss whose gradient is not: that of a root at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs * self.scale).abs().sqrt() + self.shift


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_named() -> None:
    model = Root()
    trainer = AESGTrainer(model)
    with pytest.raises(
        AESGTrainingError, match=r"epoch 1, batch 1: .* finite gradient, .* of 'scale' \(1 param"
    ):
        trainer.fit([(torch.ones(1), torch.ones(1))])
    assert [each.item() for each in weights(model)] == [0.0, 0.0]
    assert trainer.global_step == 0


def not_finite(data: Any, **options: Any) -> str:
    with pytest.raises(AESGTrainingError, match="expected a finite loss, got nan") as caught:
        after(data, **options)
    return caught.value.message


@pytest.mark.parametrize(("number", "name"), [(math.nan, "nan"), (math.inf, "inf")])
def test_the_sample_whose_input_is_not_finite_is_named(number: float, name: str) -> None:
    data = samples(8)
    data[5] = (torch.tensor([1.0, number]), data[5][1])
    assert f"the input of the sample at index 5 holds {name}" in not_finite(data, batch_size=4)
    message = not_finite(loader(data, batch_size=4))
    assert message.startswith("epoch 1, batch 2: ")
    assert f"the input of sample 1 of the batch holds {name}" in message


@pytest.mark.parametrize("form", [list, Listed])
def test_the_sample_whose_class_is_out_of_range_is_named(form: Any) -> None:
    data = form([(torch.zeros(2), torch.tensor([0, 1])) for _ in range(7)])
    data[4][1][1] = 2
    model = nn.Sequential(nn.Linear(2, 4), nn.Unflatten(1, (2, 2)))
    for act in (AESGTrainer.fit, AESGTrainer.evaluate):
        with pytest.raises(AESGTrainingError) as raised:
            act(AESGTrainer(model, batch_size=3, seed=0), data)
        assert "[0, 2), got 2 in the sample at index 4" in raised.value.message


def test_the_sample_whose_target_is_not_finite_is_named() -> None:
    data = [(torch.zeros(2), torch.full((3,), math.nan if i == 3 else 1.0)) for i in range(5)]
    assert "the target of the sample at index 3 holds nan" in not_finite(data)


def test_weights_that_are_not_finite_are_named() -> None:
    model = Classifier()
    nn.init.constant_(model.linear.bias, math.nan)
    message = not_finite(samples(2), model=model)
    assert "the weights hold NaN or infinity, in 'linear.bias'" in message


def test_a_loss_that_is_not_finite_of_finite_numbers_says_so() -> None:
    message = not_finite(samples(2), criterion=lambda output, targets: output.sum() * math.nan)
    assert "inputs, targets and weights are finite" in message


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_weights_in_single(precision: str) -> None:
    class Looks(Classifier):
        def forward(self, inputs: Tensor) -> Tensor:
            output = super().forward(inputs)
            dtypes.add(output.dtype)
            return output

    def judged(output: Tensor, targets: Tensor) -> Tensor:
        assert output.dtype == torch.float32
        return nn.functional.cross_entropy(output, targets)

    dtypes: set[torch.dtype] = set()
    torch.manual_seed(0)
    trainer, got = after(samples(6), 3, model=Looks(), criterion=judged, precision=precision)
    assert dtypes == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert {each.dtype for each in got} == {torch.float32}
    trainer.evaluate(samples(3))
    assert trainer.predict(torch.zeros(1, 2)).dtype == torch.float32
    assert trainer.global_step == 3
    assert 0 < moved(got, after(samples(6), 3)[1]) < 0.05


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_model_with_a_memory_learns_in_half_precision(tmp_path: Path, precision: str) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_layers": 1, "nhead": 2, "vector_dim": 8}
    model = AESGDecoderLM.sized(12, tmp_path, **sizes)
    rows = torch.arange(12).repeat(4).view(6, 8)
    data = [(row[:-1], row[1:]) for row in rows]
    trainer = AESGTrainer(model, precision=precision, max_grad_norm=1.0, learning_rate=0.05)
    losses = trainer.fit(data, epochs=6)
    assert losses[-1] < losses[0]
    assert model.memory.storage.node_count > 0


def test_steps_without_room_in_half_precision_are_left_out_until_there_is() -> None:
    scheduled: list[float] = []

    def schedule(optimizer: torch.optim.Optimizer) -> LRScheduler:
        return LambdaLR(optimizer, lambda step: scheduled.append(step) or 1.0)  # type: ignore

    data = [(torch.full((2,), 100.0), torch.full((3,), 6e4))] * 2  # gradients overflow at first
    trainer, _ = after(
        loader(data), 20, lr=1e-9, precision="fp16", scheduler=schedule, scheduler_step="batch"
    )
    assert trainer.scaler is not None
    assert trainer.scaler.get_scale() < 65_536
    assert 0 < trainer.global_step < 40
    assert len(scheduled) == trainer.global_step + 1


def test_gradients_that_half_precision_never_holds_end_the_training() -> None:
    with pytest.raises(AESGTrainingError, match="gradients that half precision can hold"):
        after(loader([(torch.ones(1), torch.ones(1))] * 40), model=Root(), precision="fp16")


def learning_rates(scheduler: Any, epochs: int = 3, **options: Any) -> list[float]:
    trainer, _ = after(loader(samples(4), batch_size=2), epochs, scheduler=scheduler, **options)
    return [logs["learning_rate"] for logs in trainer.history] + [trainer.learning_rate]


def test_a_scheduler_goes_on_behind_each_epoch() -> None:
    assert learning_rates(lambda each: StepLR(each, 1, 0.5)) == [0.5, 0.25, 0.125, 0.0625]


def test_a_scheduler_of_the_optimizer_can_be_given_as_it_is() -> None:
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = AESGTrainer(model, optimizer, scheduler=StepLR(optimizer, 2, 0.1))
    trainer.fit(samples(4), epochs=2)
    assert trainer.learning_rate == pytest.approx(0.05)


def test_a_scheduler_may_go_on_behind_each_step() -> None:
    rates = learning_rates(lambda each: StepLR(each, 1, 0.5), 1, scheduler_step="batch")
    assert rates == [0.25, 0.125]
    rates = learning_rates(
        lambda each: StepLR(each, 1, 0.5), 1, scheduler_step="batch", accumulate=2
    )
    assert rates == [0.5, 0.25]


def test_a_warm_up_over_the_whole_training_works() -> None:
    def one_cycle(optimizer: torch.optim.Optimizer) -> LRScheduler:
        return OneCycleLR(optimizer, max_lr=1.0, total_steps=6)

    assert learning_rates(one_cycle, 3, scheduler_step="batch")[2] < 0.001
    with pytest.raises(AESGTrainingError, match=r"scheduler: .* Tried to step 7 times"):
        learning_rates(one_cycle, 4, scheduler_step="batch")


@pytest.mark.parametrize("validated", [False, True])
def test_a_plateau_is_told_the_loss_that_is_monitored(validated: bool) -> None:
    told: list[float] = []

    class Told(ReduceLROnPlateau):
        def step(self, metrics: Any, epoch: Any = None) -> None:  # type: ignore[override]
            told.append(metrics)
            super().step(metrics, epoch)

    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = AESGTrainer(model, optimizer, scheduler=Told(optimizer))
    trainer.fit(samples(4), 2, samples(2) if validated else None)
    name = "val_loss" if validated else "loss"
    assert told == [logs[name] for logs in trainer.history]


class ByClosure(torch.optim.SGD):
    def step(self, closure: Callable[[], float]) -> float:  # type: ignore[override]
        return closure()


SHARED = nn.Linear(2, 3)


def other_scheduler(_: object) -> LRScheduler:
    return StepLR(torch.optim.SGD(Classifier().parameters(), lr=1.0), 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"accumulate": 0}, "accumulate: expected an integer >= 1, got 0"),
        ({"max_grad_norm": 0}, "max_grad_norm: expected a finite number > 0, got 0"),
        ({"max_grad_norm": math.inf}, "max_grad_norm: .* got inf"),
        ({"max_grad_norm": True}, "max_grad_norm: .* got True"),
        ({"precision": "int8"}, "precision: expected one of 'fp32', 'bf16', 'fp16', got 'int8'"),
        ({"precision": None}, "precision: .* got None"),
        ({"precision": "bf16", "device": "meta"}, "precision: expected one that meta has"),
        ({"scheduler_step": "step"}, "scheduler_step: expected 'epoch' or 'batch', got 'step'"),
        ({"scheduler": 0.5}, "scheduler: expected an LRScheduler, or a callable .* got float"),
        ({"scheduler": lambda _: 3}, "scheduler: .* got a callable that returned int"),
        ({"scheduler": StepLR}, r"scheduler: .* got type, which could not make one"),
        ({"scheduler": other_scheduler}, "scheduler: expected one of the trainer's optimizer"),
        (
            {"scheduler": ReduceLROnPlateau, "scheduler_step": "batch"},
            "scheduler_step: expected 'epoch' for ReduceLROnPlateau",
        ),
        ({"criterion": nn.L1Loss}, r"criterion: .* got the class L1Loss: write L1Loss\(\)"),
        ({"criterion": "mse"}, r"criterion: expected criterion\(output, targets\), got 'mse'"),
        ({"seed": -1}, r"seed: expected an integer in \[0, 2\*\*32\), got -1"),
        ({"seed": 1.0}, "seed: .* got 1.0"),
        (
            {"optimizer": torch.optim.LBFGS(SHARED.parameters())},
            "got LBFGS, which evaluates the model several times in a step",
        ),
        ({"optimizer": ByClosure(SHARED.parameters(), lr=1.0)}, "got ByClosure, which"),
    ],
)
def test_a_parameter_that_does_not_fit_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(AESGTrainingError, match=words):
        AESGTrainer(SHARED, **options)


@pytest.mark.parametrize(
    ("weights_in", "inputs_in"), list(product([torch.float32, torch.float64], repeat=2))
)
def test_floating_numbers_go_in_the_type_of_the_weights(
    weights_in: torch.dtype, inputs_in: torch.dtype
) -> None:
    model = nn.Linear(2, 1).to(weights_in)
    data = [(torch.randn(2).to(inputs_in).numpy(), torch.randn(1).double()) for _ in range(3)]
    trainer = AESGTrainer(model)
    trainer.fit(data)
    assert math.isfinite(trainer.evaluate(data)["loss"])
    (output,) = trainer.predict(data)
    assert output.dtype == weights_in
