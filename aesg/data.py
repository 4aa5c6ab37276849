"""Whatever holds (input, target) pairs, as batches of tensors."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data._utils import collate

from aesg.errors import AESGTrainingError

Batch: TypeAlias = tuple[Tensor, Tensor]

_EMPTY = "Empty dataset provided. Training requires at least one sample."
_COLLATE = collate.__file__
_ACCEPTED = "a DataLoader, a Dataset or a list of (input, target) pairs"


def adapt_data(
    data: Any,
    batch_size: int,
    *,
    shuffle: bool,
    generator: torch.Generator | None = None,
    epochs: int = 1,
) -> Batches:
    """Make batches of any documented form of data.

    Parameters
    ----------
    data : DataLoader, Dataset, sequence or iterable
        A DataLoader is used as it is. Samples of a Dataset (map-style or iterable), a list or
        another iterable are pairs of tensors, numpy arrays or numbers, and are stacked.
    batch_size : int
        Samples of a batch, at least 1. A DataLoader brings its own.
    shuffle : bool
        Whether the samples come in another order at each pass. Only data that can be indexed is
        shuffled; a DataLoader and an iterable decide for themselves.
    generator : torch.Generator, optional
        Source of the order. Torch's global generator is never drawn from.
    epochs : int
        How many passes will be made, at least 1.

    Returns
    -------
    Batches
        An iterable over pairs (inputs, targets).

    Raises
    ------
    AESGTrainingError
        If the data is of another kind or empty; if a sample of a list is not a pair, is not
        numeric or cannot be stacked with the others (a Dataset's samples are judged when they are
        read); or if several passes are asked of an iterator, which allows one.
    """
    if isinstance(data, DataLoader):
        return Batches(data)
    dataset = _as_dataset(data, batch_size, epochs)
    return Batches(
        DataLoader(
            dataset,
            batch_size=batch_size,
            shuffle=shuffle and not isinstance(dataset, IterableDataset),
            collate_fn=_stack,
            generator=generator if generator is not None else torch.Generator(),
        )
    )


def adapt_inputs(data: Any, batch_size: int) -> Iterator[Tensor]:
    """Yield batches of inputs without targets.

    Parameters
    ----------
    data : iterable of (B, ...) tensors or arrays, or data as for `adapt_data`
        A list of pairs and a Dataset hold samples, which are stacked; whatever else, a DataLoader
        too, holds batches. Of pairs the inputs are taken.
    batch_size : int
        As for `adapt_data`.

    Yields
    ------
    (B, ...) tensor
        On the device where it was.

    Raises
    ------
    AESGTrainingError
        If it is not an iterable, or yields anything but tensors, arrays or pairs; or if it is a
        pair itself, of inputs and targets.
    """
    if isinstance(data, tuple) and _is_pair_of_all(data):
        raise AESGTrainingError(
            "inputs: expected the inputs alone, got a pair of tensors, as of inputs and targets; "
            "for two batches give a list"
        )
    if isinstance(data, DataLoader):
        yield from (_inputs_in(batch, number) for number, batch in enumerate(data, 1))
    elif isinstance(data, Dataset):
        yield from (inputs for inputs, _ in adapt_data(_Asked(data), batch_size, shuffle=False))
    elif isinstance(data, (list, tuple)) and data and isinstance(data[0], (list, tuple)):
        yield from (inputs for inputs, _ in adapt_data(data, batch_size, shuffle=False))
    elif isinstance(data, Iterable):
        yield from (_inputs_in(batch, number) for number, batch in enumerate(data, 1))
    else:
        raise AESGTrainingError(
            f"inputs: expected a tensor, an iterable of tensors, or {_ACCEPTED}, "
            f"got {_describe(data)}"
        )


def _inputs_in(batch: Any, number: int) -> Tensor:
    inputs = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
    if isinstance(inputs, np.ndarray):
        return as_tensor(inputs, f"inputs, batch {number}")
    if not isinstance(inputs, Tensor):
        raise AESGTrainingError(
            f"inputs: expected tensors or arrays, got {_describe(inputs)} as batch {number}"
        )
    return inputs


class _Asked:
    """Samples of a Dataset without what they are to lead to."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        samples = range(len(self._source)) if hasattr(self._source, "__len__") else ()
        items = (
            self._source
            if isinstance(self._source, IterableDataset)
            else (self._source[index] for index in samples)
        )
        for item in items:
            yield (item[0] if isinstance(item, (list, tuple)) and item else item), 0


