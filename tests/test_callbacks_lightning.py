"""A memory in a LightningModule, trained, validated, saved and brought back by Lightning."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.tuner.tuning import Tuner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from aesg import AESGDecoderLM, AESGMemory, AESGStorageError, AESGTrainingError, MemoryMode
from aesg.callbacks.lightning import AESGLightningCallback

VOCABULARY = 12

# Lightning advises more workers and validation, and uses what torch is about to remove.
pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning",
    "ignore:.*LeafSpec:FutureWarning",
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Let Lightning say nothing of the machine, and see it as it is."""
    log = logging.getLogger("lightning.pytorch")
    before, log.level = log.level, logging.ERROR
    yield
    log.setLevel(before)


class Module(LightningModule):
    """A language model with a memory, as a user of Lightning writes it."""

    def __init__(self, storage_dir: str = "./memory") -> None:
        super().__init__()
        torch.manual_seed(0)
        size = {"hidden_size": 8, "num_layers": 1, "nhead": 2, "vector_dim": 8}
        self.lm = AESGDecoderLM.sized(vocab_size=VOCABULARY, storage_dir=storage_dir, **size)

    @property
    def kept(self) -> AESGMemory:
        return self.lm.memory

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self._loss(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        output: Tensor = self.lm(batch[0])
        return output

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)

    def _loss(self, batch: Any) -> Tensor:
        inputs, targets = batch
        return nn.functional.cross_entropy(self.lm(inputs).flatten(0, 1), targets.flatten())


def loader(rows: int = 12) -> DataLoader[Any]:
    """Return rows of two phrases, so that there is something to remember."""
    torch.manual_seed(0)
    phrases = torch.randint(0, VOCABULARY, (3, 4))
    text = phrases[torch.randint(0, 3, (rows, 2))].flatten(1)
    return DataLoader(TensorDataset(text[:, :-1], text[:, 1:]), batch_size=4)


def trainer_with(*callbacks: Callback, **options: Any) -> Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    given: dict[str, Any] = {**quiet, "enable_checkpointing": False, **options}
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **given)


