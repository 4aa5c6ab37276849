"""Training as pages of TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aesg.callbacks.base import Callback, Logs, Trainer
from aesg.callbacks.described import charts_of, described, trainer_of
from aesg.callbacks.projector import list_concepts, shown_concepts, write_concepts
from aesg.errors import AESGTrainingError
from aesg.memory import AESGMemory
from aesg.trainable import check_count

#: The groups whose numbers are losses and metrics: each is a run, so that they share their charts.
_RUNS = ("train", "validation")


class TensorBoardCallback(Callback):
    """Writes what training logs to TensorBoard, and the memory's concepts to its projector.

    Every training is a folder of its own: ``run_1``, ``run_2`` and so on. One that goes on, by
    `AESGTrainer.resume` or by another `fit` of the same trainer, goes on in its folder, and steps
    that are made again replace those that they repeat. In a folder, ``train`` and ``validation``
    are two runs with the same charts, so that both losses are curves of one chart. The horizontal
    axis counts steps of the optimizer.

    Look at it with ``tensorboard --logdir runs``.

    Parameters
    ----------
    log_dir : str or path
        Where the folders are made.
    projector : bool
        Whether the keys of the born concepts are written when training ends, with label, id,
        region, uses, present relevance and value of each. The label is the payload, or else the
        value, or else the id.
    projector_every : int, optional
        Epochs between two writings of the concepts while training goes on, at least 1.
    max_vectors : int
        Where there are more concepts, the most relevant are written. At least 1.
    batches : bool
        Whether the loss of each step is written, too.

    Raises
    ------
    AESGTrainingError
        If TensorBoard is not installed, or a number is out of range.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "./runs",
        *,
        projector: bool = True,
        projector_every: int | None = None,
        max_vectors: int = 10_000,
        batches: bool = True,
    ) -> None:
        for name, number in (("projector_every", projector_every), ("max_vectors", max_vectors)):
            if number is not None:
                check_count(name, number)
        self._make = _summary_writer()
        self.log_dir = Path(log_dir)
        self.projector = projector
        self.projector_every = projector_every
        self.max_vectors = max_vectors
        self.batches = batches
        self._run: str | None = None
        self._last_step = 0
        self._purged: int | None = None
        self._writers: dict[str, Any] = {}

    @property
    def run_dir(self) -> Path | None:
        """Folder of the training under way, or of the last one; None before the first."""
        return None if self._run is None else self.log_dir / self._run

    def on_train_start(self, logs: Logs) -> None:
        """Open the folder, and write the configuration to it."""
        trainer = trainer_of(self)
        if self._run is None:
            self._run = _next_run(self.log_dir)
        # Only a training that goes back has something to replace.
        self._purged = trainer.global_step + 1 if trainer.global_step != self._last_step else None
        self._last_step = trainer.global_step
        rows = [f"| {name} | {value} |" for name, value in described(trainer).items()]
        table = "\n".join(["| setting | value |", "|---|---|", *rows])
        self._writer("train").add_text("configuration", table, self._last_step)

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        """Write the loss of a step."""
        step = logs["global_step"]
        if self.batches and step > self._last_step:  # with accumulation, some batches make none
            self._last_step = step
            self._writer("train").add_scalar("loss/batch", logs["loss"], step)

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Write the numbers of an epoch."""
        step = logs["global_step"]
        for (group, name), value in charts_of(logs).items():
            if group in _RUNS:
                tag = "loss/epoch" if name == "loss" else f"metrics/{name}"
                self._writer(group).add_scalar(tag, value, step)
            else:
                self._writer("train").add_scalar(f"{group}/{name}", value, step)
        self._last_step = step
        if self.projector_every is not None and (epoch + 1) % self.projector_every == 0:
            self._project(trainer_of(self))
        for writer in self._writers.values():
            writer.flush()

    def teardown(self, error: BaseException | None) -> None:
        """Write the concepts as training leaves them, and close the files."""
        try:
            if error is None:
                self._project(trainer_of(self))
        finally:
            writers, self._writers = self._writers, {}
            for writer in writers.values():
                writer.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the folder's name."""
        return {"run": self._run}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the folder of that name."""
        self._run = state["run"]

    def _writer(self, run: str) -> Any:
        """Return what writes to ``train`` or ``validation``, made when it is first needed."""
        if run not in self._writers:
            self._writers[run] = self._make(str(self._folder(run)), purge_step=self._purged)
        return self._writers[run]

    def _folder(self, run: str) -> Path:
        return self.log_dir / str(self._run) / run

    def _project(self, trainer: Trainer) -> None:
        if not self.projector or not isinstance(trainer.memory, AESGMemory):
            return
        concepts = shown_concepts(trainer.memory, self.max_vectors)
        if len(concepts):
            run = self._folder("train")
            newest = run / "concepts" / f"epoch_{trainer.epoch:04}"
            write_concepts(newest, concepts)
            # Behind the newest are those of epochs that a resumed training makes again.
            folders = (each for each in newest.parent.iterdir() if each.name <= newest.name)
            list_concepts(run, sorted(folders))


def _next_run(log_dir: Path) -> str:
    """Make the next folder ``run_<number>`` and return its name."""
    log_dir.mkdir(parents=True, exist_ok=True)
    ends = (path.name.removeprefix("run_") for path in log_dir.glob("run_*"))
    number = max((int(end) for end in ends if end.isdecimal()), default=0)
    while True:
        number += 1
        try:
            (log_dir / f"run_{number}").mkdir()
        except FileExistsError:  # another training begins at the same moment
            continue
        return f"run_{number}"


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise AESGTrainingError(
            "TensorBoardCallback: expected TensorBoard to be installed, by "
            f"pip install 'aesg[tensorboard]', got: {error}"
        ) from error
    return SummaryWriter
