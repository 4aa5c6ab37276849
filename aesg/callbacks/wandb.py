"""Training as a run of Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aesg.callbacks.base import Callback, Logs
from aesg.callbacks.described import charts_of, described, trainer_of
from aesg.errors import AESGTrainingError

if TYPE_CHECKING:
    from wandb import Run

#: The horizontal axis. W&B's own counter of rows would go on after a resumed training, whose steps
#: repeat some that were logged already.
_AXIS = "global_step"


class WandBCallback(Callback):
    """Logs training to Weights & Biases, with the settings of trainer and memory as its config.

    A training that goes on, by `AESGTrainer.resume` or by another `fit` of the same trainer, goes
    on in its run. The run is finished when `fit` is left: as failed after an error, else, also
    after an interrupt, as done. Where a run is active already, it is used and stays open.

    Parameters
    ----------
    project : str
    name : str, optional
        Of the run; W&B makes one up.
    mode : str, optional
        ``"online"``, ``"offline"`` (``wandb sync`` uploads later) or ``"disabled"``. Default: what
        ``WANDB_MODE`` says, else online.
    log_dir : str or path, optional
        Where W&B makes its folder ``wandb``. Default: the present directory.
    batches : bool
        Whether the loss of each step is logged, too.
    config : mapping, optional
        More entries for the config.

    Raises
    ------
    AESGTrainingError
        If wandb is not installed.
    """

    def __init__(
        self,
        project: str = "aesg",
        *,
        name: str | None = None,
        mode: str | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        batches: bool = True,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        _check_installed()
        self.project = project
        self.name = name
        self.mode = mode
        self.log_dir = None if log_dir is None else Path(log_dir)
        self.batches = batches
        self.config = dict(config or {})
        self.run: Run | None = None
        self._id: str | None = None
        self._is_own = False
        self._last_step = 0

    def on_train_start(self, logs: Logs) -> None:
        """Begin the run, or go on with it."""
        import wandb

        trainer = trainer_of(self)
        settings = described(trainer) | self.config
        self._last_step = trainer.global_step
        self._is_own = wandb.run is None
        if wandb.run is None:
            self.run = self._begin(settings)
        else:
            self.run = wandb.run
            self.run.config.update(settings, allow_val_change=True)  # type: ignore[no-untyped-call]
        self._id = self.run.id
        self.run.define_metric("*", step_metric=_AXIS)

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        """Log the loss of a step."""
        step = logs["global_step"]
        if self.run is not None and self.batches and step > self._last_step:
            self._last_step = step  # with accumulation, some batches make no step
            self.run.log({"train/batch_loss": logs["loss"], _AXIS: step})

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """Log the numbers of an epoch."""
        self._last_step = logs["global_step"]
        if self.run is not None:
            row = {"/".join(chart): value for chart, value in charts_of(logs).items()}
            self.run.log(row | {_AXIS: logs["global_step"]})

    def teardown(self, error: BaseException | None) -> None:
        """Finish the run, unless it was there before."""
        run, self.run = self.run, None
        if run is not None and self._is_own:
            run.finish(exit_code=0 if error is None else 1)

    def state_dict(self) -> dict[str, Any]:
        """Return the id of the run."""
        return {"id": self._id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the run of that id."""
        self._id = state["id"]

    def _begin(self, settings: dict[str, Any]) -> Run:
        import wandb

        folder = None if self.log_dir is None else self.log_dir.absolute()  # for W&B's own process
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)  # else W&B writes elsewhere
        return wandb.init(
            project=self.project,
            name=self.name,
            id=self._id,
            resume=None if self._id is None else "allow",
            mode=self.mode,  # type: ignore[arg-type]  # W&B says which ones there are
            dir=folder,
            config=settings,
        )


def _check_installed() -> None:
    try:
        from wandb import init  # noqa: F401  # its folder of runs can be imported, too
    except ImportError as error:
        raise AESGTrainingError(
            "WandBCallback: expected wandb to be installed, by pip install 'aesg[wandb]', "
            f"got: {error}"
        ) from error
