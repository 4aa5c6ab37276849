"""`ColorizationBenchmark`: a network with memory and the same one without, on colours."""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from aesg.benchmark.output import Output
from aesg.benchmark.pictures import Pictures, load_pictures
from aesg.benchmark.plots import write_plots
from aesg.benchmark.report import Facts, report
from aesg.benchmark.results import QUESTIONS, UNSHOWN, ModelResult, comparisons, model_results
from aesg.benchmark.settings import Settings, settings_of
from aesg.benchmark.trial import GRAY, Plan, Trial, run_trial, samples_of, try_settings
from aesg.errors import AESGStorageError


class ColorizationBenchmark:
    """Compares `AESGColorizationNet.small` with the same network without memory.

    Both are trained on the same pictures in the same order from the same weights, and judged on
    pictures that neither has seen. Then the memory is shown those once, in colour, and both colour
    other views of them. The trained model with its memory ablated is a third column, the gray
    picture as it is a fourth.

    Parameters
    ----------
    dataset_name : {"cifar10", "generated"}
        CIFAR-10 is read, and fetched if it is not there, by torchvision. Where that cannot be had a
        UserWarning says why, and generated scenes are used.
    max_images : int
        At least 5. A fifth of them is judged, the others are trained on.
    image_size : int
        Pixels along a side, at least 16.
    max_epochs : int
        At least 1.
    output_dir : str or path
        Made if it does not exist. Files of others there are never replaced.
    image_dir : str or path, optional
        A folder with images of one's own, in it or in its folders, in place of a data set. What a
        benchmark has written to ``output_dir`` is not among them.
    data_dir : str or path
        Where torchvision keeps CIFAR-10.
    seeds : sequence of int
        One training of both models for each, such as ``[0, 1, 2]`` for three of them. A seed
        decides about the weights, the order of the pictures and their division.
    batch_size : int
    learning_rate : float
    model_options : mapping, optional
        For `AESGColorizationNet.small`; ``base_filters`` and ``blocks`` are those of the baseline
        too. Unless given here, ``query_every`` is ``image_size / 64``, rounded up, and
        ``novelty_explanation_threshold`` 0.9.
    quick : bool
        A run of under a minute: at most 200 images of 64 pixels, 3 epochs, smaller batches and a
        narrower network.
    resume : bool
        Whether a run that was stopped goes on from its last whole epoch, and a seed that is done
        is not repeated. Without it, or after a change of settings or pictures, all starts anew,
        and what was there, with its report, moves to ``runs.1`` in ``output_dir``.
    device : str or torch.device
        Where the models are trained.
    progress : bool, optional
        Whether there are progress bars on stderr. None shows them on a terminal.

    Raises
    ------
    AESGConfigError
        If a parameter is out of range.
    """

    def __init__(
        self,
        dataset_name: str = "cifar10",
        max_images: int = 2000,
        image_size: int = 128,
        max_epochs: int = 3,
        output_dir: str | os.PathLike[str] = "./benchmark_results",
        *,
        image_dir: str | os.PathLike[str] | None = None,
        data_dir: str | os.PathLike[str] = "./data",
        seeds: Sequence[int] = (0,),
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        model_options: Mapping[str, Any] | None = None,
        quick: bool = False,
        resume: bool = True,
        device: str | torch.device = "cpu",
        progress: bool | None = None,
    ) -> None:
        settings = settings_of(
            dataset=dataset_name,
            image_dir=image_dir,
            data_dir=data_dir,
            max_images=max_images,
            image_size=image_size,
            epochs=max_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seeds=seeds,
            device=device,
            model_options=model_options,
        )
        self.settings = (settings.quickened() if quick else settings).completed()
        self._output = Output(output_dir)
        self.output_dir = self._output.folder
        self._resume = resume
        self._progress = progress

    def run(self) -> dict[str, ModelResult]:
        """Train, judge, and write the report.

        Returns
        -------
        dict
            The `ModelResult` of ``"aesg"``, ``"baseline"``, ``"ablated"`` and ``"gray"``.

        Raises
        ------
        AESGTrainingError
            If ``image_dir`` has fewer than five different coloured images that can be read.
        AESGConfigError
            If a model option is unknown or out of range, the pictures are too small for the model,
            or the device cannot be used. All of it is tried before anything is written.
        AESGStorageError
            If the memory or the report cannot be written, ``output_dir`` has files of somebody
            else under the names of the benchmark's, a result of an earlier run is damaged, or
            another benchmark is at work there.
        KeyboardInterrupt
            If it was stopped; the next run goes on.
        """
        try:
            return self._run()
        except OSError as error:
            where = error.filename or self.output_dir
            raise AESGStorageError(
                f"Failed to run the benchmark at '{where}': {error.strerror or error}"
            ) from error

    def _run(self) -> dict[str, ModelResult]:
        try_settings(self.settings)  # before anything is loaded, moved or written
        output = self._output
        output.check()
        pictures = load_pictures(self.settings, output.holds)
        with output.alone():
            output.prepare(_identity(self.settings, pictures), self._resume)
            plan = Plan(self.settings, pictures, self._progress)
            trials = {
                seed: run_trial(plan, seed, output.seed(seed)) for seed in self.settings.seeds
            }
            results = model_results(trials)
            self._write(pictures, trials, results)
        return results

    def _write(
        self, pictures: Pictures, trials: Mapping[int, Trial], results: dict[str, ModelResult]
    ) -> None:
        output = self._output
        output.remove_report()
        facts = Facts(
            settings=self.settings,
            pictures=pictures,
            judged=len(next(iter(trials.values()))[GRAY].unseen.psnr),
            results=results,
            comparisons=comparisons(trials),
            environment=environment(),
            samples=output.write_samples(samples_of(output.seed(self.settings.seeds[0]))),
            plots=output.plots.name if write_plots(output.plots, trials) else None,
        )
        output.write_report(_record(facts, trials), report(facts))


def _record(facts: Facts, trials: Mapping[int, Trial]) -> dict[str, Any]:
    """Return all that was found, as JSON holds it."""
    return {
        "settings": facts.settings.described(),
        "environment": dict(facts.environment),
        "pictures": {
            "dataset": facts.pictures.dataset,
            "source": facts.pictures.source,
            "count": len(facts.pictures.pixels),
            "sha256": facts.pictures.digest,
            "notes": list(facts.pictures.notes),
        },
        "models": {name: dataclasses.asdict(each) for name, each in facts.results.items()},
        "comparisons": [each.described() for each in facts.comparisons],
        "per_picture": {
            str(seed): {
                name: {
                    question: vars(scores)
                    for question in (*QUESTIONS, UNSHOWN)
                    if (scores := getattr(arm, question)) is not None
                }
                for name, arm in trial.items()
            }
            for seed, trial in trials.items()
        },
    }


def environment() -> dict[str, str | int]:
    """Return what the figures may depend on besides the settings."""
    return {
        "aesg": _version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def _version() -> str:
    try:
        return version("aesg")
    except PackageNotFoundError:  # a source tree that is not installed
        return "unknown"


def _identity(settings: Settings, pictures: Pictures) -> dict[str, Any]:
    """Return what a run that goes on has to share with the one that was stopped."""
    described = settings.described()
    for name in (
        "seeds",
        "dataset_name",
        "data_dir",
        "image_dir",
    ):  # the pictures themselves say where from
        del described[name]
    return {**described, "pictures": pictures.digest}
