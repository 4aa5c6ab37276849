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


class Stored(Dataset[Any]):
    """Has its samples as they were given."""

    def __init__(self, samples: list[Any]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]


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
        (torch.zeros(3, 2), ["a tensor of shape (3, 2) alone", "TensorDataset(inputs, targets)"]),
        (np.zeros((3, 2)), ["an array of shape (3, 2) alone", "TensorDataset(inputs, targets)"]),
        ((torch.zeros(3), torch.zeros(3)), ["a pair of Tensors", "TensorDataset(inputs, targets)"]),
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


def test_a_batch_without_samples_is_refused() -> None:
    empty = [(torch.zeros(0, 2), torch.zeros(0))]
    loader: DataLoader[Any] = DataLoader(
        empty,  # type: ignore[arg-type]
        batch_size=None,
    )
    assert "batch 1: expected at least one sample, got inputs of shape (0, 2)" in refusal(loader)


def test_arrays_that_run_backwards_are_read() -> None:
    array = np.arange(6.0).reshape(3, 2)[::-1, ::-1]
    batches = adapt_data([(row, 0) for row in array], 4, shuffle=False)
    ((inputs, _),) = batches
    assert inputs.tolist() == array.tolist()
    assert [each.tolist() for each in adapt_inputs([array], 4)] == [array.tolist()]


def test_inputs_may_be_batches_of_arrays_that_cannot_be_written() -> None:
    arrays = [np.zeros((4, 2)), np.ones((2, 2))]
    for each in arrays:
        each.setflags(write=False)
    assert [each.tolist() for each in adapt_inputs(arrays, 4)] == [each.tolist() for each in arrays]


def test_inputs_and_targets_are_not_taken_for_two_batches() -> None:
    with pytest.raises(AESGTrainingError, match="expected the inputs alone, got a pair of tensors"):
        list(adapt_inputs((torch.zeros(4, 2), torch.zeros(4)), 4))
    assert len(list(adapt_inputs([torch.zeros(4, 2), torch.zeros(4, 2)], 4))) == 2


def test_an_iterator_is_refused_where_it_must_be_read_twice() -> None:
    message = refusal(iter(pairs(3)), epochs=2)
    assert "2 epochs" in message
    assert "pass list(data)" in message


def test_a_stream_can_be_read_again() -> None:
    batches = adapt_data(Stream(3), 4, shuffle=False, epochs=2)
    assert [len(list(batches)) for _ in range(2)] == [1, 1]


def test_inputs_pass_through_in_order() -> None:
    inputs = [torch.zeros(1), torch.ones(2)]
    assert list(adapt_inputs(inputs, 4)) == inputs


@pytest.mark.parametrize(
    ("inputs", "words"), [(3, "got int"), ([torch.zeros(1), "x"], "got str as batch 2")]
)
def test_inputs_that_are_no_tensors_are_refused(inputs: Any, words: str) -> None:
    with pytest.raises(AESGTrainingError, match=words):
        list(adapt_inputs(inputs, 4))


MIXED = [
    [(torch.zeros(2), 0), (torch.zeros(2), 1), (torch.zeros(2), 2.5)],
    [(torch.zeros(2), 0.5), (torch.zeros(2), 1)],
    [(torch.zeros(2), torch.tensor(True)), (torch.zeros(2), torch.tensor(1))],
]


@pytest.mark.parametrize("form", [list, Stored])
@pytest.mark.parametrize("data", MIXED)
def test_integers_and_floating_numbers_are_not_mixed(data: Any, form: Any) -> None:
    message = refusal(form(data))
    index = len(data) - 1
    assert f"target of the sample at index {index}: expected torch." in message
    assert "as at index 0, got torch." in message


def test_numbers_of_one_kind_may_have_several_widths() -> None:
    data = [(np.zeros(2, np.float32), np.int32(1)), (np.zeros(2), 2)]
    [(inputs, targets)] = adapt_data(data, 4, shuffle=False)
    assert inputs.dtype == torch.float64
    assert targets.tolist() == [1, 2]


@pytest.mark.parametrize("form", [list, Stored])
def test_samples_without_elements_are_refused(form: Any) -> None:
    message = refusal(form([(torch.zeros(2), 0), (torch.zeros(0), 0)]), batch_size=1)
    assert "input of the sample at index 1: expected at least one element" in message
    assert "(0,)" in message
    assert "target of the sample at index 0" in refusal(form([(torch.zeros(2), torch.zeros(0, 3))]))


@pytest.mark.parametrize(
    "value", [None, "text", {"a": 1}, np.array(["a", None], object), [[1], [2, 3]], object()]
)
def test_what_is_no_number_is_refused_with_its_index(value: Any) -> None:
    assert "input of the sample at index 1" in refusal([(1.0, 0), (value, 0)])
    assert "target of the sample at index 1" in refusal(Stored([(1.0, 0), (1.0, value)]))


def test_lists_of_arrays_are_taken() -> None:
    data = [([np.zeros(2), np.ones(2)], 1)] * 2
    [(inputs, _)] = adapt_data(data, 4, shuffle=False)
    assert inputs.shape == (2, 2, 2)


def test_the_graph_behind_a_sample_is_left_out() -> None:
    weight = torch.ones(2, requires_grad=True)
    [(inputs, targets)] = adapt_data([(weight * 2, weight)] * 2, 4, shuffle=False)
    assert not inputs.requires_grad
    assert not targets.requires_grad


ODD = [((torch.zeros(4), 0), "at entry 1"), ((torch.zeros(3),), "equal size"), ((None, 0), "None")]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("odd", "words"), ODD)
def test_what_a_loader_cannot_stack_is_named_by_its_batch(
    odd: Any, words: str, workers: int
) -> None:
    data = [*[(torch.zeros(3), 0)] * 3, odd]
    batches = DataLoader(Stored(data), batch_size=2, num_workers=workers)
    message = refusal(batches)
    assert message.startswith("batch 2: expected samples that the DataLoader can stack")
    assert words in message


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_dataset_stays_as_it_is(workers: int) -> None:
    class Breaks(Squares):
        def __getitem__(self, index: int) -> Any:
            raise ValueError("of the user")

    with pytest.raises(ValueError, match="of the user"):
        list(adapt_data(DataLoader(Breaks(), num_workers=workers), 4, shuffle=False))


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_row_is_called_by_the_index_of_its_sample(shuffle: bool) -> None:
    batches = adapt_data(pairs(6), 4, shuffle=shuffle)
    for _, targets in batches:
        names = [batches.name_of(row) for row in range(len(targets))]
        assert names == [f"the sample at index {index}" for index in targets.tolist()]


def test_a_row_of_a_loader_is_called_by_its_place() -> None:
    batches = adapt_data(
        DataLoader(TensorDataset(torch.zeros(2), torch.zeros(2))), 4, shuffle=False
    )
    next(iter(batches))
    assert batches.name_of(0) == "sample 0 of the batch"


@pytest.mark.parametrize("data", [pairs(6), Stored(pairs(6)), Stream(6), Stored([1.0] * 6)])
def test_inputs_of_samples_are_stacked(data: Any) -> None:
    assert [len(batch) for batch in adapt_inputs(data, 4)] == [4, 2]
