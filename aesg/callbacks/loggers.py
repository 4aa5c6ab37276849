"""Writes the logs of training into a file, line by line."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from aesg._files import write_whole
from aesg._seam import storage_errors
from aesg.callbacks.base import Callback, Logs
from aesg.callbacks.described import trainer_of
from aesg.callbacks.following import Following
from aesg.callbacks.paths import absolute, check_alone

Row = dict[str, Any]

_EPOCH = "epoch"


class _FileLogger(Callback):
    """Keeps a file of rows, each of which knows its epoch.

    A file that is of another training gets another name, ``metrics.1.csv`` for ``metrics.csv``, and
    so on: one that is there when the first epoch begins, or whose first row was not written by this
    logger, or by that of the training that `AESGTrainer.resume` goes on with. In its own file, rows
    of later epochs than the one resumed from are removed, and so is a last line that was cut off. A
    link, and what is no regular file, is only appended to.

    Parameters
    ----------
    path : str or path
        The file; folders above it are made.

    Raises
    ------
    AESGTrainingError
        If it is no path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = absolute(path)
        self._file: io.FileIO | None = None
        self._mark: str | None = None  # of the file of this training
        self._following = Following()

    def on_train_start(self, logs: Logs) -> None:
        """Open the file."""
        check_alone(self, _FileLogger)
        trainer = trainer_of(self)
        if not self._following.goes_on(trainer):
            self._mark = None
        with storage_errors(f"open log '{self.path}'"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self._is_plain() and self.path.stat().st_size:
                self._begin(trainer.epoch)
            else:
                self._mark = None
            self._open()

    def teardown(self, error: BaseException | None) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def state_dict(self) -> dict[str, Any]:
        """Return what tells the file of this training from others."""
        return {"mark": self._mark}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the file of that training."""
        self._mark = state.get("mark")
        self._following.resume()

    @abstractmethod
    def _rows(self, text: str) -> Iterable[Row]:
        """Return the rows of a file."""

    @abstractmethod
    def _text(self, rows: Iterable[Row]) -> str:
        """Return the file of some rows."""

    def _is_plain(self) -> bool:
        """Tell whether the path is that of a regular file, and no link to one."""
        return self.path.is_file() and not self.path.is_symlink()

    def _open(self) -> None:
        self._file = io.FileIO(self.path, "a")  # without a buffer: a line is written at once

    def _note(self, row: Row) -> None:
        """Remember a row that was written, if it is the first."""
        if self._mark is None:
            self._mark = _mark_of(self._rows(self._text([row])))

    def _write(self, line: str) -> None:
        if self._file is None:
            return
        with storage_errors(f"write log '{self.path}'"):
            content = line.encode()
            if self._file.write(content) != len(content):
                raise OSError("the line was cut off: the disk may be full")

    def _replace(self, rows: Iterable[Row]) -> None:
        """Write the whole file anew."""
        write_whole(self.path, self._text(rows).encode(), "write log")

    def _begin(self, done: int) -> None:
        """Go on with the file if it is of this training, or else give it another name."""
        content = self.path.read_bytes()
        rows = self._own(content[: content.rfind(b"\n") + 1]) if done else []
        if not rows:
            self._mark = None
            self.path.rename(_aside(self.path))
            return
        kept = [row for row in rows if int(row[_EPOCH]) <= done]
        self._mark = _mark_of(kept)
        if self._text(kept).encode() != content:
            self._replace(kept)

    def _own(self, content: bytes) -> list[Row]:
        """Return the rows of a file of this training; none of any other file."""
        try:
            rows = list(self._rows(content.decode()))
            if _mark_of(rows) == self._mark and all(int(row[_EPOCH]) > 0 for row in rows):
                return rows
        except (ValueError, KeyError, TypeError, AttributeError, csv.Error):
            pass
        return []


class CSVLogger(_FileLogger):
    """Writes the logs of each epoch as a line of a CSV file.

    The first line names the columns, ``epoch`` first; epochs count from 1. A name that comes later,
    of validation for instance, becomes a column that is empty in the lines before. Each line is in
    the file when its epoch has ended.

    A file of another training gets another name, ``metrics.1.csv`` for ``metrics.csv``, and so
    on. The file of this one is gone on with in a second `fit`, and after `AESGTrainer.resume`:
    lines of later epochs than the one resumed from are removed, and so is a last line that was cut
    off. A link, and what is no regular file, is only appended to.

    Parameters
    ----------
    path : str or path
        The file; folders above it are made.

    Raises
    ------
    AESGTrainingError
        If it is no path.
    """

    def __init__(self, path: str | os.PathLike[str] = "./metrics.csv") -> None:
        super().__init__(path)
        self._columns: list[str] = []

    def on_train_start(self, logs: Logs) -> None:
        """Open the file."""
        self._columns = []
        super().on_train_start(logs)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Write a line."""
        row = _row(epoch, logs)
        missing = [name for name in row if name not in self._columns]
        if missing:
            self._widen(missing)
        self._write(_csv([row], self._columns, header=False))
        self._note(row)

    def _begin(self, done: int) -> None:
        super()._begin(done)
        if not self.path.exists():
            self._columns = []  # were those of another training

    def _widen(self, names: list[str]) -> None:
        """Give the file more columns."""
        before, self._columns = self._columns, self._columns + names
        if not before or not self._is_plain():
            self._write(self._text([]))
            return
        with storage_errors(f"write log '{self.path}'"):
            rows = list(self._rows(self.path.read_bytes().decode()))
            self._columns = before + names
            self.teardown(None)
            self._replace(rows)
            self._open()

    def _rows(self, text: str) -> Iterator[Row]:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        self._columns = list(reader.fieldnames or self._columns)
        if self._columns and _EPOCH not in self._columns:
            raise ValueError(f"line 1: expected the column '{_EPOCH}' in {self._columns}")
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"line {reader.line_num}: expected {len(self._columns)} columns")
            yield row

    def _text(self, rows: Iterable[Row]) -> str:
        return _csv(rows, self._columns, header=bool(self._columns))