class Batches:
    """Batches of (inputs, targets); every `iter` is a new pass.

    Parameters
    ----------
    loader : DataLoader
        What yields them.

    Raises
    ------
    AESGTrainingError
        During a pass, if samples cannot be stacked, a batch is not a pair of tensors, or there is
        none.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self._indices: list[int] | None = None

    @property
    def total(self) -> int | None:
        """Batches of one pass; None where the data does not say."""
        try:
            return len(self.loader)
        except TypeError:
            return None

    def __iter__(self) -> Iterator[Batch]:
        count = 0
        for count, batch in enumerate(_collated(self.loader), 1):
            self._indices = batch.indices if isinstance(batch, _Stacked) else None
            yield _as_batch(batch, count)
        if not count:
            raise AESGTrainingError(self._nothing())

    def name_of(self, row: int) -> str:
        """Return what to call a sample of the batch that came last, by its row in it."""
        if self._indices is None:
            return f"sample {row} of the batch"
        return f"the sample at index {self._indices[row]}"

    def _nothing(self) -> str:
        if self.loader.batch_size is None or not self.loader.drop_last:
            return _EMPTY
        return (
            "the DataLoader yielded no batch: expected at least one full batch of "
            f"{self.loader.batch_size} samples, since drop_last is set"
        )


def _collated(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield what a DataLoader does; say which batch torch could not stack."""
    batches, number = iter(loader), 0
    while True:
        number += 1
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            if not _is_of_collating(error):
                raise  # of the dataset's own making
            reason = str(error).strip().rpartition("\n")[2]
            raise AESGTrainingError(
                f"batch {number}: expected samples that the DataLoader can stack, pairs of tensors "
                f"or numbers of one shape: {reason} (entries are counted within the batch; pad or "
                "cut them in the Dataset, or give the DataLoader a collate_fn)"
            ) from error
        yield batch


def _is_of_collating(error: BaseException) -> bool:
    """Tell whether an error was raised where torch stacks samples, here or in a worker."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(each.filename == _COLLATE for each in frames[-3:]) or f'"{_COLLATE}"' in str(error)


class _Sample(NamedTuple):
    position: int
    inputs: Tensor
    targets: Tensor


class _Stacked(NamedTuple):
    """A batch, and where its samples stood in the data."""

    inputs: Tensor
    targets: Tensor
    indices: list[int]


class _Indexed(Dataset[_Sample]):
    """Samples of a map-style source, each with its index."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> _Sample:
        return _as_sample(self._source[index], index)


class _Stream(IterableDataset[_Sample]):
    """Samples of an iterable, each with its position."""

    def __init__(self, source: Iterable[Any]) -> None:
        self._source = source

    def __iter__(self) -> Iterator[_Sample]:
        for index, item in enumerate(self._source):
            yield _as_sample(item, index)


def _as_dataset(data: Any, batch_size: int, epochs: int) -> Dataset[_Sample]:
    if isinstance(data, (list, tuple)):
        return _as_list(data, batch_size)
    if isinstance(data, (Tensor, np.ndarray)):
        raise AESGTrainingError(
            f"expected {_ACCEPTED}, got {_describe(data)} alone: with the targets it is "
            "TensorDataset(inputs, targets)"
        )
    if isinstance(data, Mapping):
        raise AESGTrainingError(f"expected {_ACCEPTED}, got {_describe(data)}")
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        return _as_stream(data, epochs)
    if not hasattr(data, "__len__"):
        raise AESGTrainingError(f"expected a Dataset with a length, got {_describe(data)}")
    return _not_empty(_Indexed(data))


def _as_list(data: Sequence[Any], batch_size: int) -> Dataset[_Sample]:
    """Convert every sample once, and judge all of them before the first step is made."""
    if _is_pair_of_all(data):
        raise AESGTrainingError(
            f"expected {_ACCEPTED}, got a pair of {type(data[0]).__name__}s: for inputs and "
            "targets of all samples use TensorDataset(inputs, targets)"
        )
    samples = [_as_sample(item, index) for index, item in enumerate(data)]
    if samples:
        _check_alike(samples, shapes=batch_size > 1)
    return _not_empty(_Indexed([(sample.inputs, sample.targets) for sample in samples]))


def _is_pair_of_all(data: Sequence[Any]) -> bool:
    """Tell whether data is inputs and targets of all samples, instead of samples."""
    return len(data) == 2 and all(isinstance(each, (Tensor, np.ndarray)) for each in data)


