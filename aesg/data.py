"""Whatever holds (input, target) pairs, as batches of tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from aesg.errors import AESGTrainingError

Batch: TypeAlias = tuple[Tensor, Tensor]

_EMPTY = "Empty dataset provided. Training requires at least one sample."
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


def adapt_inputs(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield batches of inputs without targets.

    Parameters
    ----------
    batches : iterable of (B, ...) tensors
        Read once.

    Raises
    ------
    AESGTrainingError
        If it is not an iterable, or yields anything but a tensor.
    """
    if not isinstance(batches, Iterable):
        raise AESGTrainingError(
            f"inputs: expected a tensor or an iterable of tensors, got {_describe(batches)}"
        )
    for number, batch in enumerate(batches, 1):
        if not isinstance(batch, Tensor):
            raise AESGTrainingError(
                f"inputs: expected tensors, got {_describe(batch)} as batch {number}"
            )
        yield batch


class Batches:
    """Batches of (inputs, targets); every `iter` is a new pass.

    Parameters
    ----------
    loader : DataLoader
        What yields them.

    Raises
    ------
    AESGTrainingError
        During a pass, if a batch is not a pair of tensors or there is none.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self._loader = loader

    @property
    def total(self) -> int | None:
        """Batches of one pass; None where the data does not say."""
        try:
            return len(self._loader)
        except TypeError:
            return None

    def __iter__(self) -> Iterator[Batch]:
        count = 0
        for batch in self._loader:
            count += 1
            yield _as_batch(batch, count)
        if not count:
            raise AESGTrainingError(self._nothing())

    def _nothing(self) -> str:
        if self._loader.batch_size is None or not self._loader.drop_last:
            return _EMPTY
        return (
            "the DataLoader yielded no batch: expected at least one full batch of "
            f"{self._loader.batch_size} samples, since drop_last is set"
        )


class _Sample(NamedTuple):
    position: int
    inputs: Tensor
    targets: Tensor


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
    if isinstance(data, Mapping):
        raise AESGTrainingError(f"expected {_ACCEPTED}, got {_describe(data)}")
    if isinstance(data, IterableDataset) or not hasattr(data, "__getitem__"):
        return _as_stream(data, epochs)
    if not hasattr(data, "__len__"):
        raise AESGTrainingError(f"expected a Dataset with a length, got {_describe(data)}")
    return _not_empty(_Indexed(data))


def _as_list(data: Sequence[Any], batch_size: int) -> Dataset[_Sample]:
    """Convert every sample once, and judge all of them before the first step is made."""
    samples = [_as_sample(item, index) for index, item in enumerate(data)]
    if batch_size > 1:
        _check_shapes(samples)
    return _not_empty(_Indexed([(sample.inputs, sample.targets) for sample in samples]))


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
    inputs = _as_tensor(item[0], f"input of the sample at index {index}")
    return _Sample(index, inputs, _as_tensor(item[1], f"target of the sample at index {index}"))


def _as_tensor(value: Any, where: str) -> Tensor:
    if isinstance(value, np.ndarray) and not value.flags.writeable:
        value = value.copy()  # torch warns of memory that it may not write to
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise AESGTrainingError(
            f"{where}: expected a tensor, an array or a number, got {_describe(value)} ({error})"
        ) from error


def _stack(samples: Sequence[_Sample]) -> Batch:
    _check_shapes(samples)
    inputs = torch.stack([sample.inputs for sample in samples])
    return inputs, torch.stack([sample.targets for sample in samples])


def _check_shapes(samples: Sequence[_Sample]) -> None:
    for sample in samples:
        _check_shape(
            "input", sample.inputs, sample.position, samples[0].inputs, samples[0].position
        )
        _check_shape(
            "target", sample.targets, sample.position, samples[0].targets, samples[0].position
        )


def _check_shape(part: str, got: Tensor, index: int, like: Tensor, like_index: int) -> None:
    if got.shape != like.shape:
        raise AESGTrainingError(
            f"{part} of the sample at index {index}: expected shape {tuple(like.shape)}, as at "
            f"index {like_index}, got {tuple(got.shape)}; samples of a batch must have "
            "one shape (pad or cut them, or use batch_size=1)"
        )


def _as_batch(batch: Any, number: int) -> Batch:
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        inputs, targets = batch
        if isinstance(inputs, Tensor) and isinstance(targets, Tensor):
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
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__
