from __future__ import annotations

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from types import SimpleNamespace
from typing import Any

import pytest

from aesg.callbacks import Callback, Callbacks, ProgressBar
from aesg.errors import AESGTrainingError
from tests.callback_runs import Run, losses


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class LostTerminal(Terminal):
    attempts = 0

    def write(self, text: str) -> int:
        self.attempts += 1
        raise BrokenPipeError


BATCHES = [{"loss": 1.0, "samples": 3}, {"loss": 0.5, "samples": 1}]
MEMORY = SimpleNamespace(storage=SimpleNamespace(node_count=12_345, edge_count=678))


def show(enabled: bool | None, stream: io.StringIO, memory: object = MEMORY) -> str:
    """Return what an epoch of two batches, behind one that is done, writes to stderr."""
    with redirect_stderr(stream):
        Run(ProgressBar(enabled), epoch=1, memory=memory).fit(losses(0.25), batches=BATCHES)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


def test_a_terminal_sees_epoch_average_loss_concepts_and_edges() -> None:
    written = show(None, Terminal())
    for part in ("epoch 2/2", "2/2", "loss 0.8750", "concepts 12,345", "edges 678"):
        assert part in written


def test_without_a_memory_only_the_loss_is_shown() -> None:
    written = show(None, Terminal(), memory=None)
    assert "loss 0.8750" in written
    assert "concepts" not in written


def test_the_validation_loss_is_that_of_the_last_epoch() -> None:
    with redirect_stderr(Terminal()) as terminal:
        logs = [{"loss": 0.5, "val_loss": 0.75}, {"loss": 0.5, "val_loss": 0.625}]
        Run(ProgressBar()).fit(logs, batches=BATCHES)
    first, _, rest = terminal.getvalue().partition("val_loss 0.7500")
    assert "epoch 2/2" not in first
    assert "epoch 2/2" in rest
    assert "val_loss 0.6250" in rest


@pytest.mark.parametrize(
    ("enabled", "stream"), [(None, io.StringIO()), (False, io.StringIO()), (False, Terminal())]
)
def test_nothing_is_written_when_off(
    enabled: bool | None, stream: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(enabled, stream) == ""
    assert capsys.readouterr() == ("", "")


class Printing(Callback):
    """A training script that prints between batches."""

    def on_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        print("from the training script")


def test_output_that_is_piped_elsewhere_stays_there() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    with redirect_stdout(pipe), redirect_stderr(terminal):
        Run(ProgressBar(), Printing()).fit(losses(1.0), batches=BATCHES)
    assert pipe.getvalue() == "from the training script\n" * 2
    assert "epoch 1/1" in terminal.getvalue()
    assert "training script" not in terminal.getvalue()


def test_output_on_the_same_terminal_stays_readable() -> None:
    terminal = Terminal()
    with redirect_stdout(terminal), redirect_stderr(terminal):
        Run(ProgressBar(), Printing()).fit(losses(1.0), batches=BATCHES)
    assert "from the training script\n" in terminal.getvalue()


def test_the_terminal_is_given_back_after_an_error() -> None:
    terminal = Terminal()
    with redirect_stdout(terminal), redirect_stderr(terminal):
        before = sys.stdout
        with pytest.raises(AESGTrainingError, match=r"ProgressBar.on_batch_end: KeyError"):
            Run(ProgressBar()).fit(losses(1.0), batches=[{"loss": 1.0}])
        assert sys.stdout is before
    assert terminal.getvalue().endswith("\x1b[?25h")  # the cursor is shown again


def test_batches_that_nobody_hears_of_count_as_done() -> None:
    terminal, callbacks = Terminal(), Callbacks([ProgressBar()])
    with redirect_stderr(terminal), callbacks.attached(Run()):
        callbacks.on_train_start({"epochs": 1, "batches": 5})
        callbacks.on_epoch_start(0, {})
        callbacks.on_batch_end(4, {"loss": 1.0, "samples": 2})
    assert "5/5" in terminal.getvalue()


def test_a_number_of_batches_that_is_not_known_is_not_shown() -> None:
    terminal, callbacks = Terminal(), Callbacks([ProgressBar()])
    with redirect_stderr(terminal), callbacks.attached(Run()):
        callbacks.on_train_start({"epochs": 1})
        callbacks.on_epoch_start(0, {})
        for batch in range(3):
            callbacks.on_batch_end(batch, {"loss": 1.0, "samples": 2})
    assert "1/?" in terminal.getvalue()


@pytest.mark.parametrize("enabled", [None, True])
def test_a_terminal_that_goes_away_does_not_stop_training(enabled: bool | None) -> None:
    stream = LostTerminal()
    show(enabled, stream)
    assert stream.attempts > 1
