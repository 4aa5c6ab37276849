"""Long work shows bars on a terminal, and nowhere else unless it is asked to."""

from __future__ import annotations

import pytest

from aesg._progress import reporting
from storage_backends.progress import silent


def _work(wanted: bool | None, delay: float) -> None:
    with reporting(wanted, delay) as report:
        for done in range(3):
            report("counting", done, 2)


def test_whoever_wants_to_be_told_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    with reporting(lambda *step: told.append(step)) as report:
        report("counting", 1, 2)
    assert told == [("counting", 1, 2)]


@pytest.mark.parametrize("wanted", [None, False])
def test_without_a_terminal_nothing_is_shown(
    wanted: bool | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with reporting(wanted, 0) as report:
        assert report is silent
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("wanted", "shown"), [(None, True), (True, True), (False, False)])
def test_a_terminal_shows_what_takes_long(
    wanted: bool | None,
    shown: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # which makes of any output a terminal
    _work(wanted, 0)
    out, err = capsys.readouterr()
    assert ("counting" in err) == shown
    assert out == ""


def test_what_is_quick_shows_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    _work(None, 60)
    assert capsys.readouterr() == ("", "")


def test_an_error_ends_the_bars(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(ValueError, match="mine"), reporting(None, 0) as report:
        report("counting", 1, 2)
        raise ValueError("mine")
    err = capsys.readouterr().err
    assert err.rstrip().endswith("\x1b[2K") or "\x1b[?25h" in err  # the cursor is back
