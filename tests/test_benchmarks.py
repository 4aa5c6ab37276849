"""The command of the benchmarks, with small ones in place of the real."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from click.testing import Result as Said

from benchmarks import __main__ as command
from benchmarks.suite import Ratio, Result, Settings, docs, one, registry
from benchmarks.suite import run as runs
from benchmarks.suite.goals import GOALS
from benchmarks.suite.registry import all_benchmarks, benchmark


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two benchmarks in place of all, in this process in place of others."""
    found = dict[str, registry.Benchmark]()
    monkeypatch.setattr(registry, "_known", found)

    @benchmark("small", "a small one", minutes=1, peers=("kuzu",))
    def small(settings: Settings) -> Result:
        settings.say(f"turns {settings.turns}, peers {settings.peers is not None}")
        (settings.scratch / "file").write_text("large")
        told = Ratio(1, "it", 2.0, 1.9, 2.1, 1.3)
        return Result("small", "Small", ratios=(told,), skipped=("kuzu: not here",))

    @benchmark("other", "states no goal", minutes=2, group="more")
    def other(settings: Settings) -> Result:
        raise RuntimeError("cannot be measured")

    monkeypatch.setattr(command, "all_benchmarks", lambda: (found, []))
    monkeypatch.setattr(one, "all_benchmarks", lambda: (found, []))
    monkeypatch.setattr("benchmarks.suite.run.subprocess.run", run_here)
    yield


class Done:
    def __init__(self, returncode: int) -> None:
        self.returncode = returncode
        self.stdout = ""


def run_here(arguments: list[object], **options: object) -> Done:
    if "benchmarks.suite.one" not in arguments:
        return Done(0)  # git
    given = [str(each) for each in arguments[3:]]
    said = CliRunner().invoke(one.main, given)
    print(said.output)
    return Done(said.exit_code)


def invoke(*arguments: object) -> Said:
    return CliRunner().invoke(command.main, [str(each) for each in arguments])


@pytest.mark.usefixtures("known")
class TestCommand:
    def test_those_that_state_goals_run_and_are_told_of(self, tmp_path: Path) -> None:
        out = tmp_path / "out"
        said = invoke("--quick", "--out", out, "--json", tmp_path / "all.json")
        assert said.exit_code == 0, said.output
        results = json.loads((out / "results.json").read_text())
        assert list(results) == ["small"]
        assert json.loads((tmp_path / "all.json").read_text()) == results
        assert results["small"]["quick"] is True
        assert results["small"]["machine"]["CPU"]
        assert "## Small (`small`)" in (out / "report.md").read_text()
        assert sorted(file.name for file in out.iterdir()) == ["report.md", "results.json"]

    def test_what_is_skipped_is_said_at_the_end(self, tmp_path: Path) -> None:
        lines = invoke("small", "--quick", "--out", tmp_path).output.splitlines()
        assert "SKIPPED by small: kuzu: not here" in lines[-3:]

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (["--quick"], f"turns {one.TURNS_QUICK}, peers True"),
            (["--no-peers"], f"turns {one.TURNS}, peers False"),
        ],
    )
    def test_options_reach_the_benchmark(
        self,
        tmp_path: Path,
        options: list[str],
        told: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert told in invoke("small", *options, "--out", tmp_path).output + capsys.readouterr().out

    def test_one_that_fails_leaves_the_others_results(self, tmp_path: Path) -> None:
        said = invoke("--all", "--quick", "--out", tmp_path)
        assert said.exit_code == 1
        assert "FAILED: other" in said.output
        assert list(json.loads((tmp_path / "results.json").read_text())) == ["small"]
        assert "**Failed**: other." in (tmp_path / "report.md").read_text()
        assert [file for file in tmp_path.iterdir() if file.is_dir()] == []

    def test_results_of_other_names_are_kept(self, tmp_path: Path) -> None:
        invoke("small", "--quick", "--out", tmp_path)
        before = (tmp_path / "results.json").read_text()
        assert invoke("other", "--quick", "--out", tmp_path).exit_code == 1
        assert (tmp_path / "results.json").read_text() == before

    def test_the_list_runs_nothing(self, tmp_path: Path) -> None:
        said = invoke("--list", "--out", tmp_path / "out")
        assert said.exit_code == 0
        assert all(word in said.output for word in ("small", "other", "kuzu", "more", "usefulness"))
        assert not (tmp_path / "out").exists()

    def test_a_name_that_is_none_is_told_with_those_there_are(self) -> None:
        said = invoke("smal")
        assert said.exit_code == 2
        assert "expected names among small, other, got smal" in said.output

    def test_quick_figures_never_reach_the_documentation(self, tmp_path: Path) -> None:
        said = invoke("--quick", "--write-docs", "--out", tmp_path / "out")
        assert said.exit_code == 2
        assert "quick runs claim nothing" in said.output
        assert not (tmp_path / "out").exists()

    def test_full_figures_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        page = tmp_path / "page.md"
        places = ("{}\n{}\n".format(*docs.marks(name)) for name in ("machine", "goals", "small"))
        page.write_text("".join(places))
        monkeypatch.setattr(docs.write, "__defaults__", (page,))
        assert invoke("--write-docs", "--out", tmp_path / "out").exit_code == 0
        assert "| it | <= 1.3x | 2.00x | 1.90x to 2.10x | **missed** |" in page.read_text()

    def test_failed_runs_do_not(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(docs, "write", lambda *_: pytest.fail("written"))
        said = invoke("--all", "--write-docs", "--out", tmp_path)
        assert said.exit_code == 1
        assert "docs/benchmarks.md stays as it is: failed: other" in said.output


@pytest.mark.usefixtures("known")
def test_a_library_that_is_missing_is_told_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = dict(registry._known)
    monkeypatch.setattr(command, "all_benchmarks", lambda: (known, ["models: no scipy"]))
    said = invoke("small", "--quick", "--out", tmp_path)
    assert said.exit_code == 1
    assert "UNAVAILABLE: models: no scipy" in said.output
    assert list(json.loads((tmp_path / "results.json").read_text())) == ["small"]


def test_two_benchmarks_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_known", {})

    def run(settings: Settings) -> Result:
        return Result("a", "A")

    def another(settings: Settings) -> Result:
        return Result("a", "A")

    another.__module__ = "elsewhere"
    benchmark("a", "", minutes=1)(run)
    with pytest.raises(ValueError, match="expected one benchmark a, got a second in elsewhere"):
        benchmark("a", "", minutes=1)(another)


def test_all_that_state_a_goal_have_a_place_in_the_page() -> None:
    found, unavailable = all_benchmarks()
    assert unavailable == []
    assert len(found) > len(GOALS)
    page = docs.PAGE.read_text()
    wanted = [name for name, each in found.items() if each.group == "goals"]
    assert [name for name in wanted if docs.marks(name)[0] not in page] == []


@pytest.mark.long
def test_a_real_one_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    found, failed = runs.run(
        ["regions"], tmp_path, quick=True, with_peers=False, say=lambda _: None
    )
    assert failed == []
    assert found["regions"].result.tables[0].rows[0][0] == "10,000"
    assert os.listdir(tmp_path) == ["results.json"]