class Modes(Callback):
    """Notes the mode of the memory in the steps of each stage."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, MemoryMode]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        self.seen.append(("train", pl_module.kept.mode))

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        self.seen.append(("validate", pl_module.kept.mode))

    def on_test_batch_start(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        self.seen.append(("test", pl_module.kept.mode))

    def on_predict_batch_start(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        self.seen.append(("predict", pl_module.kept.mode))


def test_a_model_that_lightning_trains_grows_concepts_and_learns() -> None:
    module = Module()
    trainer = trainer_with(AESGLightningCallback(), max_epochs=6)
    before = trainer.validate(module, loader(), verbose=False)[0]["val_loss"]
    trainer.fit(module, loader(), loader())
    assert trainer.callback_metrics["val_loss"] < 0.8 * before
    memory = module.kept
    assert memory.storage.node_count > 0
    assert trainer.callback_metrics["memory/concepts"] == memory.storage.node_count
    assert trainer.callback_metrics["memory/provisional"] == memory.provisional_count
    assert memory.storage.verify() == []
    with AESGMemory.open("./memory") as reader:
        assert reader.storage.node_count == memory.storage.node_count
        assert reader.provisional_count == memory.provisional_count


def test_the_memory_learns_in_training_alone_and_its_mode_is_restored() -> None:
    module, modes = Module(), Modes()
    module.kept.set_mode("ONLINE")
    trainer = trainer_with(AESGLightningCallback(), modes, max_epochs=2)
    trainer.fit(module, loader(8), loader(4))
    learned = (module.kept.provisional_count, module.kept.storage.generation)
    trainer.test(module, loader(4), verbose=False)
    trainer.predict(module, loader(4))
    train, read = MemoryMode.TRAIN, MemoryMode.INFERENCE
    assert modes.seen == [
        ("validate", read),  # Lightning's check before training
        *[("train", train), ("train", train), ("validate", read)] * 2,
        ("test", read),
        ("predict", read),
    ]
    assert module.kept.mode is MemoryMode.ONLINE
    assert (module.kept.provisional_count, module.kept.storage.generation) == learned


class Observing(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.lm.observe(batch[1])
        return loss


def test_a_module_may_tell_the_memory_itself() -> None:
    states: list[tuple[int, int, int]] = []
    silent = AESGLightningCallback(targets=lambda batch: None)
    ways = [(Observing, AESGLightningCallback()), (Observing, silent)]
    for kind, callback in [(Module, AESGLightningCallback()), *ways]:
        module = kind(f"./memory_{len(states)}")
        trainer_with(callback, max_epochs=2).fit(module, loader())
        states.append(state_of(module.kept))
    assert states[0] == states[1] == states[2]
    assert states[0][0] > 0


class Named(Module):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self._loss((batch["x"], batch["y"]))


def named_batches() -> DataLoader[Any]:
    def named(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        x, y = zip(*rows, strict=True)
        return {"x": torch.stack(x), "y": torch.stack(y)}

    return DataLoader(loader().dataset, batch_size=4, collate_fn=named)


def test_targets_of_batches_of_another_kind_are_named() -> None:
    module = Named()
    callback = AESGLightningCallback(targets=lambda batch: batch["y"])
    trainer_with(callback, max_epochs=1).fit(module, named_batches())
    assert module.kept.provisional_count > 0


def test_batches_without_known_targets_are_an_error_that_says_what_to_pass() -> None:
    with pytest.raises(AESGTrainingError, match="got dict: pass targets="):
        trainer_with(AESGLightningCallback(), max_epochs=1).fit(Named(), named_batches())


def state_of(memory: AESGMemory) -> tuple[int, int, int]:
    return memory.storage.node_count, memory.storage.edge_count, memory.provisional_count


def folders(place: str) -> list[str]:
    return sorted(path.name for path in Path(place).iterdir() if path.is_dir())


def test_a_checkpoint_has_its_memory_beside_it_and_brings_it_back() -> None:
    module = Module()
    trainer = trainer_with(AESGLightningCallback(), max_epochs=3)
    trainer.fit(module, loader())
    trainer.save_checkpoint("kept/three.ckpt")
    saved = state_of(module.kept)
    (folder,) = folders("kept")
    assert folder.startswith("three.ckpt.memory-")

    trainer_with(AESGLightningCallback(), max_epochs=4).fit(module, loader())
    assert state_of(module.kept) != saved
    again = trainer_with(AESGLightningCallback())
    again.test(module, loader(), ckpt_path="kept/three.ckpt", verbose=False)
    assert state_of(module.kept) == saved


def test_training_goes_on_in_another_directory_with_the_memory_of_the_checkpoint() -> None:
    module = Module()
    trainer = trainer_with(AESGLightningCallback(), max_epochs=2)
    trainer.fit(module, loader())
    trainer.save_checkpoint("kept/two.ckpt")
    Path("kept").rename("moved")
    other = Module("./other")
    resumed = trainer_with(AESGLightningCallback(), max_epochs=4)
    resumed.fit(other, loader(), ckpt_path="moved/two.ckpt")
    assert resumed.current_epoch == 4
    assert other.kept.storage.node_count >= module.kept.storage.node_count > 0
    assert other.kept.storage.verify() == []


def test_memories_go_with_the_checkpoints_that_lightning_removes() -> None:
    keep = ModelCheckpoint("kept", "{epoch}", save_top_k=1, monitor="val_loss", save_last=True)
    trainer = trainer_with(AESGLightningCallback(), keep, max_epochs=3, enable_checkpointing=True)
    trainer.fit(Module(), loader(), loader(4))
    files = sorted(path.name for path in Path("kept").glob("*.ckpt"))
    assert len(files) == 2
    assert [folder.partition(".memory-")[0] for folder in folders("kept")] == files


def test_a_checkpoint_without_its_memory_is_an_error_and_one_that_never_had_one_is_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = Module()
    plain = trainer_with(max_epochs=1)
    plain.fit(module, loader())
    plain.save_checkpoint("plain.ckpt")
    trainer = trainer_with(AESGLightningCallback(), max_epochs=1)
    trainer.fit(module, loader())
    trainer.save_checkpoint("kept/one.ckpt")
    trainer.test(module, loader(), ckpt_path="plain.ckpt", verbose=False)
    assert "'plain.ckpt' has no memory" in caplog.text
    (folder,) = folders("kept")
    Path("kept", folder).rename("elsewhere")
    with pytest.raises(AESGStorageError, match=r"expected its memory in .*one.ckpt.memory-"):
        trainer.test(module, loader(), ckpt_path="kept/one.ckpt", verbose=False)


class Searched(Module):
    learning_rate = 1e-3


def test_the_search_for_a_learning_rate_leaves_the_memory_as_it_was() -> None:
    module = Searched()
    trainer = trainer_with(AESGLightningCallback(), max_epochs=2)
    trainer.fit(module, loader())
    before = state_of(module.kept)
    Tuner(trainer).lr_find(module, loader(), num_training=4)
    assert state_of(module.kept) == before
    assert folders(".") == ["memory"]


class Interrupted(Module):
    error: BaseException

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.global_step == 2:
            raise self.error
        return self._loss(batch)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("no more")])
def test_an_interrupt_keeps_what_was_learned_and_the_mode_is_restored(
    error: BaseException,
) -> None:
    module = Interrupted()
    module.error = error
    module.kept.set_mode("ONLINE")
    with pytest.raises((SystemExit, ValueError)):
        trainer_with(AESGLightningCallback(), max_epochs=1).fit(module, loader())
    assert module.kept.mode is MemoryMode.ONLINE
    if isinstance(error, KeyboardInterrupt):
        with AESGMemory.open("./memory") as reader:
            assert reader.provisional_count == module.kept.provisional_count > 0


class Plain(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(7, 2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        output: Tensor = self.layer(batch[0].float()).sum()
        return output

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:Plain has no AESG memory")
def test_a_module_without_a_memory_is_refused() -> None:
    with pytest.raises(AESGTrainingError, match="expected Plain or a part of it to have"):
        trainer_with(AESGLightningCallback(), max_epochs=1).fit(Plain(), loader())


def test_without_lightning_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "aesg.callbacks.lightning")
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ImportError, match=r"pip install 'aesg\[lightning\]'"):
        import_module("aesg.callbacks.lightning")


def test_installing_is_no_advice_where_lightning_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "aesg.callbacks.lightning")
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ImportError, match="Lightning is installed, but cannot be") as error:
        import_module("aesg.callbacks.lightning")
    assert "pip" not in str(error.value)


@pytest.mark.long
@pytest.mark.parametrize("first", ["", "import lightning.pytorch"])
def test_lightning_is_imported_beside_torchvision_as_it_is(tmp_path: Path, first: str) -> None:
    script = f"""
from contextlib import suppress
with suppress(RuntimeError):
    {first or "pass"}
from aesg.callbacks.lightning import AESGLightningCallback
from lightning.pytorch import Trainer
Trainer(accelerator="cpu", callbacks=[AESGLightningCallback()])
"""
    subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
    )