class JSONLLogger(_FileLogger):
    """Writes the logs of each epoch as a line of JSON.

    Epochs and batches count from 1. Lists and tensors are arrays. What is not finite is
    null, as JSON has no word for it. Each line is in the file when its epoch, or batch, has ended.

    A file of another training gets another name, ``metrics.1.jsonl`` for ``metrics.jsonl``, and so
    on. The file of this one is gone on with in a second `fit`, and after `AESGTrainer.resume`:
    lines of later epochs than the one resumed from are removed, and so is a last line that was cut
    off. A link, and what is no regular file, is only appended to.

    Parameters
    ----------
    path : str or path
        The file; folders above it are made.
    batches : bool
        Whether each batch gets a line as well; these have a ``"batch"``.

    Raises
    ------
    AESGTrainingError
        If ``path`` is no path.
    """

    def __init__(
        self, path: str | os.PathLike[str] = "./metrics.jsonl", batches: bool = False
    ) -> None:
        super().__init__(path)
        self.batches = batches
        self._epoch = 0

    def on_epoch_start(self, epoch: int, logs: Logs) -> None:
        """Note the epoch, for lines of batches."""
        self._epoch = epoch

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        """Write a line, where batches are wanted."""
        if self.batches:
            row = _row(self._epoch, logs)
            self._add({_EPOCH: row.pop(_EPOCH), "batch": batch + 1, **row})

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Write a line."""
        self._add(_row(epoch, logs))

    def _add(self, row: Row) -> None:
        self._write(self._text([row]))
        self._note(row)

    def _rows(self, text: str) -> Iterator[Row]:
        return (json.loads(line) for line in text.splitlines())

    def _text(self, rows: Iterable[Row]) -> str:
        return "".join(f"{json.dumps(_finite(row), allow_nan=False)}\n" for row in rows)


def _row(epoch: int, logs: Logs) -> Row:
    """Return what is written of some logs: numbers, texts, lists, and what others print as."""
    row = {name: _plain(value) for name, value in logs.items()}
    return {_EPOCH: epoch + 1, **{name: row[name] for name in row if name != _EPOCH}}


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # a tensor, or an array or number of numpy
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mark_of(rows: Iterable[Row]) -> str | None:
    """Return what tells the first row from that of another training; None where there is none."""
    for row in rows:
        # A column that came later is empty.
        filled = {name: value for name, value in row.items() if value not in (None, "")}
        return sha256(json.dumps(filled, sort_keys=True).encode()).hexdigest()
    return None


def _csv(rows: Iterable[Row], columns: list[str], *, header: bool) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _aside(path: Path) -> Path:
    """Return the name that a file of another training gets."""
    number = 1
    while os.path.lexists(found := path.with_name(f"{path.stem}.{number}{path.suffix}")):
        number += 1
    return found
