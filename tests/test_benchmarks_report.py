"""What is told of results: the report, the plots and the page of the documentation."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.suite import Ratio, Result, Series, TableOf, docs, machine, plots, report
from benchmarks.suite.goals import GOALS
from benchmarks.suite.run import Kept, read, write

MACHINE = {"CPU": "one", "cores": "2", "commit": "abc", "date": "2026-01-02", "load": "0.2"}
MET = Ratio(1, "2 hops", 1.25, 1.2, 1.31, 1.3, note="recall .99 and .98", ours=40, theirs=32.04)
MISSED = Ratio(1, "3 hops", 1.7, 1.6, 1.8, 1.6)
QUICKER = Ratio(3, "beside another", 12_345.6, 9_000, 15_000, 400, at_most=False)
RESULT = Result(
    "lookup",
    "Lookup",
    ratios=(MET, MISSED, QUICKER),
    tables=(TableOf("by size", ("concepts", "us"), (("10", 1.23456), ("20", 2))),),
    series=(Series("growth", "concepts", "us", {"ours": [(10, 1), (20, 2)]}, log_x=True),),
    skipped=("kuzu: cannot be installed",),
    notes=("One thread each.",),
)


def kept(result: Result = RESULT, **changed: str) -> Kept:
    return Kept(result, MACHINE | changed, quick=False, seconds=3.0)


def rows(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[each.strip() for each in line.strip("|").split(" | ")] for line in lines]


class TestVerdicts:
    @pytest.mark.parametrize(
        ("value", "at_most", "met"), [(1.3, True, True), (1.31, True, False), (1.3, False, True)]
    )
    def test_the_bound_itself_meets_the_goal(self, value: float, at_most: bool, met: bool) -> None:
        assert Ratio(1, "", value, 0, 9, 1.3, at_most).met is met

    def test_a_ratio_slower_than_it_must_be_at_least_misses(self) -> None:
        assert Ratio(1, "", 1.29, 0, 9, 1.3, at_most=False).met is False

    def test_without_a_goal_there_is_no_verdict(self) -> None:
        ratio = replace(MET, bound=None)
        assert ratio.met is None
        assert report.verdict(ratio, quick=False) == ""

    def test_a_cost_by_itself_is_told_in_its_unit(self) -> None:
        start = Ratio(11, "import", 0.25, 0.2, 0.9325, 0.3, ours=0.25, unit="s")
        (row,) = report.ratios(kept(Result("start", "Start", ratios=(start,)))).rows
        assert row == ("import", "<= 0.3 s", "0.25 s", "0.2 s to 0.932 s", "0.25 s", "", "met")

    def test_a_quick_run_claims_nothing(self) -> None:
        table = report.goals({"lookup": replace(kept(), quick=True)})
        assert {row[-1] for row in table.rows} == {""}
        assert "Quick runs" in report.page({"lookup": replace(kept(), quick=True)}, [])


class TestReport:
    def test_every_goal_stands_in_it_with_what_was_measured(self) -> None:
        table = report.goals({"lookup": kept()})
        assert [row[0] for row in table.rows if row[0]] == [
            f"[{number}](docs/benchmarks.md#{goal.section})" for number, goal in GOALS.items()
        ]
        told = [tuple(row[1:]) for row in table.rows if not row[0]]
        assert told[:2] == [
            ("2 hops", "<= 1.3x", "1.25x", "1.20x to 1.31x", "met"),
            ("3 hops", "<= 1.6x", "1.70x", "1.60x to 1.80x", "**missed**"),
        ]
        assert ("beside another", ">= 400x", "12,346x", "9,000x to 15,000x", "met") in told
        assert sum(row[2] == "not measured" for row in told) == len(GOALS) - 2

    def test_costs_and_notes_stand_beside_a_ratio(self) -> None:
        first = rows(report.markdown(report.ratios(kept())))[2]
        assert first[0] == "2 hops; recall .99 and .98"
        assert first[4:6] == ["40", "32"]

    def test_a_section_tells_all(self) -> None:
        text = "\n\n".join(report.section(kept(), "figures/"))
        assert "*by size*\n\n| concepts | us |\n| --- | --- |\n| 10 | 1.23 |\n| 20 | 2 |" in text
        assert "![growth](figures/lookup-1.svg)" in text
        assert "One thread each." in text
        assert "**Skipped**: kuzu: cannot be installed." in text

    def test_columns_that_no_ratio_fills_are_left_out(self) -> None:
        bare = Result("a", "A", ratios=(Ratio(None, "it", 2, 1, 3),))
        assert rows(next(report.section(kept(bare))))[0] == ["ratio", "measured", "quartiles"]

    def test_runs_on_one_machine_are_told_together(self) -> None:
        found = {"a": kept(date="2026-01-04", load="0.7"), "b": kept(), "c": kept(cores="64")}
        one, other = report.machines(found)
        assert one == (
            "CPU one, cores 2. 2026-01-02 to 2026-01-04, commit abc; load before each at most 0.7."
        )
        assert other.startswith("CPU one, cores 64. 2026-01-02, commit abc")

    def test_what_failed_is_said(self) -> None:
        assert "**Failed**: soak." in report.page({}, ["soak"])

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0.012345, "0.0123"), (1.0, "1"), (99.94, "99.9"), (12345.6, "12,346"), ("a|b", "a\\|b")],
    )
    def test_a_cell_shows_three_digits(self, value: float | str, text: str) -> None:
        assert report.cell(value) == text


class TestPage:
    PAGE = "".join(
        f"{begin}\nold\n{end}\nbetween\n" for begin, end in map(docs.marks, ("machine", "goals"))
    )

    def page(self, folder: Path, *names: str) -> Path:
        places = "".join("{}\n{}\n".format(*docs.marks(name)) for name in names)
        path = folder / "benchmarks.md"
        path.write_text(self.PAGE + places + "end\n")
        return path

    def test_figures_come_between_their_marks(self, tmp_path: Path) -> None:
        page = self.page(tmp_path, "lookup")
        docs.write({"lookup": kept()}, ["lookup"], page)
        text = page.read_text()
        assert "old" not in text
        assert "[1](#lookup-and-spreading)" in text
        assert text.count("between") == 2 and text.endswith("end\n")
        assert "(figures/lookup-1.svg)" in text
        assert [file.name for file in (tmp_path / "figures").iterdir()] == ["lookup-1.svg"]
        docs.write({"lookup": kept()}, ["lookup"], page)
        assert page.read_text() == text

    def test_a_page_without_their_place_is_refused(self, tmp_path: Path) -> None:
        page = self.page(tmp_path)
        before = page.read_text()
        with pytest.raises(ValueError, match="expected <!-- figures: lookup -->"):
            docs.write({"lookup": kept()}, ["lookup"], page)
        assert page.read_text() == before

    def test_what_states_no_goal_needs_no_place(self, tmp_path: Path) -> None:
        page = self.page(tmp_path)
        docs.write({"lookup": kept()}, [], page)
        assert "Skipped" not in page.read_text()

    def test_quick_and_missing_results_are_refused(self) -> None:
        assert docs.refused({"lookup": kept()}, ["lookup"]) is None
        quick = {"lookup": replace(kept(), quick=True)}
        assert docs.refused(quick, []) == "quick runs claim nothing: lookup"
        assert docs.refused({"lookup": kept()}, ["soak", "lookup"]) == (
            "not every benchmark that states a goal has run: soak"
        )

    def test_the_page_has_the_sections_that_goals_point_to(self) -> None:
        headings = re.findall(r"^#+ (.*)$", docs.PAGE.read_text(), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}
        assert {goal.section for goal in GOALS.values()} <= anchors


class TestFiles:
    def test_results_are_read_as_they_were_written(self, tmp_path: Path) -> None:
        file = tmp_path / "results.json"
        assert read(file) == {}
        write({"lookup": kept()}, file)
        assert json.loads(file.read_text())["lookup"]["result"]["ratios"][1]["met"] is False
        found = read(file)["lookup"]
        assert found.result.ratios == RESULT.ratios
        assert report.page({"lookup": found}, []) == report.page({"lookup": kept()}, [])

    def test_plots_are_drawn_twice_alike(self, tmp_path: Path) -> None:
        first = {file.name: file.read_bytes() for file in plots.draw(RESULT, tmp_path)}
        again = {file.name: file.read_bytes() for file in plots.draw(RESULT, tmp_path)}
        assert first == again
        assert set(first) == {"lookup-1.svg", "lookup-1.png"}
        assert b"growth" in first["lookup-1.svg"] or b"<svg" in first["lookup-1.svg"]

    def test_a_table_with_a_ragged_row_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"by size: expected rows of 2 cells, got \['10'\]"):
            TableOf("by size", ("concepts", "us"), (("10",),))


class TestMachine:
    def test_the_record_names_what_figures_depend_on_and_nobody(self) -> None:
        import platform

        found = machine.record()
        assert set(found) >= {
            "CPU",
            "cores",
            "memory",
            "Python",
            "numpy",
            "torch",
            "commit",
            "load",
        }
        assert all(found.values())
        text = " ".join(found.values())
        assert platform.node() not in text.split()
        assert str(Path(__file__).parents[1]) not in text
