"""What the benchmark says of its figures, and its command line."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from aesg.benchmark.__main__ import main
from aesg.benchmark.judging import Scores, ratios
from aesg.benchmark.report import verdict
from aesg.benchmark.results import Comparison, Question, comparisons, model_results
from aesg.benchmark.statistics import Interval, interval, t_point
from aesg.benchmark.trial import Arm, Trial

SMALL = ["--dataset", "generated", "--images", "8", "--size", "16", "--epochs", "1"]
COUNT = 12


def arm(psnr: float, **changes: Any) -> Arm:
    """Return what a column says whose pictures are about as near as ``psnr``."""
    near = Scores([psnr + 0.1 * (each % 3) for each in range(COUNT)], [psnr / 100] * COUNT)
    return Arm(near, near, [0.1], 1.0, 5, **changes)


def trial(aesg: float, baseline: float, ablated: float, unshown: float) -> Trial:
    before = arm(unshown).unseen
    return {
        "aesg": arm(aesg, memory_nodes=7, memory_edges=9, unshown=before),
        "baseline": arm(baseline),
        "ablated": arm(ablated),
        "gray": arm(15.0),
    }


def said(found: Trial, against: str, question: Question = "unseen", model: str = "aesg") -> str:
    compared = comparisons({0: found})
    return verdict(*(each for each in compared if each.is_of(question, against, model)))


# Words


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (22.0, "AESG is better than the baseline CNN"),
        (18.0, "AESG is worse than the baseline CNN"),
    ],
)
def test_the_report_says_which_model_is_better_whichever_it_is(ours: float, words: str) -> None:
    assert said(trial(ours, 20.0, 20.0, 20.0), "baseline").startswith(f"in this training, {words}")


@pytest.mark.parametrize(
    ("ablated", "words"), [(18.0, "reading the memory helps"), (22.0, "reading the memory harms")]
)
def test_the_report_says_whether_the_memory_helps_or_harms(ablated: float, words: str) -> None:
    assert said(trial(20.0, 20.0, ablated, 20.0), "ablated").startswith(
        f"in this training, {words}"
    )


def test_the_report_says_whether_being_shown_the_pictures_helps() -> None:
    words = said(trial(21.0, 20.0, 20.0, 20.0), "unshown", "seen")
    assert words.startswith("in this training, having been shown them helps (PSNR +1.00 dB")


@pytest.mark.parametrize(
    ("against", "words"),
    [
        ("baseline", "no difference to the baseline CNN can be told"),
        ("ablated", "reading the memory makes no difference that can be told"),
        ("unshown", "having been shown them makes no difference that can be told"),
    ],
)
def test_an_interval_that_holds_zero_says_nothing(against: str, words: str) -> None:
    even = Comparison("seen", "psnr", against, Interval(0.5, 0.6, 3), "seeds")
    assert verdict(even).startswith(words)
    assert "+0.50 dB, -0.10 to +1.10" in verdict(even)


def test_measures_that_disagree_are_told_apart() -> None:
    better = Comparison("seen", "psnr", "ablated", Interval(0.5, 0.1, 3), "seeds")
    worse = Comparison("seen", "ssim", "ablated", Interval(-0.02, 0.01, 3), "seeds")
    assert verdict(better, worse) == (
        "by PSNR reading the memory helps (+0.50 dB, +0.40 to +0.60); by SSIM reading the memory "
        "harms (-0.0200, -0.0300 to -0.0100)."
    )


@pytest.mark.parametrize(
    ("model", "words"),
    [("aesg", "AESG is worse than"), ("baseline", "the baseline CNN is better than")],
)
def test_the_report_says_of_both_models_how_they_compare_with_no_colour_at_all(
    model: str, words: str
) -> None:
    found = said(trial(14.0, 20.0, 20.0, 14.0), "gray", model=model)
    assert found.startswith(f"in this training, {words} the gray picture")


@pytest.mark.parametrize(("model", "name"), [("aesg", "AESG"), ("baseline", "the baseline CNN")])
def test_a_model_below_the_gray_picture_within_the_interval_is_not_called_worse(
    model: str, name: str
) -> None:
    even = Comparison("unseen", "psnr", "gray", Interval(-0.5, 0.6, 3), "seeds", model)
    assert verdict(even).startswith(f"no difference of {name} to the gray picture can be told")


# Figures


def test_one_seed_is_compared_picture_by_picture() -> None:
    found = comparisons({0: trial(21.0, 20.0, 19.0, 20.5)})
    assert {each.over for each in found} == {"pictures"}
    assert found[0].difference.count == COUNT
    assert found[0].difference.mean == pytest.approx(1.0)


def test_several_seeds_are_means_with_their_spread_and_differences_in_pairs() -> None:
    trials = {0: trial(21.0, 20.0, 19.0, 20.5), 1: trial(23.0, 20.0, 19.0, 20.5)}
    results = model_results(trials)
    assert results["aesg"].psnr == pytest.approx(22.1)
    assert results["aesg"].psnr_sd == pytest.approx(math.sqrt(2))
    assert results["aesg"].unshown_psnr == pytest.approx(20.6)
    assert results["baseline"].unshown_psnr is None
    difference = comparisons(trials)[0].difference
    assert difference.mean == pytest.approx(2.0)
    assert difference.half == pytest.approx(12.7062)  # t of one degree of freedom, times 1


def test_the_points_of_students_t_are_right() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom in (*range(1, 40), 100, 399, 10_000):
        assert t_point(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=1e-4)


def test_an_interval_agrees_with_a_t_test() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = [0.3, 0.1, 0.5, 0.2]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = interval(values)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-4)
    assert found.sign == (expected.low > 0)


def test_one_value_has_no_interval() -> None:
    found = interval([2.0])
    assert (found.mean, found.half, found.sign) == (2.0, math.inf, 0)


def test_ratios_are_of_each_picture_and_finite_for_equal_ones() -> None:
    wanted = torch.rand(2, 3, 4, 4)
    made = wanted.clone()
    made[1] += 0.1
    torch.testing.assert_close(ratios(made, wanted), torch.tensor([100.0, 20.0]))


# Command line


def test_the_command_prints_a_table_and_writes_the_report(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [*SMALL, "--quick", "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    for name in ("seed 0: BaselineCNN", "AESG", "baseline CNN", "concepts", "benchmark_report.md"):
        assert name in result.output
    assert json.loads((tmp_path / "out" / "results.json").read_text())["settings"]["epochs"] == 1


def test_the_command_runs_several_seeds(tmp_path: Path) -> None:
    arguments = [*SMALL, "--quick", "--seeds", "2", "--output", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert sorted(each.name for each in (tmp_path / "runs").glob("seed_*")) == ["seed_0", "seed_1"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--images", "3"], 2, "--images"),
        (["--dataset", "imagenet"], 2, "imagenet"),
        (["--image-dir", "nothing"], 2, "nothing"),
        (["--image-dir", "."], 1, "[trainer] image_dir: expected at least 5"),
        (["--dataset", "generated", "--device", "abacus"], 1, "[config] device"),
        (["--dataset", "generated", "--output", "file/out"], 1, "[storage]"),
    ],
)
def test_the_command_says_what_is_wrong(
    tmp_path: Path, arguments: list[str], status: int, words: str
) -> None:
    (tmp_path / "file").write_text("no folder")
    options = ["--quick", "--images", "8", "--size", "16", "--output", "out"]
    result = CliRunner().invoke(main, [*options, *arguments])
    assert result.exit_code == status
    assert words in result.output
    assert "Traceback" not in result.output


def test_ctrl_c_ends_the_command_with_130_and_the_same_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aesg.benchmark import BaselineCNN

    def stopped(self: BaselineCNN, images: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    call = [*SMALL, "--quick", "--output", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(BaselineCNN, "forward", stopped)
        result = CliRunner().invoke(main, call)
    assert result.exit_code == 130
    assert "goes on" in result.output
    assert CliRunner().invoke(main, call).exit_code == 0


@pytest.mark.long
def test_a_killed_run_goes_on_to_the_same_results(tmp_path: Path) -> None:
    def call(folder: Path) -> list[str]:
        options = [*SMALL, "--images", "30", "--epochs", "3", "--size", "32", "--batch-size", "8"]
        return [sys.executable, "-m", "aesg.benchmark", *options, "--output", str(folder)]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(call(whole), check=True, capture_output=True)
    ended = [_until_an_epoch_ends(call(killed), killed / "runs" / "seed_0") for _ in range(3)]
    assert ended[0] == -signal.SIGKILL
    subprocess.run(call(killed), check=True, capture_output=True)
    expected, found = (
        json.loads((folder / "results.json").read_text())["per_picture"]
        for folder in (whole, killed)
    )
    assert found == expected


def _until_an_epoch_ends(command: list[str], folder: Path) -> int:
    """Run a command, kill it when there is a new checkpoint, and return its status."""

    def checkpoints() -> set[str]:
        return {str(each) for each in folder.glob("*/checkpoints/epoch_*")}

    before = checkpoints()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None:
            if checkpoints() - before:
                child.kill()
            time.sleep(0.02)
    return child.returncode
