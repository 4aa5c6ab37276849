"""What Weights & Biases is given, offline, as its files hold it."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import wandb
from torch import Tensor
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

from aesg import AESGDecoderLM, AESGTrainer, AESGTrainingError
from aesg.callbacks.base import Callback
from aesg.callbacks.wandb import WandBCallback

VOCABULARY = 12


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    if wandb.run is not None:
        wandb.finish()


def samples() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    text = torch.randint(0, VOCABULARY, (8, 7))
    return [(row[:-1], row[1:]) for row in text]


def language_model(storage_dir: str = "./memory") -> AESGDecoderLM:
    torch.manual_seed(0)
    size = {"hidden_size": 8, "num_layers": 1, "nhead": 2, "vector_dim": 8}
    return AESGDecoderLM.sized(vocab_size=VOCABULARY, storage_dir=storage_dir, **size)


def trainer_with(*callbacks: Callback, model: AESGDecoderLM | None = None) -> AESGTrainer:
    return AESGTrainer(model or language_model(), callbacks=callbacks, batch_size=4)


def offline(**options: Any) -> WandBCallback:
    return WandBCallback(project="tests", mode="offline", log_dir="logs", **options)


def runs() -> list[list[Record]]:
    """Return the records of each finished run, the oldest first."""
    files = Path("logs/wandb").glob("offline-run-*/*.wandb")
    return [finished(path) for path in sorted(files, key=lambda path: path.stat().st_ctime_ns)]


def finished(path: Path) -> list[Record]:
    """Wait for the last record: W&B writes in a process of its own."""
    until = time.monotonic() + 30
    while not (run := list(records(path))) or not run[-1].HasField("exit"):
        assert time.monotonic() < until, f"{path} has no end"
        time.sleep(0.05)
    return run


def records(path: Path) -> Iterator[Record]:
    """Read a log in the format of LevelDB: blocks of 32 KiB, each of them a row of fragments."""
    data, place, joined = path.read_bytes(), len(":W&B") + 3, b""
    while place + 7 <= len(data):
        left = -place % 32_768
        if 0 < left < 7:  # no room for another header
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        joined += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last fragment
            yield Record.FromString(joined)
            joined = b""


def rows(run: list[Record]) -> list[dict[str, Any]]:
    return [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in each.history.item}
        for each in run
        if each.HasField("history")
    ]


def config(run: list[Record]) -> dict[str, Any]:
    (begun,) = [each.run for each in run if each.HasField("run")]
    return {item.key: json.loads(item.value_json) for item in begun.config.update}


def exit_codes(run: list[Record]) -> list[int]:
    return [each.exit.exit_code for each in run if each.HasField("exit")]


def test_an_offline_run_holds_steps_epochs_and_settings() -> None:
    trainer = trainer_with(offline(config={"corpus": "noise"}))
    losses = trainer.fit(samples(), epochs=2, validation_data=samples(), validation_metrics=False)
    assert wandb.run is None
    (run,) = runs()
    logged = rows(run)
    steps = [row["global_step"] for row in logged if "train/batch_loss" in row]
    assert steps == [1, 2, 3, 4]
    epochs = [row for row in logged if "train/loss" in row]
    assert [row["global_step"] for row in epochs] == [2, 4]
    assert [row["train/loss"] for row in epochs] == pytest.approx(losses)
    assert [row["validation/loss"] for row in epochs] == pytest.approx(
        [epoch["val_loss"] for epoch in trainer.history]
    )
    assert epochs[-1]["memory/provisional"] == trainer.history[-1]["provisional"] > 0
    assert {"memory/concepts", "memory/edges", "progress/learning_rate"} <= set(epochs[0])
    said = config(run)
    assert (said["model"], said["batch_size"]) == ("AESGDecoderLM", 4)
    assert (said["memory.vector_dim"], said["corpus"]) == (8, "noise")
    assert exit_codes(run) == [0]


class Raising(Callback):
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        raise self.error


def test_the_run_is_finished_after_an_interrupt() -> None:
    trainer_with(offline(), Raising(KeyboardInterrupt())).fit(samples())
    assert wandb.run is None
    assert [exit_codes(run) for run in runs()] == [[0]]


def test_the_run_has_failed_after_an_error() -> None:
    with pytest.raises(AESGTrainingError, match="no more"):
        trainer_with(offline(), Raising(ValueError("no more"))).fit(samples())
    assert wandb.run is None
    assert [exit_codes(run) for run in runs()] == [[1]]


def test_a_resumed_training_goes_on_in_its_run() -> None:
    first = offline()
    trainer = trainer_with(first)
    trainer.fit(samples())
    trainer.save("checkpoint")
    other = offline()
    resumed = trainer_with(other, model=language_model("./other"))
    resumed.resume("checkpoint")
    resumed.fit(samples())
    assert other.state_dict() == first.state_dict()
    begun = [each.run.run_id for run in runs() for each in run if each.HasField("run")]
    assert begun == [first.state_dict()["id"]] * 2
    steps = [row["global_step"] for run in runs() for row in rows(run) if "train/loss" in row]
    assert steps == [2, 4]


def test_a_run_that_is_active_already_is_used_and_stays_open() -> None:
    with wandb.init(mode="offline", dir=".", project="mine") as run:
        callback = offline()
        trainer_with(callback).fit(samples())
        assert wandb.run is run
        assert callback.state_dict()["id"] == run.id
        assert run.config["memory.vector_dim"] == 8
    assert not Path("logs").exists()


def test_without_wandb_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(AESGTrainingError, match=r"pip install 'aesg\[wandb\]'"):
        WandBCallback()


def test_its_own_folder_is_not_taken_for_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("wandb").mkdir()  # can be imported as a package without contents
    monkeypatch.setitem(sys.modules, "wandb", type(sys)("wandb"))
    with pytest.raises(AESGTrainingError, match="expected wandb to be installed"):
        WandBCallback()
