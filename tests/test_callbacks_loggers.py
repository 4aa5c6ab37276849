from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aesg.callbacks import Callback, CSVLogger, JSONLLogger
from aesg.errors import AESGStorageError, AESGTrainingError
from tests.callback_runs import Run, losses

LOGGERS = [CSVLogger, JSONLLogger]


def rows(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a file as another program reads them."""
    with open(path, newline="") as file:
        if Path(path).suffix == ".csv":
            return list(csv.DictReader(file, strict=True))
        return [json.loads(line, parse_constant=pytest.fail) for line in file]


def written(path: str | Path) -> list[tuple[int, float]]:
    return [(int(row["epoch"]), float(row["loss"])) for row in rows(path)]


def log(make: Callable[..., Callback], path: str | Path, *values: float, epoch: int = 0) -> Any:
    """Write the file of a new training; return the state of its callbacks."""
    run = Run(make(path), epoch=epoch)
    run.fit(losses(*values))
    return run.callbacks.state_dict()


def resumed(state: Any, *callbacks: Callback, epoch: int) -> Run:
    """Return a training that goes on, as `AESGTrainer.resume` makes it."""
    run = Run(*callbacks, epoch=epoch)
    run.callbacks.load_state_dict(state)
    return run


@pytest.fixture(params=LOGGERS, ids=["csv", "jsonl"])
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    chosen: Callable[..., Any] = request.param
    return chosen


@pytest.fixture
def path(make: type[CSVLogger | JSONLLogger], tmp_path: Path) -> Path:
    return tmp_path / f"metrics.{make.__name__.removesuffix('Logger').lower()}"


def test_each_epoch_is_a_line(make: Any, path: Path) -> None:
    log(make, path, 2.0, 1.5)
    assert written(path) == [(1, 2.0), (2, 1.5)]


def test_the_line_is_there_when_its_epoch_has_ended(make: Any, path: Path) -> None:
    seen: list[int] = []

    class Reading(Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
            seen.append(len(rows(path)))

    Run(make(path), Reading()).fit(losses(1.0, 1.0))
    assert seen == [1, 2]


def test_folders_above_the_file_are_made(make: Any, path: Path) -> None:
    log(make, path.parent / "a" / "b" / path.name, 1.0)
    assert written(path.parent / "a" / "b" / path.name) == [(1, 1.0)]


def test_a_second_fit_goes_on_with_the_file(make: Any, path: Path) -> None:
    run = Run(make(path))
    run.fit(losses(3.0, 2.0))
    run.fit(losses(1.0))
    assert written(path) == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_a_resumed_training_goes_on_with_the_file(make: Any, path: Path) -> None:
    state = log(make, path, 3.0, 2.0)
    resumed(state, make(path), epoch=2).fit(losses(1.0))
    assert written(path) == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert path.read_text().count("learning_rate") == 0
    assert len(path.read_text().splitlines()) == 3 + (path.suffix == ".csv")


def test_a_resumed_training_replaces_the_epochs_that_it_goes_through_again(
    make: Any, path: Path
) -> None:
    state = log(make, path, 5.0, 4.0, 3.0, 2.0)
    resumed(state, make(path), epoch=2).fit(losses(1.0))
    assert written(path) == [(1, 5.0), (2, 4.0), (3, 1.0)]


def test_a_new_training_leaves_the_file_of_an_earlier_one(make: Any, path: Path) -> None:
    for value in (1.0, 2.0, 3.0):
        log(make, path, value)
    assert written(path) == [(1, 3.0)]
    assert written(path.with_name(f"metrics.1{path.suffix}")) == [(1, 1.0)]
    assert written(path.with_name(f"metrics.2{path.suffix}")) == [(1, 2.0)]


@pytest.mark.parametrize("cut", range(1, len("2,2.125\n") + 1))
def test_a_last_line_that_was_cut_off_is_removed(make: Any, path: Path, cut: int) -> None:
    state = log(make, path, 3.25, 2.125)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    resumed(state, make(path), epoch=2).fit(losses(1.0))
    assert written(path) == [(1, 3.25), (3, 1.0)]


@pytest.mark.parametrize(
    "content",
    [
        b"epo",
        b"not a log\nof any\n",
        b"a,b\n1,2\n",
        b'{"a": 1}\n',
        b"[]\n",
        b"5\n",
        b"\xff\xfe\x00\n",
    ],
)
def test_a_file_of_something_else_gets_another_name(make: Any, path: Path, content: bytes) -> None:
    state = log(make, path, 3.0, 2.0)
    path.write_bytes(content)
    resumed(state, make(path), epoch=2).fit(losses(1.0))
    assert path.with_name(f"metrics.1{path.suffix}").read_bytes() == content
    assert written(path) == [(3, 1.0)]


def test_a_logger_that_is_added_later_leaves_the_file_of_another_training(
    make: Any, path: Path
) -> None:
    log(make, path, 4.0, 3.0, 2.0)
    run = Run()
    run.fit(losses(1.5))
    run.callbacks.append(make(path))
    run.fit(losses(1.0))
    assert written(path) == [(2, 1.0)]
    assert written(path.with_name(f"metrics.1{path.suffix}")) == [(1, 4.0), (2, 3.0), (3, 2.0)]


def test_a_resumed_training_leaves_the_file_of_another_one(make: Any, path: Path) -> None:
    state = log(make, path.with_name("another"), 5.0, 4.0)
    log(make, path, 3.0, 2.0, 1.0)
    resumed(state, make(path), epoch=1).fit(losses(0.5))
    assert written(path) == [(2, 0.5)]
    aside = path.with_name(f"metrics.1{path.suffix}")
    assert written(aside) == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_a_logger_that_another_trainer_gets_begins_another_file(make: Any, path: Path) -> None:
    logger = make(path)
    Run(logger).fit(losses(4.0, 3.0, 2.0))
    Run(logger, epoch=1).fit(losses(1.0))
    assert written(path) == [(2, 1.0)]
    assert len(rows(path.with_name(f"metrics.1{path.suffix}"))) == 3


def test_going_back_in_one_training_removes_the_lines_of_later_epochs(
    make: Any, path: Path
) -> None:
    run = Run(make(path))
    run.fit(losses(4.0, 3.0, 2.0))
    run.epoch = 1  # as `load` does
    run.fit(losses(1.0))
    assert written(path) == [(1, 4.0), (2, 1.0)]
    assert os.listdir(path.parent) == [path.name]


def test_a_file_that_was_removed_between_is_begun_anew_and_gone_on_with(
    make: Any, path: Path
) -> None:
    run = Run(make(path))
    run.fit(losses(3.0))
    path.unlink()
    run.fit(losses(2.0))
    run.fit(losses(1.0))
    assert written(path) == [(2, 2.0), (3, 1.0)]


def test_a_link_stays_and_its_file_is_only_appended_to(make: Any, path: Path) -> None:
    behind = path.with_name("behind")
    behind.write_text("before\n")
    path.symlink_to(behind)
    run = Run(make(path))
    run.fit(losses(2.0))
    run.fit([{"loss": 1.0, "val_loss": 0.5}])
    assert path.is_symlink()
    assert sorted(os.listdir(path.parent)) == sorted(["behind", path.name])
    before, *lines = behind.read_text().splitlines()
    assert before == "before"
    if path.suffix == ".csv":
        assert lines == ["epoch,loss", "1,2.0", "epoch,loss,val_loss", "2,1.0,0.5"]
    else:
        assert [json.loads(line)["loss"] for line in lines] == [2.0, 1.0]


def test_a_name_that_a_dangling_link_has_is_taken(make: Any, path: Path) -> None:
    log(make, path, 2.0)
    taken = path.with_name(f"metrics.1{path.suffix}")
    taken.symlink_to("nowhere")
    log(make, path, 1.0)
    assert taken.is_symlink()
    assert written(path.with_name(f"metrics.2{path.suffix}")) == [(1, 2.0)]


def test_a_folder_in_its_place_is_refused(make: Any, path: Path) -> None:
    path.mkdir()
    with pytest.raises(AESGStorageError, match=f"on_train_start: Failed to open log '{path}'"):
        log(make, path, 1.0)
    assert path.is_dir()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
def test_a_full_disk_is_an_error_that_names_the_file(make: Any) -> None:
    with pytest.raises(AESGStorageError, match=r"/dev/full"):
        log(make, "/dev/full", 1.0)


@pytest.mark.parametrize("given", ["", None, 3, b"bytes"])
def test_what_is_no_path_is_refused(make: Any, given: Any) -> None:
    with pytest.raises(AESGTrainingError, match="path: expected the path of a file or folder"):
        make(given)


def test_the_file_is_closed_after_an_error(make: Any, path: Path) -> None:
    class Failing(Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
            raise ValueError("bad")

    callback = make(path)
    with pytest.raises(AESGTrainingError, match="Failing"):
        Run(callback, Failing()).fit(losses(1.0))
    assert written(path) == [(1, 1.0)]
    path.unlink()
    log(make, path, 2.0)
    assert written(path) == [(1, 2.0)]


def test_values_of_torch_and_numpy_are_numbers(make: Any, path: Path) -> None:
    Run(make(path)).fit([{"loss": torch.tensor(1.5), "b": np.float64(2.5), "c": np.int64(3)}])
    (row,) = rows(path)
    assert [float(row[name]) for name in ("loss", "b", "c")] == [1.5, 2.5, 3.0]


def test_what_is_no_number_is_text(make: Any, path: Path) -> None:
    text = 'a, "quoted"\nline of é\u2028'
    Run(make(path)).fit([{"loss": 1.0, "note": text, "path": Path("a")}])
    (row,) = rows(path)
    assert (row["note"], row["path"]) == (text, "a")


def test_lists_are_arrays_of_json_and_text_in_csv(make: Any, path: Path) -> None:
    logs = {"loss": 1.0, "each": [0.5, np.float32(0.25)], "of": torch.tensor([[1], [2]])}
    Run(make(path)).fit([logs | {"by": {"a": (1, math.nan)}}])
    (row,) = rows(path)
    found = [row[name] for name in ("each", "of", "by")]
    if path.suffix == ".csv":
        assert found == ["[0.5, 0.25]", "[[1], [2]]", "{'a': [1, nan]}"]
    else:
        assert found == [[0.5, 0.25], [[1], [2]], {"a": [1, None]}]


def test_every_digit_of_a_number_is_kept(make: Any, path: Path) -> None:
    log(make, path, 1 / 3, 1e-17)
    assert [loss for _, loss in written(path)] == [1 / 3, 1e-17]


def test_csv_says_nan_and_infinity() -> None:
    log(CSVLogger, "metrics.csv", math.nan, math.inf)
    found = [loss for _, loss in written("metrics.csv")]
    assert math.isnan(found[0])
    assert found[1] == math.inf


def test_json_has_null_for_what_is_not_finite() -> None:
    log(JSONLLogger, "metrics.jsonl", math.nan, -math.inf)
    assert [row["loss"] for row in rows("metrics.jsonl")] == [None, None]


def test_a_column_that_comes_later_is_empty_before() -> None:
    run = Run(CSVLogger("metrics.csv"))
    run.fit([{"loss": 3.0}, {"loss": 2.0, "val_loss": 2.5}, {"loss": 1.0}])
    assert rows("metrics.csv") == [
        {"epoch": "1", "loss": "3.0", "val_loss": ""},
        {"epoch": "2", "loss": "2.0", "val_loss": "2.5"},
        {"epoch": "3", "loss": "1.0", "val_loss": ""},
    ]
    state = run.callbacks.state_dict()
    resumed(state, CSVLogger("metrics.csv"), epoch=3).fit(losses(0.5))
    resumed(state, CSVLogger("metrics.csv"), epoch=4).fit([{"extra": 1, "loss": 0.25}])
    assert Path("metrics.csv").read_text().splitlines()[0] == "epoch,loss,val_loss,extra"
    assert rows("metrics.csv")[3:] == [
        {"epoch": "4", "loss": "0.5", "val_loss": "", "extra": ""},
        {"epoch": "5", "loss": "0.25", "val_loss": "", "extra": "1"},
    ]
    assert os.listdir() == ["metrics.csv"]


def test_lines_of_batches_are_counted_within_their_epoch() -> None:
    batches = [{"loss": 4.0, "samples": 8}, {"loss": 2.0, "samples": 8}]
    Run(JSONLLogger("metrics.jsonl", batches=True)).fit(losses(3.0, 3.0), batches=batches)
    found = [(row["epoch"], row.get("batch"), row["loss"]) for row in rows("metrics.jsonl")]
    assert found == [
        *((1, 1, 4.0), (1, 2, 2.0), (1, None, 3.0)),
        *((2, 1, 4.0), (2, 2, 2.0), (2, None, 3.0)),
    ]


def test_batches_of_an_epoch_that_is_gone_through_again_are_replaced() -> None:
    batches = [{"loss": 4.0, "samples": 8}]
    run = Run(JSONLLogger("metrics.jsonl", batches=True))
    run.fit(losses(3.0), batches=batches)
    with open("metrics.jsonl", "a") as file:  # then the process was killed
        file.write('{"epoch": 2, "batch": 1, "loss": 3.5, "samples": 8}\n{"epoch": 2, "ba')
    state = run.callbacks.state_dict()
    again = resumed(state, JSONLLogger("metrics.jsonl", batches=True), epoch=1)
    again.fit(losses(2.0), batches=batches)
    found = [(row["epoch"], row.get("batch")) for row in rows("metrics.jsonl")]
    assert found == [(1, 1), (1, None), (2, 1), (2, None)]


def test_by_default_batches_are_not_written() -> None:
    Run(JSONLLogger()).fit(losses(3.0), batches=[{"loss": 4.0, "samples": 8}])
    assert len(rows("metrics.jsonl")) == 1


def test_the_path_stays_when_the_program_goes_to_another_folder(
    make: Any, path: Path, tmp_path: Path
) -> None:
    run = Run(make(path.name))
    (tmp_path / "other").mkdir()
    os.chdir(tmp_path / "other")
    run.fit(losses(1.0))
    assert written(path) == [(1, 1.0)]


def test_two_of_one_path_are_refused() -> None:
    run = Run(CSVLogger("metrics"), JSONLLogger("metrics"))
    with pytest.raises(AESGTrainingError, match=r"got '.*/metrics' also for JSONLLogger"):
        run.fit(losses(1.0))
    assert os.listdir() == []