def _as_stream(data: Any, epochs: int) -> Dataset[_Sample]:
    if not isinstance(data, Iterable):
        raise AESGTrainingError(f"expected {_ACCEPTED}, got {_describe(data)}")
    if isinstance(data, Iterator) and epochs > 1:
        raise AESGTrainingError(
            f"{epochs} epochs need data that can be read {epochs} times, got {_describe(data)}, "
            "which can be read once: pass list(data)"
        )
    return _Stream(data)


def _not_empty(dataset: _Indexed) -> _Indexed:
    if not len(dataset):
        raise AESGTrainingError(_EMPTY)
    return dataset


def _as_sample(item: Any, index: int) -> _Sample:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise AESGTrainingError(
            f"sample at index {index}: expected a pair (input, target), got {_describe(item)}"
        )
    inputs = as_tensor(item[0], f"input of the sample at index {index}")
    return _Sample(index, inputs, as_tensor(item[1], f"target of the sample at index {index}"))


def as_tensor(value: Any, where: str) -> Tensor:
    """Return a tensor of numbers that have no graph behind them.

    Parameters
    ----------
    value : tensor, array or number
    where : str
        What it is, for messages.

    Raises
    ------
    AESGTrainingError
        If it is nothing of these, or empty.
    """
    if isinstance(value, (list, tuple)) and any(isinstance(each, np.ndarray) for each in value):
        value = np.array(value)  # torch warns of how long it takes
    if isinstance(value, np.ndarray) and not (value.flags.writeable and _runs_on(value)):
        value = value.copy()  # torch warns of what it may not write to, and reads nothing backwards
    try:
        tensor = torch.as_tensor(value).detach()  # the graph of a sample would be gone after a step
    except (TypeError, ValueError, RuntimeError) as error:
        raise AESGTrainingError(
            f"{where}: expected a tensor, an array or a number, got {_describe(value)} ({error})"
        ) from error
    if not tensor.numel():
        raise AESGTrainingError(
            f"{where}: expected at least one element, got shape {tuple(tensor.shape)}"
        )
    return tensor


def _runs_on(array: NDArray[Any]) -> bool:
    return all(stride >= 0 for stride in array.strides)


def _stack(samples: Sequence[_Sample]) -> _Stacked:
    _check_alike(samples)
    inputs = torch.stack([sample.inputs for sample in samples])
    targets = torch.stack([sample.targets for sample in samples])
    return _Stacked(inputs, targets, [sample.position for sample in samples])


def _check_alike(samples: Sequence[_Sample], *, shapes: bool = True) -> None:
    """Refuse samples of several shapes, or of several kinds of numbers.

    Torch would make all of a batch floating where one of its samples is: a batch of classes would
    become one of distances.
    """
    first = samples[0]
    for each in samples:
        for part, got, like in (
            ("input", each.inputs, first.inputs),
            ("target", each.targets, first.targets),
        ):
            if got.shape == like.shape and got.dtype == like.dtype:
                continue
            what, where = f"{part} of the sample at index {each.position}", first.position
            if shapes and got.shape != like.shape:
                raise AESGTrainingError(
                    f"{what}: expected shape {tuple(like.shape)}, as at index {where}, got "
                    f"{tuple(got.shape)}; samples of a batch must have one shape (pad or cut "
                    "them, or use batch_size=1)"
                )
            if _kind(got.dtype) != _kind(like.dtype):
                raise AESGTrainingError(
                    f"{what}: expected {like.dtype}, as at index {where}, got {got.dtype}; all "
                    "must be integers (classes, tokens) or all floating"
                )


def _kind(dtype: torch.dtype) -> str:
    if dtype.is_floating_point or dtype.is_complex:
        return "complex" if dtype.is_complex else "floating"
    return "bool" if dtype == torch.bool else "integer"


def _as_batch(batch: Any, number: int) -> Batch:
    if isinstance(batch, _Stacked):
        return batch.inputs, batch.targets
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        inputs, targets = batch
        if isinstance(inputs, Tensor) and isinstance(targets, Tensor):
            if not (inputs.numel() and targets.numel()):
                raise AESGTrainingError(
                    f"batch {number}: expected at least one sample, got inputs of shape "
                    f"{tuple(inputs.shape)} and targets of shape {tuple(targets.shape)}"
                )
            return inputs, targets
        raise AESGTrainingError(
            f"batch {number}: expected a pair of tensors (inputs, targets), got "
            f"{_describe(inputs)} and {_describe(targets)}"
        )
    raise AESGTrainingError(
        f"batch {number}: expected a pair of tensors (inputs, targets), got {_describe(batch)}"
    )


def _describe(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
