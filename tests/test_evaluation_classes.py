"""Accuracy, precision, recall and F1, against scikit-learn."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (  # type: ignore[import-untyped]
    accuracy_score,
    precision_recall_fscore_support,
)

from aesg import AESGTrainingError
from aesg.evaluation import DomainMetrics, Evaluator

CLASS = st.integers(0, 5)

NAMES = {"accuracy", "precision", "recall", "f1"}


def classes(predictions: Any, targets: Any) -> dict[str, float]:
    return Evaluator.compute_classification_metrics(predictions, targets)


def expected_of(predicted: Any, targets: Any) -> dict[str, float]:
    precision, recall, f1, _ = precision_recall_fscore_support(
        targets, predicted, average="macro", zero_division=0
    )
    accuracy = accuracy_score(targets, predicted)
    return {"accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1}


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(200, 10, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets(logits: torch.Tensor) -> torch.Tensor:
    drawn = torch.randint(0, 10, (200,), generator=torch.Generator().manual_seed(1))
    return torch.where(torch.arange(200) % 2 == 0, logits.argmax(1), drawn)


class TestAgainstScikitLearn:
    def test_every_metric_is_the_same(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        expected = expected_of(logits.argmax(1), targets)
        assert 0.4 < expected["f1"] < 0.7
        assert classes(logits, targets) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("predicted", "targets"),
        [
            ([0, 0, 0, 0], [0, 1, 0, 1]),  # 1 is never predicted
            ([0, 3, 0, 3], [0, 0, 0, 0]),  # 3 is never there
            ([0, 0, 4], [0, 0, 2]),  # 1 and 3 do not occur
            ([1, 1], [0, 0]),  # nothing is right
            ([2], [2]),
        ],
    )
    def test_classes_that_do_not_occur_have_no_part(
        self, predicted: list[int], targets: list[int]
    ) -> None:
        scores = torch.nn.functional.one_hot(torch.tensor(predicted), 6).float()
        found = classes(scores, torch.tensor(targets))
        assert found == pytest.approx(expected_of(predicted, targets))

    @settings(max_examples=50)
    @given(st.lists(st.tuples(CLASS, CLASS), min_size=1, max_size=20), st.integers(1, 20))
    def test_every_metric_is_the_same_for_any_classes_in_any_batches(
        self, pairs: list[tuple[int, int]], size: int
    ) -> None:
        predicted, targets = torch.tensor(pairs).unbind(1)
        metrics = DomainMetrics("classification")
        for some, of in zip(torch.split(predicted, size), torch.split(targets, size), strict=True):
            metrics.update(torch.nn.functional.one_hot(some, 6).float(), of)
        assert metrics.compute() == pytest.approx(expected_of(predicted, targets))

    def test_there_may_be_a_hundred_thousand_classes(self) -> None:
        predicted, targets = [99_999, 3, 7], [99_999, 7, 7]
        found = classes(torch.tensor(predicted), torch.tensor(targets))
        assert found == pytest.approx(expected_of(predicted, targets))

    def test_classes_may_be_given_themselves(
        self, logits: torch.Tensor, targets: torch.Tensor
    ) -> None:
        found = classes(logits.argmax(1), targets)
        assert found == classes(logits, targets)
        assert classes([0, 1, 1], [0, 1, 0]) == pytest.approx(expected_of([0, 1, 1], [0, 1, 0]))


class TestTargets:
    def test_of_minus_100_are_passed_over(
        self, logits: torch.Tensor, targets: torch.Tensor
    ) -> None:
        some = targets.masked_fill(torch.arange(200) < 50, -100)
        assert classes(logits, some) == classes(logits[50:], targets[50:])
        assert classes(logits.argmax(1), some) == classes(logits[50:], targets[50:])

    def test_may_be_probabilities(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        hot = torch.nn.functional.one_hot(targets, 10).float()
        assert classes(logits, 0.9 * hot + 0.01) == classes(logits, targets)

    def test_may_be_of_any_integer_type(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        assert classes(logits, targets.to(torch.uint8)) == classes(logits, targets)

    def test_may_stand_in_the_order_of_torch(self) -> None:
        scores = torch.randn(2, 5, 3, 4)  # (B, C, H, W)
        wanted = torch.randint(0, 5, (2, 3, 4))
        flat = scores.movedim(1, -1).reshape(-1, 5), wanted.reshape(-1)
        assert classes(scores, wanted) == classes(*flat)


class TestOneLogit:
    @pytest.mark.parametrize("shape", [(6, 1), (6,)])
    @pytest.mark.parametrize("kind", [torch.long, torch.float, torch.bool])
    def test_is_that_of_class_1_of_two(self, shape: tuple[int, ...], kind: torch.dtype) -> None:
        logits = torch.tensor([2.0, -1.0, 0.5, -3.0, 0.0, 1.0])
        wanted = [1, 0, 0, 1, 0, 1]
        expected = expected_of((logits > 0).long(), wanted)
        found = classes(logits.reshape(shape), torch.tensor(wanted).to(kind))
        assert found == pytest.approx(expected)

    def test_and_target_may_both_be_columns(self) -> None:
        column = torch.tensor([[2.0], [-1.0]])
        assert classes(column, torch.tensor([[1.0], [0.0]]))["accuracy"] == 1

    def test_may_be_given_for_every_pixel(self) -> None:
        logits = torch.randn(2, 1, 3, 4)
        wanted = torch.randint(0, 2, (2, 3, 4))
        assert classes(logits, wanted) == classes(logits.reshape(-1), wanted.reshape(-1))

    @pytest.mark.parametrize("shape", [(4, 1), (4,)])
    def test_may_be_a_probability_where_that_is_said(self, shape: tuple[int, ...]) -> None:
        shares, wanted = torch.tensor([0.1, 0.2, 0.5, 0.9]), torch.tensor([0, 0, 0, 1])
        found = Evaluator.compute_classification_metrics(
            shares.reshape(shape), wanted, probabilities=True
        )
        assert set(found.values()) == {1.0}

    def test_that_is_no_probability_is_refused_where_it_should_be_one(self) -> None:
        with pytest.raises(AESGTrainingError, match=r"probabilities in \[0, 1\], got \[-1, 2\]"):
            Evaluator.compute_classification_metrics(
                torch.tensor([-1.0, 2.0]), torch.tensor([0, 1]), probabilities=True
            )

    @pytest.mark.parametrize(
        ("scores", "count"),
        [
            ([0.1, 0.2, 0.9], 1),
            ([0.0, 2.0, 1.0], 1),
            ([0.1, 0.2, 1.5], 0),
            ([-0.1, 0.2, 0.9], 0),
            ([[0.1, 0.9], [0.9, 0.1], [0.5, 0.5]], 0),
            ([0, 1, 1], 0),
        ],
    )
    def test_that_looks_like_something_else_is_said_once(
        self,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
        scores: list[Any],
        count: int,
    ) -> None:
        monkeypatch.setattr("aesg.evaluation.inputs._hinted", set())
        for _ in range(2):
            classes(torch.tensor(scores), torch.tensor([0, 1, 1]))
        assert ["probabilities=True" in each for each in caplog.messages] == [True] * count

    def test_of_a_model_of_one_class_is_always_right(self) -> None:
        log_probabilities = torch.randn(4, 1).log_softmax(-1)
        assert set(classes(log_probabilities, torch.zeros(4).long()).values()) == {1.0}


class TestScores:
    def test_of_minus_infinity_are_never_chosen(self) -> None:
        scores = torch.tensor([[-math.inf, 0.0], [0.0, -math.inf]])
        assert classes(scores, torch.tensor([1, 0]))["accuracy"] == 1

    def test_of_eight_bits_are_taken(self) -> None:
        scores = torch.eye(3).to(torch.float8_e4m3fn)
        assert classes(scores, torch.arange(3))["accuracy"] == 1

    def test_without_a_class_that_can_be_may_stand_where_nothing_is_known(self) -> None:
        scores = torch.tensor([[-math.inf, -math.inf], [0.0, 1.0]])
        assert classes(scores, torch.tensor([-100, 1]))["accuracy"] == 1

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_may_be_of_any_floating_type(self, targets: torch.Tensor, dtype: torch.dtype) -> None:
        scores = torch.nn.functional.one_hot(targets, 10).to(dtype).requires_grad_()
        assert classes(scores, targets)["f1"] == 1


class TestBatches:
    def test_give_what_all_at_once_give(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        metrics = DomainMetrics("classification")
        for start in range(0, 200, 7):
            metrics.update(logits[start : start + 7], targets[start : start + 7])
        assert metrics.compute() == classes(logits, targets)

    def test_may_bring_greater_classes_later(self) -> None:
        metrics = DomainMetrics("classification")
        metrics.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
        metrics.update(torch.tensor([5, 2]), torch.tensor([5, 5]))
        metrics.update(torch.tensor([1]), torch.tensor([1]))
        expected = expected_of([0, 1, 5, 2, 1], [0, 0, 5, 5, 1])
        assert metrics.compute() == pytest.approx(expected)

    def test_have_no_metrics_before_a_target_is_known(self) -> None:
        metrics = DomainMetrics("classification")
        metrics.update(torch.randn(2, 3), torch.tensor([-100, -100]))
        assert set(metrics.compute()) == NAMES
        assert all(math.isnan(each) for each in metrics.compute().values())


class TestRefused:
    @pytest.mark.parametrize(
        ("scores", "wanted", "message"),
        [
            (torch.randn(4, 3), [0, 1, 2], r"got output \(4, 3\) and targets \(3,\)"),
            (torch.randn(0, 3), [], "at least 1 element"),
            (torch.randn(2, 3), [0, 3], r"classes in \[0, 3\), got 3"),
            (torch.randn(2, 3), [0, -1], r"classes in \[0, 3\), got -1"),
            (torch.tensor([[math.nan, 0.0]]), [0], r"expected numbers, got nan at \[0, 0\]"),
            (torch.tensor([[math.inf, 0.0]]), [0], "expected numbers, got inf"),
            (torch.randn(2, 3), [-100, -100], "at least one that is known"),
            (torch.randn(2, 3), [0.5, 1.0], "expected classes, whole numbers, got torch.float32"),
            (torch.randn(2, 3), [math.nan, 1.0], "expected classes, whole numbers"),
            (torch.randn(2, 2), [[1.0, 1.0], [0.0, 1.0]], r"probabilities \(N, C\) that sum to 1"),
            (torch.randn(2, 1), [0, 2], r"classes in \[0, 2\), got 2"),
            (torch.tensor([0, 1]), [0, 1, 2], r"classes of the targets' shape \(3,\)"),
            (torch.tensor([0, -1]), [0, 1], "classes >= 0, got -1"),
            (torch.tensor([0, 1]), [0, -2], "classes >= 0, got -2"),
            (torch.full((2, 3), -math.inf), [-100, 0], "none for that of index 1"),
            (torch.tensor([0, 2**40]), [0, 1], "expected classes < 1000000, got 1099511627776"),
            (
                torch.eye(2).to_sparse(),
                [0, 1],
                "a dense tensor with values, got a torch.sparse_coo",
            ),
            (torch.eye(2, device="meta"), [0, 1], "a dense tensor with values, got a meta one"),
            ("cat", [0], "predictions: expected a tensor, got str"),
            (None, [0], "predictions: expected a tensor, got NoneType"),
            ([[0.1, 0.9], [0.5]], [0, 1], "predictions: expected a tensor, got list"),
        ],
    )
    def test_classes_that_cannot_be_judged(
        self, scores: Any, wanted: list[Any], message: str
    ) -> None:
        with pytest.raises(AESGTrainingError, match=message):
            classes(scores, torch.tensor(wanted))
