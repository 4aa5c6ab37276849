"""The figures of a run get into the documentation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.torture.figures import BEGIN, END, VARIABLE, Tally, fill_in, keep, main
from tests.torture.judge import Verdict

_PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def test_a_tally_tells_what_is_lost_from_what_is_wrong() -> None:
    tally = Tally()
    tally.add(Verdict("right", 7), "all there", 7)
    tally.add(Verdict("right", 4), "some lost", 7)
    assert (tally.lost, tally.only_lost) == (3, True)
    tally.add(Verdict("refused"), "closed", 7)
    tally.add(Verdict("died"), "dead", 7)
    tally.add(Verdict("wrong", 7), "wrong", 7)
    tally.add(Verdict("right", 7, problems=2), "problems", 7)
    counts = (tally.trials, tally.lost, tally.refused, tally.died, tally.wrong, tally.reported)
    assert counts == (6, 3, 1, 1, 1, 1)
    assert not tally.only_lost
    assert [note.split(":")[0] for note in tally.notes] == [
        "some lost",
        "closed",
        "dead",
        "wrong",
        "problems",
    ]


def test_a_run_fills_the_table_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, page = tmp_path / "build" / "figures.json", tmp_path / "page.md"
    monkeypatch.setenv(VARIABLE, str(figures))
    keep("kills", Tally(trials=1000, acknowledged=4711))
    keep("cuts", Tally(trials=40, lost=2))
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    main(figures, page)
    lines = page.read_text().splitlines()
    assert "| kills | 1,000 | 4,711 | 0 | 0 | 0 | 0 | 0 |" in lines
    assert "| cuts | 40 | 0 | 2 | 0 | 0 | 0 | 0 |" in lines
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert fill_in(page.read_text(), json.loads(figures.read_text())) == page.read_text()


def test_the_documentation_has_a_place_for_the_figures() -> None:
    assert "| kills |" in fill_in(_PAGE.read_text(), {"kills": vars(Tally())})


def test_nothing_is_kept_where_no_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    keep("kills", Tally())
