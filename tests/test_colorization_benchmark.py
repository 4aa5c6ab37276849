"""The colorization benchmark: what it runs, writes, and goes on with."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from aesg.benchmark import BaselineCNN, ColorizationBenchmark, ModelResult
from aesg.errors import AESGConfigError, AESGStorageError
from aesg.models import AESGColorizationNet

TINY = {"base_filters": 2, "blocks": 2, "vector_dim": 16, "query_every": 2}


def tiny(folder: Path, **changes: Any) -> ColorizationBenchmark:
    settings: dict[str, Any] = {
        "dataset_name": "generated",
        "max_images": 10,
        "image_size": 16,
        "max_epochs": 2,
        "output_dir": folder,
        "batch_size": 4,
        "model_options": TINY,
        "progress": False,
    }
    return ColorizationBenchmark(**{**settings, **changes})


def marks(results: dict[str, ModelResult]) -> dict[str, tuple[Any, ...]]:
    """Return what does not depend on the clock."""
    return {
        name: (each.psnr, each.ssim, each.seen_psnr, each.seen_ssim, each.losses, each.memory_nodes)
        for name, each in results.items()
    }


def kinds_trained(calls: list[tuple[str, Tensor]]) -> set[str]:
    return {name for name, _ in calls}


@pytest.fixture
def trained() -> Iterator[list[tuple[str, Tensor]]]:
    """Collect the class and the input of every forward pass of training."""
    calls: list[tuple[str, Tensor]] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, (AESGColorizationNet, BaselineCNN)) and module.training:
            calls.append((type(module).__name__, inputs[0].clone()))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    yield calls
    hook.remove()


class Interruption:
    """Raises KeyboardInterrupt at a forward pass of training of one kind of model."""

    def __init__(self, kind: type[nn.Module], at: int) -> None:
        self._kind = kind
        self._left = at
        self._hook = torch.nn.modules.module.register_module_forward_pre_hook(self._count)

    def _count(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, self._kind) and module.training:
            self._left -= 1
            if not self._left:
                raise KeyboardInterrupt

    def __enter__(self) -> None:
        pass

    def __exit__(self, *reason: object) -> None:
        self._hook.remove()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, ModelResult]]:
    folder = tmp_path_factory.mktemp("benchmark")
    return folder, tiny(folder).run()


def test_results_have_the_documented_attributes(
    finished: tuple[Path, dict[str, ModelResult]],
) -> None:
    _, results = finished
    assert set(results) == {"aesg", "baseline", "ablated", "gray"}
    for result in results.values():
        assert math.isfinite(result.psnr)
        assert -1 <= result.ssim <= 1
    assert results["aesg"].memory_nodes > 0
    assert results["baseline"].memory_nodes == 0


def test_the_documented_files_are_written(finished: tuple[Path, dict[str, ModelResult]]) -> None:
    folder, results = finished
    record = json.loads((folder / "results.json").read_text())
    assert record["models"]["aesg"]["psnr"] == results["aesg"].psnr
    assert record["settings"]["seeds"] == [0]
    assert record["settings"]["dataset_name"] == record["pictures"]["dataset"] == "generated"
    assert set(record["per_picture"]["0"]["aesg"]) == {"unseen", "seen", "unshown"}
    assert len(record["per_picture"]["0"]["aesg"]["unshown"]["psnr"]) == 2
    assert {"aesg", "torch", "python"} <= set(record["environment"])
    assert [file.name for file in sorted((folder / "samples").iterdir())] == [
        "sample_000.png",
        "sample_001.png",
    ]
    report = (folder / "benchmark_report.md").read_text()
    for part in ("PSNR", "SSIM", "samples/sample_000.png", "plots.png", "baseline CNN"):
        assert part in report
    assert (folder / "plots.png").read_bytes().startswith(b"\x89PNG")


def test_a_strip_shows_original_gray_and_three_models(
    finished: tuple[Path, dict[str, ModelResult]],
) -> None:
    folder, _ = finished
    with Image.open(folder / "samples" / "sample_000.png") as strip:
        width, height = strip.size
        side = (width - 4 * 4) // 5
        columns = [
            strip.crop((left, height - side, left + side, height))
            for left in range(0, width, side + 4)
        ]
    assert side == 128  # 16 pixels, enlarged
    spread = [int(np.ptp(np.asarray(column), axis=-1).max()) for column in columns]
    assert spread[0] > 50
    assert spread[1] == 0


def test_what_a_run_needs_on_the_way_is_removed(
    finished: tuple[Path, dict[str, ModelResult]],
) -> None:
    folder, _ = finished
    left = sorted(str(file.relative_to(folder / "runs")) for file in folder.glob("runs/**/*"))
    assert left == [
        "LOCK",
        "seed_0",
        "seed_0/result.json",
        "seed_0/samples",
        "seed_0/samples/sample_000.png",
        "seed_0/samples/sample_001.png",
        "settings.json",
    ]


def test_both_models_are_trained_on_the_same_batches_in_the_same_order(
    tmp_path: Path, trained: list[tuple[str, Tensor]]
) -> None:
    tiny(tmp_path).run()
    batches = defaultdict(list)
    for name, inputs in trained:
        batches[name].append(inputs)
    ours, theirs = batches["AESGColorizationNet"], batches["BaselineCNN"]
    assert len(ours) == len(theirs) == 4
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=0)
    assert not torch.equal(ours[0], ours[2])  # another order in the second epoch


def test_the_baseline_starts_with_the_weights_that_it_shares(tmp_path: Path) -> None:
    with AESGColorizationNet.small(tmp_path / "memory", **TINY).memory as memory:
        model = AESGColorizationNet(memory, base_filters=2, blocks=2)
        baseline = BaselineCNN.beside(model)
        names = {name for name, _ in model.named_parameters() if name.startswith(("enc", "dec"))}
        assert {name for name, _ in baseline.named_parameters()} == names
        gray = torch.rand(2, 1, 15, 18)
        with model.without_memory():
            torch.testing.assert_close(baseline.eval()(gray), model.eval()(gray))


def test_the_random_numbers_of_the_caller_stay_as_they_were(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    tiny(tmp_path, max_epochs=1).run()
    torch.testing.assert_close(torch.rand(4), expected)


@pytest.mark.parametrize(("kind", "at"), [(AESGColorizationNet, 4), (BaselineCNN, 1)])
def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_results(
    tmp_path: Path,
    finished: tuple[Path, dict[str, ModelResult]],
    trained: list[tuple[str, Tensor]],
    kind: type[nn.Module],
    at: int,
) -> None:
    with Interruption(kind, at), pytest.raises(KeyboardInterrupt):
        tiny(tmp_path).run()
    trained.clear()
    results = tiny(tmp_path).run()
    assert marks(results) == marks(finished[1])
    again = [name for name, _ in trained].count("AESGColorizationNet")
    assert again == (2 if kind is AESGColorizationNet else 0)  # one epoch of two, or none


def test_a_seed_that_is_done_is_not_repeated(
    tmp_path: Path, trained: list[tuple[str, Tensor]]
) -> None:
    first = tiny(tmp_path).run()
    trained.clear()
    assert marks(tiny(tmp_path).run()) == marks(first)
    assert not trained
    both = tiny(tmp_path, seeds=(0, 1)).run()
    assert len(trained) == 8  # those of the second seed, of both models
    assert both["aesg"].psnr_sd is not None
    assert both["aesg"].losses[0] == first["aesg"].losses[0]


def test_a_run_anew_repeats_everything(tmp_path: Path, trained: list[tuple[str, Tensor]]) -> None:
    first = tiny(tmp_path).run()
    trained.clear()
    assert marks(tiny(tmp_path, resume=False).run()) == marks(first)
    assert len(trained) == 8


def test_other_settings_start_anew_with_a_warning(
    tmp_path: Path, trained: list[tuple[str, Tensor]]
) -> None:
    tiny(tmp_path, max_epochs=1).run()
    trained.clear()
    with pytest.warns(UserWarning, match="other settings or pictures.*runs.1"):
        tiny(tmp_path).run()
    assert len(trained) == 8


def stopped(benchmark: ColorizationBenchmark) -> None:
    with Interruption(AESGColorizationNet, 1), pytest.raises(KeyboardInterrupt):
        benchmark.run()


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name != "LOCK"
    }


@pytest.fixture
def copied(tmp_path: Path, finished: tuple[Path, dict[str, ModelResult]]) -> Path:
    """Return a folder with a finished benchmark of its own."""
    return Path(shutil.copytree(finished[0], tmp_path / "copied"))


@pytest.mark.filterwarnings("ignore:.*starts anew")
@pytest.mark.parametrize("change", [{"max_epochs": 1}, {"resume": False}])
def test_a_finished_benchmark_moves_aside_with_its_report_and_stays_whole(
    copied: Path, change: dict[str, Any]
) -> None:
    before = contents(copied)
    stopped(tiny(copied, **change))
    assert not (copied / "benchmark_report.md").exists()
    assert not list((copied / "samples").iterdir())
    stopped(tiny(copied, **{"image_size": 17, **change}))
    aside = copied / "runs.1"
    kept = {name.removeprefix("runs/"): content for name, content in before.items()}
    assert contents(aside) == kept


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"device": "cuda:77"}, "device"),
        ({"device": "abacus"}, "device"),
        ({"device": "meta"}, "device"),
        ({"device": None}, "device"),
        ({"model_options": {"base_filter": 2}}, "base_filter"),
        ({"model_options": {**TINY, "memory_dropout": "x"}}, "model_options"),
        ({"model_options": {**TINY, "blocks": 4}}, "image_size: .* 16 pixels .* leaves 14"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_changes(
    copied: Path, change: dict[str, Any], named: str
) -> None:
    before = contents(copied)
    with pytest.raises(AESGConfigError, match=named):
        tiny(copied, **change, resume=False).run()
    assert contents(copied) == before


def _picture(file: Path) -> None:
    Image.new("RGB", (20, 20), "red").save(file)


@pytest.mark.parametrize(
    "name",
    [
        "results.json",
        "plots.png",
        "benchmark_report.md",
        "samples/sample_000.png",
        "runs/settings.json",
        "runs",
        "samples",
    ],
)
def test_files_of_somebody_else_are_refused_before_training(
    tmp_path: Path, trained: list[tuple[str, Tensor]], name: str
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    if file.suffix == ".png":
        _picture(file)
    else:
        file.write_text("{}")
    before = contents(tmp_path)
    with pytest.raises(AESGStorageError, match="output_dir: expected"):
        tiny(tmp_path, resume=False).run()
    assert contents(tmp_path) == before
    assert not trained


def test_other_files_among_the_samples_stay(copied: Path) -> None:
    for name in ("sample_of_my_dog.png", "sample_0000.png"):
        _picture(copied / "samples" / name)
    tiny(copied).run()
    names = sorted(file.name for file in (copied / "samples").iterdir())
    assert names == ["sample_000.png", "sample_0000.png", "sample_001.png", "sample_of_my_dog.png"]
    assert "dog" not in (copied / "benchmark_report.md").read_text()


def test_what_the_benchmark_wrote_is_not_among_the_images_of_a_folder(tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    for number in range(6):
        pixels = dice.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    options = {"image_dir": tmp_path, "max_epochs": 1, "max_images": 100}
    for output in (tmp_path / "out", tmp_path):
        first = tiny(output, **options).run()
        assert marks(tiny(output, **options).run()) == marks(first)
        assert json.loads((output / "results.json").read_text())["pictures"]["count"] == 6
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_the_samples_are_those_of_the_first_seed_of_the_report(tmp_path: Path) -> None:
    def strip() -> bytes:
        return (tmp_path / "samples" / "sample_000.png").read_bytes()

    tiny(tmp_path, max_epochs=1).run()
    zero = strip()
    tiny(tmp_path, max_epochs=1, seeds=(1, 0)).run()
    assert strip() != zero
    tiny(tmp_path, max_epochs=1, seeds=(0, 1)).run()
    assert strip() == zero


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"aesg": 1}'])
def test_a_damaged_result_is_named(copied: Path, content: str) -> None:
    (copied / "runs" / "seed_0" / "result.json").write_text(content)
    with pytest.raises(AESGStorageError, match=r"result\.json': expected .* Remove"):
        tiny(copied).run()


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(AESGStorageError, match="file"):
            tiny(output).run()


def test_numbers_of_numpy_and_devices_of_torch_are_taken(tmp_path: Path) -> None:
    def settings(**changes: Any) -> Any:
        return tiny(tmp_path, **changes).settings

    plain = settings(learning_rate=0.5, seeds=(0, 1), model_options={"blocks": 2})
    given = settings(
        max_images=np.int64(10),
        learning_rate=np.float32(0.5),
        seeds=np.array([0, 1]),
        device=torch.device("cpu"),
        model_options={"blocks": np.int64(2)},
    )
    assert json.dumps(given.described()) == json.dumps(plain.described())


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "seed_0").write_text("the logs of somebody")
    with pytest.raises(AESGStorageError, match="not empty"):
        tiny(tmp_path, resume=False).run()
    assert (tmp_path / "runs" / "seed_0").read_text() == "the logs of somebody"


def test_a_second_benchmark_in_the_folder_of_one_at_work_is_refused(
    tmp_path: Path, finished: tuple[Path, dict[str, ModelResult]]
) -> None:
    refused: list[str] = []

    def begin_another(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, BaselineCNN) and not refused:
            with pytest.raises(AESGStorageError, match="another benchmark is at work") as caught:
                tiny(tmp_path, resume=False).run()
            refused.append(caught.value.message)

    hook = torch.nn.modules.module.register_module_forward_pre_hook(begin_another)
    try:
        results = tiny(tmp_path).run()
    finally:
        hook.remove()
    assert f"process {os.getpid()}" in refused[0]
    assert marks(results) == marks(finished[1])


def test_several_seeds_are_compared_in_pairs_of_seeds(tmp_path: Path) -> None:
    tiny(tmp_path, max_epochs=1, seeds=(3, 5)).run()
    record = json.loads((tmp_path / "results.json").read_text())
    assert {(each["over"], each["count"]) for each in record["comparisons"]} == {("seeds", 2)}
    assert set(record["per_picture"]) == {"3", "5"}
    report = (tmp_path / "benchmark_report.md").read_text()
    assert "+-" in report
    assert "One seed" not in report


def test_one_judged_picture_has_no_interval_and_the_report_says_so(tmp_path: Path) -> None:
    tiny(tmp_path, max_images=5, max_epochs=1).run()
    record = json.loads((tmp_path / "results.json").read_text())
    assert all(each["low"] is None for each in record["comparisons"])
    assert "one value" in (tmp_path / "benchmark_report.md").read_text()


def test_without_matplotlib_the_report_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    tiny(tmp_path, max_epochs=1).run()
    assert "aesg[bench]" in (tmp_path / "benchmark_report.md").read_text()
    assert not (tmp_path / "plots.png").exists()


def test_a_quick_run_takes_smaller_settings_and_keeps_those_that_are_small_already() -> None:
    quick = ColorizationBenchmark(quick=True, max_epochs=1, seeds=(7,)).settings
    full = ColorizationBenchmark().settings
    assert (full.max_images, full.image_size, full.epochs) == (2000, 128, 3)
    assert quick.max_images < 500
    assert quick.image_size < 128
    assert quick.epochs == 1
    assert quick.seeds == (7,)


@pytest.mark.parametrize(
    ("options", "every"),
    [
        ({}, 2),
        ({"image_size": 64}, 1),
        ({"image_size": 32}, 1),
        ({"image_size": 65}, 2),
        ({"image_size": 256}, 4),
        ({"quick": True, "image_size": 64}, 2),
        ({"model_options": {"query_every": 3}}, 3),
    ],
)
def test_larger_pictures_ask_from_no_more_cells_unless_told_so(
    options: dict[str, Any], every: int
) -> None:
    assert ColorizationBenchmark(**options).settings.model_options["query_every"] == every


def test_an_option_that_is_given_wins_over_that_of_the_benchmark() -> None:
    options = {"novelty_explanation_threshold": 0.5}
    chosen = ColorizationBenchmark(model_options=options).settings.model_options
    assert chosen == {"query_every": 2, **options}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dataset_name": "imagenet"}, "dataset_name"),
        ({"max_images": 4}, "max_images"),
        ({"image_size": 8}, "image_size"),
        ({"max_epochs": 0}, "max_epochs"),
        ({"max_epochs": 1.5}, "max_epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"seeds": (-1,)}, "seeds"),
        ({"seeds": 3}, r"seeds: expected a list of seeds, such as \[0, 1\]"),
        ({"seeds": "01"}, "seeds"),
        ({"seeds": [2**70]}, "seeds"),
        ({"seeds": [[0]]}, "seeds"),
        ({"max_images": True}, "max_images"),
        ({"learning_rate": "0.1"}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"model_options": {"storage_dir": "x"}}, "storage_dir"),
        ({"model_options": "abc"}, "model_options"),
        ({"image_dir": ""}, "image_dir"),
        ({"image_dir": 3}, "image_dir"),
        ({"data_dir": None}, "data_dir"),
        ({"dataset_name": "folder"}, "image_dir"),
        ({"dataset_name": [1]}, "dataset_name"),
        ({"output_dir": None}, "output_dir"),
        ({"output_dir": ""}, "output_dir"),
        ({"image_dir": "./nothing"}, "image_dir"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(
    tmp_path: Path, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(AESGConfigError, match=named):
        tiny(tmp_path, **change)
    assert not list(tmp_path.iterdir())
