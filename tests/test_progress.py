from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout

import pytest

from aesg.progress import TrainingProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class LostTerminal(Terminal):
    attempts = 0

    def write(self, text: str) -> int:
        self.attempts += 1
        raise BrokenPipeError


def show(enabled: bool | None, stream: io.StringIO, *, counts: bool = True) -> str:
    """Return what two batches of an epoch write to stderr."""
    sizes = (lambda: (12_345, 678)) if counts else None
    with (
        redirect_stderr(stream),
        TrainingProgress(enabled, epochs=3, total=2, counts=sizes) as bar,
    ):
        bar.start_epoch(2)
        bar.advance(1.0)
        bar.advance(0.25)
    return stream.getvalue()


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


def test_a_terminal_sees_epoch_loss_concepts_and_edges() -> None:
    written = show(None, Terminal())
    for part in ("epoch 2/3", "2/2", "loss 0.2500", "concepts 12,345", "edges 678"):
        assert part in written


def test_without_a_memory_only_the_loss_is_shown() -> None:
    written = show(None, Terminal(), counts=False)
    assert "loss 0.2500" in written
    assert "concepts" not in written


@pytest.mark.parametrize(
    ("enabled", "stream"), [(None, io.StringIO()), (False, io.StringIO()), (False, Terminal())]
)
def test_nothing_is_written_when_off(
    enabled: bool | None, stream: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(enabled, stream) == ""
    assert capsys.readouterr() == ("", "")


def test_output_that_is_piped_elsewhere_stays_there() -> None:
    terminal, pipe = Terminal(), io.StringIO()
    with (
        redirect_stdout(pipe),
        redirect_stderr(terminal),
        TrainingProgress(None, epochs=1, total=2) as bar,
    ):
        bar.start_epoch(1)
        print("from the training script")
    assert pipe.getvalue() == "from the training script\n"
    assert "epoch 1/1" in terminal.getvalue()
    assert "training script" not in terminal.getvalue()


def test_output_on_the_same_terminal_stays_readable() -> None:
    terminal = Terminal()
    with (
        redirect_stdout(terminal),
        redirect_stderr(terminal),
        TrainingProgress(None, epochs=1, total=2) as bar,
    ):
        bar.start_epoch(1)
        print("from the training script")
    assert "from the training script\n" in terminal.getvalue()


@pytest.mark.parametrize("enabled", [None, True])
def test_a_terminal_that_goes_away_does_not_stop_training(enabled: bool | None) -> None:
    stream = LostTerminal()
    show(enabled, stream)
    assert stream.attempts > 1
