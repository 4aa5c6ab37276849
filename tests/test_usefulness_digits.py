"""What the tasks about digits judge by: the baseline, the controls and what counts as forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.usefulness.digits import Digits, beside, contents, new_model, others, tell, vote
from benchmarks.usefulness.tasks.continual import Course


@pytest.fixture
def digits() -> Digits:
    """Return ten classes of one row of light each, two to train on and one to test."""
    labels = torch.arange(10).repeat(3)
    images = 0.2 * torch.rand(30, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 2 * label + 4 : 2 * label + 6] = 1
    train = tuple(torch.tensor([each, each + 10]) for each in range(10))
    test = tuple(torch.tensor([each + 20]) for each in range(10))
    return Digits(images, labels, train, test)


def test_the_nearest_examples_vote_and_each_class_weighs_the_same(digits: Digits) -> None:
    images, labels = digits.training(*range(10))
    asked, classes = digits.testing(*range(10))
    assert vote(asked, images, labels).argmax(-1).tolist() == classes.tolist()
    twice, shown = digits.training(3, 5)
    one = torch.tensor([0, 1, 2])  # two images of 3 and one of 5
    between = 0.5 * (twice[:1] + twice[2:3])
    said = vote(between, twice[one], shown[one], scale=0.0)
    torch.testing.assert_close(said[0, [3, 5]], torch.tensor([0.5, 0.5]))


def test_the_controls_have_the_weights_and_another_memory(digits: Digits, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = new_model(tmp_path / "own", 3)
    tell(model, *digits.training(*range(10)))
    keys, labels = contents(model.memory)
    assert sorted(labels.tolist()) == sorted(digits.training(*range(10))[1].tolist())
    controls = others(model, digits, tmp_path)
    held = {arm: contents(other.memory) for arm, other in controls.items()}
    assert len(held["emptied"][0]) == 0
    assert sorted(held["shuffled"][1].tolist()) == sorted(labels.tolist())
    assert _pairs(*held["shuffled"]) != _pairs(keys, labels)
    assert len(held["irrelevant"][0]) == len(keys)
    assert (held["irrelevant"][0] @ keys.T).max() < 0.9
    for other in controls.values():
        for name, tensor in model.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor)


def _pairs(keys: Tensor, labels: Tensor) -> set[tuple[float, int]]:
    return {(round(float(key[0]), 4), int(label)) for key, label in zip(keys, labels, strict=True)}


def test_the_same_contents_make_the_same_memory(digits: Digits, tmp_path: Path) -> None:
    model = new_model(tmp_path / "own", 3)
    tell(model, *digits.training(0, 1, 2))
    other = beside(model, tmp_path / "other", *contents(model.memory))
    asked, _ = digits.testing(0, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(other(asked), model.eval()(asked))


def test_what_was_known_once_and_is_lost_is_forgotten(digits: Digits) -> None:
    course = Course(digits, [[0, 1], [2, 3], [4, 5]])
    known = [{0, 1}, {0, 2, 3}, {1, 2, 4, 5}]
    for classes in known:
        table = torch.zeros(10, 10)
        for each in classes:
            table[each, each] = 1.0

        def predict(images: Tensor, table: Tensor = table) -> Tensor:
            return table[images[:, 0, 4::2, 0].argmax(-1)] + 0.1 * torch.eye(10)[9]

        course.ask(predict)
    # In the end one of 0 and 1, one of 2 and 3, both of 4 and 5; once, all of them.
    assert course.values()["final accuracy"] == pytest.approx((0.5 + 0.5 + 1.0) / 3)
    assert course.values()["forgetting"] == pytest.approx((0.5 + 0.5) / 2)
