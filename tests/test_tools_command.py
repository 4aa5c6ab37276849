"""What all commands share: bars on a terminal only, errors in one line, numbers for people."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from storage_backends.errors import (
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreLockedError,
)
from tests.storage import maintenance_children as children
from tests.storage.damage import make
from tests.storage.place import first_batch
from tests.storage.processes import run_child
from tests.tool_runs import let_others_in
from tools._command import run, size

ROOT = Path(__file__).parents[1]
TOOLS = ("compact", "restore", "snapshot", "stats", "verify")


def failing(error: BaseException) -> click.Command:
    @click.command()
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (StoreError("here: expected this,\ngot that"), 2, "here: expected this, got that"),
        (StoreFullError("no room"), 2, "no room"),
        (StoreLockedError("process 7"), 1, "process 7"),
        (PermissionError(13, "Permission denied", "here"), 2, "Permission denied: 'here'"),
        (MemoryError(), 2, "not enough memory (RAM)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_one_line_and_a_status(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(failing(error), []) == status
    out, err = capsys.readouterr()
    (line,) = err.strip().splitlines()
    assert out == ""
    assert line.startswith("Error: ")
    assert message in line


def test_errors_that_a_command_names_are_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    error = ArithmeticError("got that")
    assert run(failing(error), [], (ArithmeticError,)) == 2
    assert capsys.readouterr().err == "Error: got that\n"
    error.__cause__ = StoreLockedError("process 7")
    assert run(failing(error), [], (ArithmeticError,)) == 1


def test_a_mistake_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run(failing(ZeroDivisionError()), [])


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1,023 bytes"), (1024, "1.0 KiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert size(count) == text
    assert size(5000 << 40) == "5,000.0 TiB"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make(tmp_path / "memory", first_batch())
    return tmp_path / "memory"


def test_bars_are_shown_on_a_terminal_beside_clean_output(directory: Path) -> None:
    ours, theirs = pty.openpty()
    result = subprocess.run(
        [sys.executable, "-m", "tools.compact", str(directory), "--verify", "--json"],
        cwd=ROOT,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "80", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = _all_of(ours)
    assert json.loads(result.stdout)["done"]
    assert "copying the records" in shown
    assert "verifying" in shown


def _all_of(descriptor: int) -> str:
    parts = []
    try:
        while part := os.read(descriptor, 4096):
            parts.append(part)
    except OSError:  # the other end is closed
        pass
    os.close(descriptor)
    return b"".join(parts).decode(errors="replace")


def _arguments(tool: str, directory: Path) -> list[Path]:
    """Return what a tool is to be given to work on a memory."""
    if tool == "restore":
        make(directory.with_name("copy"), first_batch())
        return [directory.with_name("copy"), directory]
    return [directory, directory.with_name("copy")] if tool == "snapshot" else [directory]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_user_without_permission_gets_one_line(directory: Path, tool: str) -> None:
    let_others_in(directory.parent)
    directory.chmod(0o700)
    arguments = _arguments(tool, directory)
    assert run_child(children.as_stranger, tool, *arguments) == "2\n"


@pytest.mark.parametrize("tool", TOOLS)
def test_a_reader_that_hangs_up_is_no_traceback(directory: Path, tool: str) -> None:
    arguments = _arguments(tool, directory)
    process = subprocess.Popen(
        [sys.executable, "-m", f"tools.{tool}", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err


def test_a_failure_in_json_is_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    @click.option("--json", is_flag=True)
    def command(json: bool) -> int:
        raise StoreLockedError("process 7")

    assert run(command, ["--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"done": False, "reason": "process 7", "error": "StoreLockedError"}
    assert err == "Error: process 7\n"
    assert run(command, ["--jsn", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"] == "NoSuchOption"


def test_a_full_disk_is_named_first(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (
        StoreFullError("x: expected room for 7 bytes, found 3"),
        OSError(28, "No space left on device"),
    ):
        assert run(failing(error), []) == 2
        assert capsys.readouterr().err.startswith("Error: disk full: ")


def test_damage_comes_with_advice(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(failing(StoreCorruptError("x: expected y, got z")), []) == 2
    assert "run `python -m tools.verify DIR --repair`" in capsys.readouterr().err
    assert run(failing(StoreCorruptError("x: got z: restore a copy")), []) == 2
    assert "--repair" not in capsys.readouterr().err


def test_sigterm_cleans_up_and_exits_143(capsys: pytest.CaptureFixture[str]) -> None:
    cleaned = []

    @click.command()
    def command() -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            cleaned.append(True)
        return 0

    before = signal.getsignal(signal.SIGTERM)
    assert run(command, []) == 143
    assert cleaned
    assert capsys.readouterr().err.startswith("Error: terminated; the memory is as it was")
    assert signal.getsignal(signal.SIGTERM) is before
