"""One seed: both models trained on the same pictures in the same order, and judged."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from aesg._files import write_whole
from aesg.benchmark.baseline import BaselineCNN
from aesg.benchmark.judging import Painter, Scores, judged
from aesg.benchmark.output import strips_in
from aesg.benchmark.pictures import Pairs, Pictures, seen_again
from aesg.benchmark.settings import Settings
from aesg.benchmark.strips import write_strips
from aesg.callbacks.checkpoint import Checkpoint
from aesg.errors import AESGConfigError, AESGStorageError, AESGTrainingError
from aesg.models.image import AESGColorizationNet
from aesg.modes import MemoryMode
from aesg.trainable import device_of
from aesg.trainer import AESGTrainer

#: The columns of the benchmark.
AESG, BASELINE, ABLATED, GRAY = "aesg", "baseline", "ablated", "gray"
ARMS = (AESG, BASELINE, ABLATED, GRAY)

_log = logging.getLogger(__name__)

_RESULT, _MEMORY, _CHECKPOINTS = "result.json", "memory", "checkpoints"
_SAMPLES = "samples"


@dataclass(frozen=True)
class Arm:
    """What one column says after one seed.

    Parameters
    ----------
    unseen : Scores
        Of pictures that nothing was told of.
    seen : Scores
        Of other views of the same pictures, after the memory was shown them once.
    unshown : Scores or None
        Of the same views before that; None where it makes no difference.
    losses : list of float
        Of each epoch; empty where nothing was trained.
    seconds : float
        Of training.
    parameters : int
    memory_nodes, memory_edges : int
        Concepts and edges after training.
    """

    unseen: Scores
    seen: Scores
    losses: list[float]
    seconds: float
    parameters: int
    memory_nodes: int = 0
    memory_edges: int = 0
    unshown: Scores | None = None


Trial = dict[str, Arm]


@dataclass(frozen=True)
class Plan:
    """What does not change from seed to seed.

    Parameters
    ----------
    settings : Settings
    pictures : Pictures
    progress : bool or None
        Whether there are progress bars; None shows them on a terminal.
    """

    settings: Settings
    pictures: Pictures
    progress: bool | None


def try_settings(settings: Settings) -> None:
    """Make the model once, elsewhere, and let it colour pictures of both sizes.

    Parameters
    ----------
    settings : Settings

    Raises
    ------
    AESGConfigError
        If the device, an option of the model or the size of the pictures will not do.
    """
    try:
        device = device_of(settings.device)
    except AESGTrainingError as error:
        raise AESGConfigError(error.message) from error
    if device.type == "meta":
        raise AESGConfigError("device: expected one that holds numbers, got 'meta'")
    with TemporaryDirectory(prefix="aesg-") as folder, torch.random.fork_rng(devices=[]):
        try:
            model = AESGColorizationNet.small(Path(folder) / _MEMORY, **settings.model_options)
        except TypeError as error:
            raise AESGConfigError(f"model_options: {error}") from error
        with model.memory, torch.no_grad():
            _check_stride(settings, model.encoder.stride)
            model.to(device).eval()
            for side in (settings.image_size, settings.view_size):
                model(torch.zeros(1, 1, side, side, device=device))


def _check_stride(settings: Settings, stride: int) -> None:
    if settings.view_size < stride:
        raise AESGConfigError(
            f"image_size: expected pictures whose other views, 7/8 of a side, have at least the "
            f"{stride} pixels of the encoder's stride, got {settings.image_size}, which leaves "
            f"{settings.view_size}. Fewer blocks in model_options make the stride less"
        )


def samples_of(folder: Path) -> list[Path]:
    """Return the strips of a seed that is done."""
    return strips_in(folder / _SAMPLES)


def run_trial(plan: Plan, seed: int, folder: Path) -> Trial:
    """Train and judge with one seed, or go on where it was stopped.

    Parameters
    ----------
    plan : Plan
    seed : int
        Of the weights, of the order of the pictures and of their division.
    folder : Path
        For what the seed needs while it runs; its result and its strips remain there.

    Returns
    -------
    dict
        An `Arm` for each of `ARMS`.

    Raises
    ------
    AESGStorageError
        If there is a result that cannot be read.
    KeyboardInterrupt
        If training was interrupted. The last whole epoch remains in the folder.
    """
    result = folder / _RESULT
    if result.exists():
        return _parsed(result)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        trial = _trial(plan, seed, folder)
    text = json.dumps({name: dataclasses.asdict(arm) for name, arm in trial.items()})
    write_whole(result, text.encode(), "write the result of a seed")
    for name in (AESG, BASELINE):
        shutil.rmtree(folder / name, ignore_errors=True)
    return trial


def _trial(plan: Plan, seed: int, folder: Path) -> Trial:
    settings = plan.settings
    train, held = plan.pictures.divided(seed)
    if _last(folder / AESG / _CHECKPOINTS) is None:
        shutil.rmtree(folder / AESG, ignore_errors=True)  # a memory without its network
    torch.manual_seed(seed)
    model = AESGColorizationNet.small(folder / AESG / _MEMORY, **settings.model_options)
    with model.memory:
        baseline = BaselineCNN.beside(model)
        ours = _trained(plan, model, Pairs(train), seed, folder / AESG)
        theirs = _trained(plan, baseline, Pairs(train), seed, folder / BASELINE)
        sizes = model.memory.storage.node_count, model.memory.storage.edge_count
        _log.info("seed %d: judging", seed)
        painters = _painters(model, ours, theirs)
        unseen = {name: judged(paint, Pairs(held)) for name, paint in painters.items()}
        write_strips(folder / _SAMPLES, painters, Pairs(held))
        again = Pairs(seen_again(held, seed))
        unshown = judged(painters[AESG], again)
        ours.evaluate(Pairs(held), mode=MemoryMode.ONLINE)
        seen = {name: judged(paint, again) for name, paint in painters.items()}
    trained = {
        AESG: {**_training(ours, *sizes), "unshown": unshown},
        BASELINE: _training(theirs),
        ABLATED: _training(ours),
        GRAY: {"losses": [], "seconds": 0.0, "parameters": 0},
    }
    return {name: Arm(unseen[name], seen[name], **trained[name]) for name in ARMS}


def _trained(plan: Plan, model: nn.Module, pairs: Pairs, seed: int, folder: Path) -> AESGTrainer:
    """Return the trainer of a model that is trained, from its last checkpoint on if it has one."""
    settings, checkpoints = plan.settings, folder / _CHECKPOINTS
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third quicker
    torch.manual_seed(seed)  # the same order of pictures for both models
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*neural-only mode", UserWarning)
        trainer = AESGTrainer(
            model,
            criterion=nn.MSELoss(),
            callbacks=[Checkpoint(path=checkpoints, keep_last=1)],
            device=settings.device,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            progress=plan.progress,
        )
    last = _last(checkpoints)
    if last is not None:
        trainer.resume(last)
    if trainer.epoch < settings.epochs:
        _log.info("seed %d: %s from epoch %d", seed, type(model).__name__, trainer.epoch + 1)
        trainer.fit(pairs, settings.epochs - trainer.epoch)
    if trainer.epoch < settings.epochs:  # an interrupt ends `fit` without an error
        raise KeyboardInterrupt
    return trainer


def _last(checkpoints: Path) -> Path | None:
    """Return the checkpoint of the latest epoch; None where there is none."""
    found = {
        int(number): folder
        for folder in checkpoints.glob("epoch_*")
        if (number := folder.name.removeprefix("epoch_")).isdecimal()
    }
    return found[max(found)] if found else None


def _painters(
    model: AESGColorizationNet, ours: AESGTrainer, theirs: AESGTrainer
) -> dict[str, Painter]:
    """Return what colours gray pictures, for each of `ARMS`."""

    def ablated(gray: Tensor) -> Tensor:
        with model.without_memory():
            return ours.predict(gray)

    return {
        AESG: ours.predict,
        BASELINE: theirs.predict,
        ABLATED: ablated,
        GRAY: lambda gray: gray.expand(-1, 3, -1, -1),
    }


def _training(trainer: AESGTrainer, nodes: int = 0, edges: int = 0) -> dict[str, Any]:
    """Return what there is to say of a trained model."""
    return {
        "losses": [epoch["loss"] for epoch in trainer.history],
        "seconds": sum(epoch["seconds"] for epoch in trainer.history),
        "parameters": sum(each.numel() for each in trainer.model.parameters()),
        "memory_nodes": nodes,
        "memory_edges": edges,
    }


def _parsed(file: Path) -> Trial:
    """Return the trial that was written as JSON.

    Raises
    ------
    AESGStorageError
        If the file holds something else.
    """
    try:
        trial = {name: _parsed_arm(arm) for name, arm in json.loads(file.read_bytes()).items()}
        if set(trial) != set(ARMS):
            raise ValueError(f"columns {sorted(trial)}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AESGStorageError(
            f"Failed to read '{file}': expected the result of a seed, got {error}. Remove "
            f"'{file.parent}' to train that seed again"
        ) from error
    return trial


def _parsed_arm(values: dict[str, Any]) -> Arm:
    scores = {
        name: values[name] and Scores(**values[name]) for name in ("unseen", "seen", "unshown")
    }
    return Arm(**{**values, **scores})
