"""The figures of damaged packs get into the documentation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.packs import fuzz_migration
from tests.packs.fuzz_figures import BEGIN, END, TITLES, VARIABLE, Tally, fill_in, keep, main
from tests.packs.fuzz_judge import KINDS
from tests.packs.fuzz_worker import Verdict

_PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def test_a_tally_counts_outcomes_and_keeps_the_worst() -> None:
    tally = Tally()
    tally.add(Verdict("refused", 0.5, 1 << 20), "one")
    tally.add(Verdict("loaded", 0.25, 3 << 20), "two")
    tally.add(Verdict("died", note="exit status -9"), "three")
    tally.add(Verdict("wrong", note="left in the cache"), "four")
    counts = (tally.inputs, tally.refused, tally.loaded, tally.wrong, tally.died)
    assert counts == (4, 1, 1, 1, 1)
    assert (tally.seconds, tally.bytes) == (0.5, 3 << 20)
    assert [note.split(":")[0] for note in tally.notes] == ["three", "four"]
    assert "exit status -9" in tally.notes[0]


def test_a_run_fills_the_table_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures, page = tmp_path / "build" / "figures.json", tmp_path / "page.md"
    monkeypatch.setenv(VARIABLE, str(figures))
    keep("cut", Tally(inputs=1500, refused=1499, loaded=1, seconds=0.034, bytes=11 << 20))
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    main(figures, page)
    lines = page.read_text().splitlines()
    row = "| cut off or lengthened | 1,500 | 1,499 | 1 | 0 | 0 | 0.03 s | 11 MiB |"
    assert row in lines
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert fill_in(page.read_text(), json.loads(figures.read_text())) == page.read_text()


def test_the_documentation_has_a_place_for_each_kind() -> None:
    assert set(TITLES) == {*KINDS, *fuzz_migration.KINDS}
    rows = {kind: vars(Tally()) for kind in TITLES}
    assert "| small bombs |" in fill_in(_PAGE.read_text(), rows)


def test_nothing_is_kept_where_no_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    keep("cut", Tally())
