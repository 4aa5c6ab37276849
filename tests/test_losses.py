from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesg.errors import AESGTrainingError
from aesg.losses import Criterion, batch_loss, first_not_finite, share_of, trainable_value

WHERE = "epoch 1, batch 2"


def logits(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def classes(count: int, *shape: int) -> Tensor:
    return torch.randint(0, count, shape, generator=torch.Generator().manual_seed(1))


def refusal(criterion: Criterion | None, output: Any, targets: Tensor) -> str:
    with pytest.raises(AESGTrainingError) as caught:
        batch_loss(criterion, output, targets, WHERE)
    assert caught.value.message.startswith(WHERE)
    return caught.value.message


@pytest.mark.parametrize("criterion", [None, nn.CrossEntropyLoss()])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
@pytest.mark.parametrize("shape", [(4,), (4, 5), (4, 7), (), (2, 3, 4)])
def test_classes_are_judged_by_cross_entropy_at_every_position(
    criterion: Criterion | None, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    output, targets = logits(*shape, 7), classes(7, *shape)
    expected = F.cross_entropy(output.reshape(-1, 7), targets.reshape(-1))
    assert torch.equal(batch_loss(criterion, output, targets.to(dtype), WHERE), expected)


def test_the_order_of_torch_is_taken_where_classes_do_not_stand_last() -> None:
    output, targets = logits(2, 5, 3, 4), classes(5, 2, 3, 4)
    expected = F.cross_entropy(output, targets)
    torch.testing.assert_close(batch_loss(None, output, targets, WHERE), expected)


def test_log_likelihoods_are_flattened_too() -> None:
    output, targets = logits(2, 3, 5).log_softmax(-1), classes(5, 2, 3)
    expected = F.nll_loss(output.reshape(-1, 5), targets.reshape(-1))
    assert torch.equal(batch_loss(nn.NLLLoss(), output, targets, WHERE), expected)


def test_floating_targets_are_judged_by_the_mean_squared_error() -> None:
    output, targets = logits(2, 3, 4, 4), torch.rand(2, 3, 4, 4)
    assert torch.equal(batch_loss(None, output, targets, WHERE), F.mse_loss(output, targets))


def test_any_other_criterion_gets_output_and_targets_as_they_are() -> None:
    seen: list[Tensor] = []

    def criterion(output: Tensor, targets: Tensor) -> Tensor:
        seen.extend((output, targets))
        return output.sum()

    output, targets = logits(2, 3, 5), classes(5, 2, 3)
    batch_loss(criterion, output, targets, WHERE)
    assert seen[0] is output
    assert seen[1] is targets


def test_probabilities_as_targets_go_to_cross_entropy_as_they_are() -> None:
    output, targets = logits(3, 5), logits(3, 5).softmax(-1)
    expected = F.cross_entropy(output, targets)
    assert torch.equal(batch_loss(nn.CrossEntropyLoss(), output, targets, WHERE), expected)


def test_the_ignored_class_is_no_error() -> None:
    output = logits(2, 5)
    expected = F.cross_entropy(output[:1], torch.tensor([1]))
    assert torch.equal(batch_loss(None, output, torch.tensor([1, -100]), WHERE), expected)
    padded = nn.CrossEntropyLoss(ignore_index=9)
    assert torch.equal(batch_loss(padded, output, torch.tensor([1, 9]), WHERE), expected)


@pytest.mark.parametrize("bad", [5, -1, 9])
def test_a_class_out_of_range_is_refused_with_the_range(bad: int) -> None:
    message = refusal(None, logits(2, 3, 5), torch.tensor([[0, 1, 2], [3, bad, 4]]))
    assert f"expected target classes in [0, 5), got {bad}" in message


@pytest.mark.parametrize(
    ("output", "targets"), [((4, 5), (3,)), ((4, 6, 5), (4, 7)), ((4, 5), (4, 1)), ((), ())]
)
def test_shapes_that_do_not_belong_together_are_refused_with_both(
    output: tuple[int, ...], targets: tuple[int, ...]
) -> None:
    message = refusal(None, logits(*output), classes(5, *targets))
    assert str(output) in message
    assert str(targets) in message


@pytest.mark.parametrize("criterion", [None, nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss()])
def test_targets_are_never_stretched_to_the_output(criterion: Criterion | None) -> None:
    message = refusal(criterion, logits(4, 1), torch.zeros(4))
    assert "(4, 1), got (4,)" in message


def test_boolean_targets_need_a_criterion() -> None:
    assert "got torch.bool" in refusal(None, logits(3), torch.tensor([True, False, True]))


def test_a_model_that_returns_no_tensor_is_refused() -> None:
    assert "got tuple" in refusal(None, (logits(3, 5), None), classes(5, 3))


@pytest.mark.parametrize(
    ("criterion", "got"),
    [(nn.MSELoss(reduction="none"), "shape (3,)"), (lambda output, targets: 1.0, "float")],
)
def test_a_criterion_that_returns_more_or_less_than_a_number_is_refused(
    criterion: Criterion, got: str
) -> None:
    assert f"got {got}" in refusal(criterion, logits(3), torch.zeros(3))


def test_a_finite_loss_with_a_gradient_is_trainable() -> None:
    assert trainable_value(torch.tensor(1.5, requires_grad=True), WHERE) == 1.5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(AESGTrainingError, match=f"{WHERE}: expected a finite loss, got {value}"):
        trainable_value(torch.tensor(value, requires_grad=True), WHERE)


def test_a_loss_without_a_gradient_is_refused() -> None:
    with pytest.raises(AESGTrainingError, match="trainable parameter"):
        trainable_value(torch.tensor(1.0), WHERE)


TARGETS = torch.tensor([0, 1, 1, -100])


@pytest.mark.parametrize(
    ("criterion", "share"),
    [
        (None, 3.0),
        (nn.CrossEntropyLoss(ignore_index=1), 2.0),
        (nn.CrossEntropyLoss(weight=torch.tensor([0.5, 2.0])), 4.5),
        (nn.NLLLoss(reduction="sum"), None),
        (lambda output, targets: output.sum(), 4.0),
    ],
)
def test_a_batch_weighs_what_its_criterion_divides_by(
    criterion: Criterion | None, share: float | None
) -> None:
    assert share_of(criterion, TARGETS) == share


def test_batches_of_distances_weigh_their_samples() -> None:
    assert share_of(None, torch.zeros(5, 3)) == 5
    assert share_of(nn.MSELoss(reduction="sum"), torch.zeros(5, 3)) is None
    assert share_of(None, torch.tensor(1.0)) == 1


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([[0.0, 1.0], [2.0, math.inf], [math.nan, 0.0]], (1, math.inf)),
        ([[0.0, 1.0], [2.0, -math.inf]], (1, math.inf)),
        ([[0.0], [1.0]], None),
    ],
)
def test_the_first_row_that_is_not_finite_is_found(
    rows: list[list[float]], found: tuple[int, float] | None
) -> None:
    assert first_not_finite(torch.tensor(rows)) == found


def test_nan_is_told_from_infinity_and_integers_are_finite() -> None:
    found = first_not_finite(torch.tensor([1.0, math.nan]))
    assert found is not None
    assert found[0] == 1
    assert math.isnan(found[1])
    assert first_not_finite(torch.arange(3)) is None
