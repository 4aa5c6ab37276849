"""The harness of the usefulness suite in small, and its statistics by hand."""

from __future__ import annotations

import json
import math
import os
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

from scipy import stats  # type: ignore[import-untyped]

from aesg.config import AESGConfig
from aesg.demo.tokenizer import Tokens
from aesg.demo.train import Batches
from aesg.memory import AESGMemory
from aesg.models import AESGDecoderLM
from benchmarks.usefulness import __main__ as command
from benchmarks.usefulness import data, harness, plots, report, run_one, tasks
from benchmarks.usefulness.data import SOURCES, Data, Source
from benchmarks.usefulness.harness import Goal, Measure, Outcome, Task, Values
from benchmarks.usefulness.ngram import KneserNey
from benchmarks.usefulness.process import elsewhere
from benchmarks.usefulness.reading import (
    SEGMENT,
    NeuralCache,
    mixed,
    perplexity,
    read,
    read_beside,
    read_with_ngrams,
    streams,
    unseen,
)
from benchmarks.usefulness.statistics import Comparison, Interval, compare, interval, paired
from benchmarks.usefulness.tasks import facts

ERROR = Measure("error", better="lower", digits=2)
SCORE = Measure("score")


TINY = facts.Sizes(batch=4)


def _values(seed: int, quick: bool, scratch: Path, _: Data) -> Values:
    return {"memory": {"score": float(seed), "error": 1.0}, "ablated": {"score": 0.0}}


TASK = Task("small", "A small task", (SCORE, ERROR), (), (), _values)


def outcome(task: Task = TASK, **arms: list[float]) -> Outcome:
    """Return what came of a task, given the scores of each arm by seed."""
    count = len(next(iter(arms.values())))
    values = {
        seed: {arm: {"score": scores[seed]} for arm, scores in arms.items()}
        for seed in range(count)
    }
    return Outcome(task, values, dict.fromkeys(range(count), 1.0))


