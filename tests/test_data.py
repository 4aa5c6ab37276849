from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from aesg.data import adapt_data, adapt_inputs
from aesg.errors import AESGTrainingError

Pair = tuple[Tensor, Tensor]


def pairs(count: int) -> list[Pair]:
    """Sample *i* has the input (i, i) and the target i."""
    return [(torch.full((2,), float(index)), torch.tensor(index)) for index in range(count)]


class Stream(IterableDataset[Pair]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Pair]:
        return iter(pairs(self.count))


class Endless(Dataset[Pair]):
    def __getitem__(self, index: int) -> Pair:
        return pairs(1)[0]


class Squares(Dataset[Any]):
    """Arrays and Python numbers, as a torchvision Dataset gives them."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Any:
        return np.full(3, index, np.float32), index * index


def targets_of(data: Any, batch_size: int = 4, **options: Any) -> list[list[int]]:
    options = {"shuffle": False, **options}
    return [targets.tolist() for _, targets in adapt_data(data, batch_size, **options)]


def refusal(data: Any, batch_size: int = 4, **options: Any) -> str:
    with pytest.raises(AESGTrainingError) as caught:
        targets_of(data, batch_size, **options)
    assert caught.value.subsystem == "trainer"
    return caught.value.message


FORMS = [
    pairs(6),
    tuple(pairs(6)),
    [list(pair) for pair in pairs(6)],
    TensorDataset(torch.zeros(6, 2), torch.arange(6)),
    Stream(6),
    iter(pairs(6)),
    (pair for pair in pairs(6)),
    DataLoader(TensorDataset(torch.zeros(6, 2), torch.arange(6)), batch_size=4),
]


@pytest.mark.parametrize("data", FORMS, ids=lambda data: type(data).__name__)
def test_every_form_gives_the_same_batches_in_order(data: Any) -> None:
    assert targets_of(data) == [[0, 1, 2, 3], [4, 5]]


def test_inputs_and_targets_are_stacked_into_tensors() -> None:
    [(inputs, targets)] = adapt_data(pairs(3), 4, shuffle=False)
    assert inputs.tolist() == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]
    assert targets.dtype == torch.int64


def test_arrays_and_numbers_become_tensors() -> None:
    [(inputs, targets)] = adapt_data(Squares(), 8, shuffle=False)
    assert inputs.dtype == torch.float32
    assert inputs.shape == (5, 3)
    assert targets.tolist() == [0, 1, 4, 9, 16]


def test_a_float_target_is_as_wide_as_a_parameter() -> None:
    [(_, targets)] = adapt_data([(torch.zeros(1), 0.5)], 8, shuffle=False)
    assert targets.dtype == torch.get_default_dtype()


def test_an_array_that_cannot_be_written_is_read_without_a_warning() -> None:
    array = np.arange(3.0)
    array.flags.writeable = False
    [(inputs, _)] = adapt_data([(array, 0)], 8, shuffle=False)
    assert inputs.tolist() == [[0.0, 1.0, 2.0]]


@pytest.mark.parametrize("data", [pairs(50), TensorDataset(torch.zeros(50, 2), torch.arange(50))])
def test_shuffling_gives_each_pass_another_order_of_the_same_samples(data: Any) -> None:
    batches = adapt_data(data, 50, shuffle=True)
    first, second = (next(iter(batches))[1].tolist() for _ in range(2))
    assert first != second
    assert sorted(first) == sorted(second) == list(range(50))


def test_one_seed_gives_one_order() -> None:
    def order(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return targets_of(pairs(50), shuffle=True, generator=generator)

    assert order(1) == order(1)
    assert order(1) != order(2)


@pytest.mark.parametrize("shuffle", [True, False])
def test_the_global_generator_is_left_alone(shuffle: bool) -> None:
    before = torch.get_rng_state()
    targets_of(pairs(8), shuffle=shuffle)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("data", [Stream(6), DataLoader(pairs(6), batch_size=4)])  # type: ignore[arg-type]
def test_what_has_its_own_order_keeps_it(data: Any) -> None:
    assert targets_of(data, shuffle=True) == [[0, 1, 2, 3], [4, 5]]


def test_a_loader_with_workers_is_used_as_it_is() -> None:
    dataset = TensorDataset(torch.zeros(6, 2), torch.arange(6))
    assert targets_of(DataLoader(dataset, batch_size=3, num_workers=2)) == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("data", "total"), [(pairs(6), 2), (Stream(6), None), (DataLoader(Squares()), 5)]
)
def test_the_number_of_batches_is_told_where_it_is_known(data: Any, total: int | None) -> None:
    assert adapt_data(data, 4, shuffle=False).total == total


@pytest.mark.parametrize(
    "data", [[], (), TensorDataset(torch.zeros(0, 2)), Stream(0), iter([]), DataLoader(Stream(0))]
)
def test_empty_data_is_refused_in_the_documented_words(data: Any) -> None:
    expected = "Empty dataset provided. Training requires at least one sample."
    assert refusal(data) == expected


def test_a_loader_that_drops_its_only_batch_says_so() -> None:
    loader = DataLoader(Squares(), batch_size=32, drop_last=True)
    assert "full batch of 32 samples, since drop_last is set" in refusal(loader)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, ["expected a DataLoader, a Dataset or a list", "got NoneType"]),
        (7, ["expected a DataLoader", "got int"]),
        ({"inputs": 1}, ["expected a DataLoader", "got dict"]),
        (torch.zeros(3, 2), ["sample at index 0", "pair", "tensor of shape (2,)"]),
        ((torch.zeros(3), torch.zeros(3)), ["sample at index 0", "pair", "tensor of shape (3,)"]),
        ([*pairs(2), None], ["sample at index 2", "pair", "got NoneType"]),
        ([*pairs(2), (1, 2, 3)], ["sample at index 2", "pair", "a tuple of 3"]),
        ([(torch.zeros(2), None)], ["target of the sample at index 0", "got NoneType"]),
        ([*pairs(1), ("a b", 1)], ["input of the sample at index 1", "got str"]),
        (Endless(), ["expected a Dataset with a length", "got Endless"]),
    ],
)
def test_data_of_another_kind_is_refused_with_its_place(data: Any, words: list[str]) -> None:
    message = refusal(data)
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("odd", "part"),
    [
        ((torch.zeros(3), torch.tensor(0)), "input"),
        ((torch.zeros(2), torch.zeros(2)), "target"),
    ],
)
def test_samples_that_cannot_be_stacked_are_refused_before_the_first_batch(
    odd: Pair, part: str
) -> None:
    with pytest.raises(AESGTrainingError) as caught:
        adapt_data([*pairs(7), odd], 4, shuffle=True)
    assert f"{part} of the sample at index 7: expected shape" in caught.value.message


def test_samples_of_a_stream_that_cannot_be_stacked_are_refused_with_their_place() -> None:
    odd = (torch.zeros(3), torch.tensor(0))
    message = refusal(iter([*pairs(5), odd]))
    assert "input of the sample at index 5: expected shape (2,), as at index 4, got (3,)" in message


def test_samples_of_any_shape_pass_one_by_one() -> None:
    data = [(torch.zeros(length), torch.tensor(length)) for length in (1, 2, 3)]
    assert targets_of(data, batch_size=1) == [[1], [2], [3]]


@pytest.mark.parametrize(
    ("batches", "words"),
    [
        ([torch.zeros(2, 2)], ["batch 1", "tensor of shape (2, 2)"]),
        ([pairs(1)[0], {"x": 1}], ["batch 2", "got dict"]),
        ([(torch.zeros(2), [1, 2])], ["batch 1", "a tensor of shape (2,) and a list of 2"]),
    ],
)
def test_a_loader_that_yields_no_pairs_is_refused(batches: list[Any], words: list[str]) -> None:
    loader: DataLoader[Any] = DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=lambda batch: batch,
    )
    message = refusal(loader)
    assert [word for word in words if word not in message] == []


def test_an_iterator_is_refused_where_it_must_be_read_twice() -> None:
    message = refusal(iter(pairs(3)), epochs=2)
    assert "2 epochs" in message
    assert "pass list(data)" in message


def test_a_stream_can_be_read_again() -> None:
    batches = adapt_data(Stream(3), 4, shuffle=False, epochs=2)
    assert [len(list(batches)) for _ in range(2)] == [1, 1]


def test_inputs_pass_through_in_order() -> None:
    inputs = [torch.zeros(1), torch.ones(2)]
    assert list(adapt_inputs(inputs)) == inputs


@pytest.mark.parametrize(
    ("inputs", "words"), [(3, "got int"), ([torch.zeros(1), "x"], "got str as batch 2")]
)
def test_inputs_that_are_no_tensors_are_refused(inputs: Any, words: str) -> None:
    with pytest.raises(AESGTrainingError, match=words):
        list(adapt_inputs(inputs))