class TestStatistics:
    def test_the_interval_is_that_of_students_t(self) -> None:
        values = [1.0, 2.0, 4.0, 5.5, 3.0]
        low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
        found = interval(values)
        assert (found.low, found.high) == pytest.approx((low, high))

    def test_an_interval_by_hand(self) -> None:
        found = interval([1.0, 3.0])  # deviation sqrt 2, error 1, t(.975, 1) = 12.706
        assert found.mean == 2
        assert found.half == pytest.approx(12.7062, abs=1e-4)

    def test_one_value_tells_of_no_spread(self) -> None:
        assert interval([3.0]) == Interval(3.0, math.inf, 1)

    def test_p_is_that_of_the_paired_t_test(self) -> None:
        ours, theirs = [3.0, 4.1, 5.0, 6.2], [2.0, 3.5, 4.8, 4.0]
        found = compare(dict(enumerate(ours)), dict(enumerate(theirs)))
        assert found is not None
        assert found.p == pytest.approx(stats.ttest_rel(ours, theirs).pvalue)

    def test_equal_differences_leave_no_doubt(self) -> None:
        same = compare({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
        apart = compare({0: 1.5, 1: 2.5}, {0: 1.0, 1: 2.0})
        assert same is not None and same.p == 1 and same.verdict("higher") == "even"
        assert apart is not None and apart.p == 0 and apart.verdict("higher") == "ahead"

    def test_one_pair_is_no_test(self) -> None:
        found = compare({0: 1.0}, {0: 0.0})
        assert found is not None and math.isnan(found.p) and found.verdict("higher") == "even"

    def test_only_seeds_that_both_arms_have_are_compared(self) -> None:
        found = compare({0: 1.0, 1: 5.0, 2: 4.0}, {1: 4.0, 2: 3.0, 3: 9.0})
        assert found is not None and found.difference.mean == 1 and found.difference.count == 2
        assert compare({0: 1.0}, {1: 1.0}) is None

    def test_a_relative_difference_is_a_share_of_the_other_arm(self) -> None:
        assert paired({0: 6.0}, {0: 8.0}, relative=True) == [-0.25]

    @pytest.mark.parametrize(
        ("mean", "better", "verdict"),
        [
            (2.0, "higher", "ahead"),
            (2.0, "lower", "behind"),
            (-2.0, "higher", "behind"),
            (-2.0, "lower", "ahead"),
            (0.5, "higher", "even"),
            (0.5, "lower", "even"),
        ],
    )
    def test_ahead_is_where_zero_lies_outside_the_interval(
        self, mean: float, better: str, verdict: str
    ) -> None:
        assert Comparison(Interval(mean, 1.0, 5), 0.5).verdict(better) == verdict


class TestGoals:
    def judged(self, goal: Goal) -> tuple[str, ...]:
        found = outcome(replace(TASK, goals=(goal,)), memory=[0.6, 0.8], ablated=[0.5, 0.6])
        return report.goals(found).rows[0]

    def test_a_goal_is_met_by_the_mean_of_the_seeds(self) -> None:
        assert self.judged(Goal("memory", "score", at_least=0.7))[-1] == "met"
        assert self.judged(Goal("memory", "score", at_least=0.71))[-1] == "**missed**"
        assert self.judged(Goal("memory", "score", at_most=0.7))[-1] == "met"

    def test_a_goal_against_an_arm_judges_the_difference(self) -> None:
        goal = Goal("memory", "score", at_least=0.15, against="ablated")
        assert self.judged(goal)[1:] == ("at least +0.150", "+0.150 +- 0.635", "met")

    def test_a_relative_goal_judges_the_mean_of_the_shares(self) -> None:
        goal = Goal("memory", "score", at_least=0.26, against="ablated", relative=True)
        wanted, measured, verdict = self.judged(goal)[1:]
        assert (wanted, measured[:6], verdict) == ("at least +26.0%", "+26.7%", "met")

    def test_a_goal_of_an_arm_that_is_not_there_is_missed(self) -> None:
        assert self.judged(Goal("nobody", "score", at_least=0.0))[-1] == "**missed**"

    def test_a_goal_needs_a_bound(self) -> None:
        with pytest.raises(ValueError, match="expected a bound"):
            Goal("memory", "score")

    def test_a_relative_goal_needs_another_arm(self) -> None:
        with pytest.raises(ValueError, match="relative to which arm"):
            Goal("memory", "score", at_least=1.0, relative=True)


class TestReport:
    def test_means_and_comparisons_name_every_arm(self) -> None:
        found = outcome(memory=[1.0, 2.0, 3.0], ablated=[0.0, 1.1, 1.9], shuffled=[0.0, 3.0, 3.0])
        table = report.means(found)
        assert [row[0] for row in table.rows] == ["memory", "ablated", "shuffled"]
        assert table.rows[0][1:] == ("2.000 +- 2.484", "")
        verdicts = {row[1]: row[-1] for row in report.comparisons(found).rows}
        assert verdicts == {"ablated": "ahead", "shuffled": "even"}

    def test_report_and_results_hold_failures_and_what_was_skipped(self, tmp_path: Path) -> None:
        ran = outcome(memory=[1.0, 2.0], ablated=[0.0, 0.0])
        ran.failures[2] = "ValueError: no"
        skipped = Outcome(replace(TASK, title="Another"), skipped="no data")
        report.write([ran, skipped], [0, 1, 2], True, tmp_path)
        text = (tmp_path / "report.md").read_text()
        assert "**Failed** with seed 2" in text and "ValueError: no" in text
        assert "**Skipped**: no data." in text
        stored = json.loads((tmp_path / "results.json").read_text())
        assert stored["seeds"] == [0, 1, 2] and stored["quick"] is True
        assert stored["tasks"]["small"]["values"] == {} or "memory" in str(stored)
        assert "torch" in stored["environment"]

    def test_a_figure_is_drawn_for_arms_with_gaps(self, tmp_path: Path) -> None:
        file = plots.draw(outcome(memory=[1.0, 2.0], ablated=[0.0, 0.5]), tmp_path)
        assert file.read_bytes().startswith(b"\x89PNG")


#: A run that succeeds with every seed but 4.
RUNNER = """
import json, os, sys
name, seed, quick, scratch, data, result = sys.argv[1:]
assert (name, quick, os.listdir(scratch)) == ("small", "1", [])
assert os.environ["OMP_NUM_THREADS"] == "1"
if seed == "4":
    sys.exit("no luck")
open(scratch + "/left", "w").close()
found = {"values": {"memory": {"score": float(seed)}}, "cpu_seconds": 1.0}
json.dump(found, open(result, "w"))
"""


class TestRuns:
    def test_every_seed_runs_in_a_process_and_one_that_fails_does_not_stop_the_rest(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "runner.py").write_text(RUNNER)
        monkeypatch.setattr(harness, "_RUN_ONE", (sys.executable, str(tmp_path / "runner.py")))
        said: list[str] = []
        found = harness.run_all([TASK], [3, 4, 5], tmp_path, quick=True, jobs=2, say=said.append)
        assert found[0].column("memory", "score") == {3: 3.0, 5: 5.0}
        assert found[0].failures == {4: "no luck"}
        assert any(line.startswith("FAILED: small, seed 4") for line in said)
        assert not list(tmp_path.glob("runs/*.scratch"))

    def test_a_result_of_an_earlier_run_is_not_taken_for_that_of_a_failed_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "runner.py").write_text(RUNNER)
        monkeypatch.setattr(harness, "_RUN_ONE", (sys.executable, str(tmp_path / "runner.py")))
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "small-4.json").write_text("{}")
        found = harness.run_all([TASK], [4], tmp_path, quick=True, jobs=1, say=print)
        assert found[0].failures == {4: "no luck"}

    def test_a_task_whose_data_cannot_be_had_is_skipped_loudly(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said: list[str] = []
        monkeypatch.setattr(Data, "fetch", lambda *_: "no geonames: no network")
        needy = replace(TASK, needs=("geonames",))
        found = harness.run_all([needy], [0], tmp_path, quick=True, jobs=1, say=said.append)
        assert found[0].skipped == "no geonames: no network" and not found[0].values
        assert said == ["SKIPPED: small: no geonames: no network"]

    def test_one_run_writes_what_its_task_reports(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tasks, "load", lambda _: TASK)
        result = tmp_path / "result.json"
        paths = [str(tmp_path), str(tmp_path), str(result)]
        done = CliRunner().invoke(run_one.main, ["small", "7", "0", *paths])
        assert done.exit_code == 0, done.output
        found = json.loads(result.read_text())
        assert found["values"]["memory"] == {"score": 7.0, "error": 1.0}
        assert found["cpu_seconds"] > 0

    def test_figures_are_checked_before_they_are_written(self) -> None:
        with pytest.raises(ValueError, match="expected an arm 'memory'"):
            run_one.checked(TASK, {"ablated": {"score": 1.0}})
        with pytest.raises(ValueError, match=r"got \['speed'\]"):
            run_one.checked(TASK, {"memory": {"speed": 1.0}})
        with pytest.raises(ValueError, match="score is not"):
            run_one.checked(TASK, {"memory": {"score": math.nan}})

    def test_a_call_elsewhere_runs_in_another_process(self) -> None:
        assert elsewhere(os.getppid) == os.getpid()

    @pytest.mark.parametrize("name", tasks.NAMES)
    def test_every_task_names_data_that_can_be_fetched_and_measures_that_it_has(
        self, name: str
    ) -> None:
        task = tasks.load(name)
        assert task.name == name
        assert set(task.needs) <= set(SOURCES)
        assert {goal.measure for goal in task.goals} <= {each.name for each in task.measures}


class TestCommand:
    def called(
        self, found: Outcome, out: Path, monkeypatch: pytest.MonkeyPatch, *options: str
    ) -> tuple[Result, dict[str, Any]]:
        asked: dict[str, Any] = {}

        def run_all(tasks: list[Task], seeds: range, folder: Path, **how: Any) -> list[Outcome]:
            asked.update(how, tasks=[task.name for task in tasks], seeds=list(seeds))
            return [found]

        out.mkdir()
        monkeypatch.setattr(command, "run_all", run_all)
        return CliRunner().invoke(command.main, ["--out", str(out), *options]), asked

    def test_what_was_measured_is_printed_and_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = outcome(memory=[1.0, 2.0], ablated=[0.0, 0.5])
        done, asked = self.called(found, tmp_path / "out", monkeypatch, "--task", "facts")
        assert done.exit_code == 0, done.output
        assert (asked["tasks"], asked["seeds"], asked["quick"]) == (
            ["facts"],
            [0, 1, 2, 3, 4],
            False,
        )
        written = {file.name for file in (tmp_path / "out").iterdir()}
        assert written == {"report.md", "results.json", "small.png"}

    def test_the_quick_form_has_fewer_seeds(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = outcome(memory=[1.0, 2.0], ablated=[0.0, 0.5])
        _, asked = self.called(found, tmp_path / "out", monkeypatch, "--quick")
        assert (asked["tasks"], asked["seeds"]) == (list(tasks.NAMES), [0, 1])

    def test_a_skipped_task_and_a_failed_run_are_errors(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        skipped = Outcome(TASK, skipped="no data")
        assert self.called(skipped, tmp_path / "skipped", monkeypatch)[0].exit_code == 1
        failed = outcome(memory=[1.0])
        failed.failures[1] = "no luck"
        assert self.called(failed, tmp_path / "failed", monkeypatch)[0].exit_code == 1


class TestData:
    def fetch(self, folder: Path, monkeypatch: pytest.MonkeyPatch, source: Source) -> str:
        monkeypatch.setitem(SOURCES, "things", source)
        folder.mkdir(exist_ok=True)
        return Data(folder).fetch("things", lambda _: None)

    def test_what_is_installed_is_not_downloaded(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "usr").mkdir()
        (tmp_path / "usr" / "text").write_text("words")
        monkeypatch.setattr(data, "_SYSTEM", tmp_path)
        monkeypatch.setattr(data, "_download", None)
        source = Source(("things",), True, ("usr/te*",))
        assert self.fetch(tmp_path / "data", monkeypatch, source) == ""
        assert (tmp_path / "data" / "things" / "usr" / "text").read_text() == "words"

    def test_what_cannot_be_downloaded_leaves_a_reason_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))  # no apt-get there
        source = Source(("things",), True, ("no/such/file",))
        reason = self.fetch(tmp_path / "data", monkeypatch, source)
        assert reason == "no things: no apt-get here"
        assert not (tmp_path / "data" / "things").exists()

    def test_a_downloaded_archive_is_unpacked_and_only_what_is_wanted_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def download(_: list[str], folder: Path) -> None:
            with zipfile.ZipFile(folder / "things-1.whl", "w") as wheel:
                wheel.writestr("things/wanted.txt", "yes")
                wheel.writestr("things/other.txt", "no")

        monkeypatch.setattr(data, "_download", download)
        source = Source(("things==1",), False, ("things/wanted.txt",))
        assert self.fetch(tmp_path / "data", monkeypatch, source) == ""
        left = [each for each in (tmp_path / "data").rglob("*") if each.is_file()]
        assert left == [tmp_path / "data" / "things" / "things" / "wanted.txt"]

    def test_a_package_without_what_is_wanted_is_not_had(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def download(_: list[str], folder: Path) -> None:
            zipfile.ZipFile(folder / "things-1.whl", "w").close()

        monkeypatch.setattr(data, "_download", download)
        source = Source(("things==1",), False, ("things/wanted.txt",))
        reason = self.fetch(tmp_path / "data", monkeypatch, source)
        assert reason == "no things: the package holds nothing like things/wanted.txt"


class TestReading:
    def test_batch_i_holds_segment_i_of_every_text(self) -> None:
        texts: list[Tokens] = [np.arange(1000), np.arange(1000, 2000)]
        batches = streams(texts, 2 * SEGMENT + 5)
        assert len(batches) == 2
        inputs, targets = batches[1]
        assert inputs[1].tolist() == list(range(1000 + SEGMENT, 1000 + 2 * SEGMENT))
        assert torch.equal(targets, inputs + 1)

    def test_an_ngram_is_seen_that_was_trained_on_or_read_in_an_earlier_batch(self) -> None:
        train: Tokens = np.array([1, 2, 3])
        first = (torch.tensor([[1, 2]]), torch.tensor([[2, 9]]))
        again = (torch.tensor([[9, 2]]), torch.tensor([[2, 9]]))
        fresh = unseen(train, [first, again, again], 2)
        #               12 trained, 29 new | 92 new, 29 read | 92, 29 read
        assert fresh.tolist() == [False, True, True, False, False, False]

    def test_a_mixture_weighs_probabilities(self) -> None:
        found = mixed(np.log([0.5, 0.2]), np.log([0.1, 0.6]), 0.25)
        assert np.exp(found) == pytest.approx([0.4, 0.3])

    def test_word_counts_are_judged_before_they_learn(self) -> None:
        batch = (torch.tensor([[1, 2]]), torch.tensor([[2, 3]]))
        first, second = read_with_ngrams(KneserNey(5), [batch, batch]).reshape(2, 2)
        assert first == pytest.approx(np.log([0.2, 0.2]))
        assert (second > first).all()


@pytest.fixture
def model(tmp_path: Path) -> Iterator[AESGDecoderLM]:
    """A tiny language model, untrained."""
    torch.manual_seed(0)
    memory = AESGMemory(tmp_path / "memory", AESGConfig(vector_dim=8))
    with memory:
        yield AESGDecoderLM(12, memory, hidden_size=16, num_layers=1, nhead=2, top_k=4).eval()


def batches_of(seed: int, count: int) -> Batches:
    dice = torch.Generator().manual_seed(seed)
    return [
        (tokens[:, :-1], tokens[:, 1:])
        for tokens in (torch.randint(12, (2, 7), generator=dice) for _ in range(count))
    ]


class TestReadingWithAModel:
    def test_reading_gives_a_log_probability_for_each_target_in_order(
        self, model: AESGDecoderLM
    ) -> None:
        (inputs, targets), *_ = batches = batches_of(0, 2)
        found = read(model, batches)
        assert found.shape == (24,)
        with torch.no_grad():
            wanted = model(inputs).gather(-1, targets[..., None]).flatten()
        assert found[:12] == pytest.approx(wanted.numpy(), rel=1e-5)
        assert perplexity(found) == pytest.approx(math.exp(-found.mean()))

    def test_only_online_reading_leaves_a_trace(self, model: AESGDecoderLM) -> None:
        read(model, batches_of(0, 2))
        assert model.memory.provisional_count == 0
        read(model, batches_of(0, 2), "ONLINE")
        assert model.memory.provisional_count > 0

    def test_an_irrelevant_memory_holds_only_what_was_read_beside(
        self, model: AESGDecoderLM
    ) -> None:
        texts, others = batches_of(0, 1), batches_of(1, 1)
        others[0][0].fill_(3)
        others[0][1].fill_(3)
        read_beside(model, texts, others)
        context = model.memory.recall(model.queries(texts[0][0]).detach())
        assert set(context.value_ids[context.mask].tolist()) == {3}

    def test_a_neural_cache_expects_what_it_read(self, model: AESGDecoderLM) -> None:
        batch = batches_of(0, 1)[0]
        with model.without_memory():
            ours, theirs = NeuralCache(model, 100).read([batch, batch], 1000.0)
        assert np.isneginf(theirs[:12]).all()  # nothing was read before the first batch
        assert np.exp(theirs[12:]) == pytest.approx(np.ones(12), abs=0.1)
        assert ours[:12] == pytest.approx(ours[12:])


class TestPlaceNames:
    def test_a_spelling_that_differs_in_case_or_accents_alone_is_no_question(self) -> None:
        class Atlas(Data):
            def cities(self) -> list[dict[str, Any]]:
                names = ("Köln", ["KOLN", "Cologne", "Кёльн"]), ("Москва", ["Moskva"])
                return [
                    {"name": name, "alternatenames": others, "countrycode": code}
                    for code, (name, others) in zip(("DE", "RU"), names, strict=True)
                ]

        places, countries = facts.read_places(Atlas(Path()))
        assert places == [facts.Place("Köln", ("Cologne",), 0)]
        assert countries == 2

    def test_similar_names_share_runs_of_characters(self) -> None:
        same, alike, other = facts.encode(["Köln", "Koln", "Mumbai"])
        assert torch.equal(same, alike)
        assert not set(same.tolist()) & set(other.tolist()) - {0}

    def test_what_is_claimed_is_on_disk_and_every_arm_is_asked(self, tmp_path: Path) -> None:
        place = facts.Place("Köln", ("Cologne",), 1)
        torch.manual_seed(0)
        for folder, alone in (("ablated", True), ("told", False)):
            weights = facts.trained([place] * 4, 3, tmp_path / folder, TINY, 0, alone=alone)
            torch.save(weights, facts.weights_file(tmp_path, alone=alone))
        facts.tell(tmp_path, "memory", 3, [([place], [2])])
        with AESGMemory.open(tmp_path / "memory") as memory:
            assert memory.recall(torch.ones(memory.vector_dim)).value_ids.tolist() == [2]
        asked = facts.encode(["Köln"])
        found = facts.ask(tmp_path, ["memory"], 3, asked, torch.tensor([1]))
        assert set(found) == {"memory", "ablated"}


class TestKneserNey:
    TOKENS: ClassVar[list[int]] = [1, 2, 3, 1, 2, 4, 1, 2, 3, 0]

    @pytest.mark.parametrize("context", [(), (1,), (1, 2), (9, 9), (4, 1, 2)])
    def test_probabilities_sum_to_one(self, context: tuple[int, ...]) -> None:
        model = KneserNey(5, order=3)
        model.learn(self.TOKENS)
        assert sum(math.exp(model.log_prob(context, token)) for token in range(5)) == (
            pytest.approx(1.0)
        )

    def test_a_probability_by_hand(self) -> None:
        model = KneserNey(4, order=2)
        model.learn([1, 2, 1, 2, 1, 3])
        # Kinds of contexts: of 1 two (start, 2), of 2 and 3 one each (1).
        unigram = (1 - 0.75) / 4 + 0.75 * 3 / 4 * (1 / 4)
        bigram = (2 - 0.75) / 3 + 0.75 * 2 / 3 * unigram
        assert math.exp(model.log_prob((1,), 2)) == pytest.approx(bigram)

    def test_learning_in_parts_comes_to_the_same(self) -> None:
        whole, parts = KneserNey(5, order=3), KneserNey(5, order=3)
        whole.learn(self.TOKENS)
        parts.learn(self.TOKENS[:4])
        parts.learn(self.TOKENS, 4)
        for token in range(5):
            assert whole.log_prob((1, 2), token) == parts.log_prob((1, 2), token)
