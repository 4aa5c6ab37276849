"""What TensorBoard is given: charts, runs that go on, and concepts for the projector."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from google.protobuf import text_format  # type: ignore[import-untyped]
from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]
    event_accumulator,
)
from tensorboard.plugins.projector import ProjectorConfig  # type: ignore[import-untyped]
from tensorboard.summary.writer import event_file_writer  # type: ignore[import-untyped]
from torch import Tensor, nn

from aesg import AESGConfig, AESGDecoderLM, AESGMemory, AESGTrainer, AESGTrainingError
from aesg.callbacks.base import Callback
from aesg.callbacks.projector import HEADER, shown_concepts, write_concepts
from aesg.callbacks.tensorboard import TensorBoardCallback

VOCABULARY = 12
RUN = Path("runs/run_1")

Samples = list[tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def _files_of_one_second_are_read_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    # They are read in the order of their names, which end in a number of varying length.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(100))


def samples(rows: int = 12) -> Samples:
    """Return rows of two phrases, so that there is something to remember."""
    torch.manual_seed(0)
    phrases = torch.randint(0, VOCABULARY, (3, 4))
    text = phrases[torch.randint(0, 3, (rows, 2))].flatten(1)
    return [(row[:-1], row[1:]) for row in text]


def language_model(storage_dir: str = "./memory") -> AESGDecoderLM:
    torch.manual_seed(0)
    size = {"hidden_size": 8, "num_layers": 1, "nhead": 2, "vector_dim": 8}
    return AESGDecoderLM.sized(vocab_size=VOCABULARY, storage_dir=storage_dir, **size)


def trainer_with(
    callback: Callback | None, model: nn.Module | None = None, **options: Any
) -> AESGTrainer:
    model = language_model() if model is None else model
    callbacks = [] if callback is None else [callback]
    return AESGTrainer(model, callbacks=callbacks, batch_size=4, **options)


def charts(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Return step and value of all points of each chart, as TensorBoard shows them."""
    shown = event_accumulator.EventAccumulator(str(run))
    shown.Reload()
    return {
        tag: [(event.step, event.value) for event in shown.Scalars(tag)]
        for tag in shown.Tags()["scalars"]
    }


def test_every_number_of_an_epoch_is_a_chart_over_the_steps() -> None:
    trainer = trainer_with(TensorBoardCallback())
    losses = trainer.fit(samples(), epochs=3)
    shown = charts(RUN / "train")
    assert [step for step, _ in shown["loss/epoch"]] == [3, 6, 9]
    assert [value for _, value in shown["loss/epoch"]] == pytest.approx(losses)
    assert [step for step, _ in shown["loss/batch"]] == list(range(1, 10))
    assert [value for _, value in shown["progress/epoch"]] == [1, 2, 3]
    assert trainer.history[-1]["provisional"] > 0
    for name in ("concepts", "edges", "provisional", "births", "prunes", "retrieval_ms"):
        points = shown[f"memory/{name}"]
        logged = [epoch[name] for epoch in trainer.history]
        assert [value for _, value in points] == pytest.approx(logged)
    assert {"progress/learning_rate", "progress/seconds"} <= set(shown)


def test_training_and_validation_are_two_curves_of_one_chart() -> None:
    trainer = trainer_with(TensorBoardCallback())
    trainer.fit(samples(), epochs=2, validation_data=samples(4))
    train, validation = charts(RUN / "train"), charts(RUN / "validation")
    assert [step for step, _ in validation["loss/epoch"]] == [3, 6]
    assert [value for _, value in validation["loss/epoch"]] == pytest.approx(
        [epoch["val_loss"] for epoch in trainer.history]
    )
    assert validation["loss/epoch"] != train["loss/epoch"]
    metrics = {name for name in trainer.history[0] if name.startswith("val_")} - {"val_loss"}
    assert {f"metrics/{name.removeprefix('val_')}" for name in metrics} <= set(validation)


def test_the_configuration_is_there_to_read() -> None:
    trainer_with(TensorBoardCallback(), learning_rate=0.25).fit(samples())
    shown = event_accumulator.EventAccumulator(str(RUN / "train"))
    shown.Reload()
    (event,) = shown.Tensors("configuration/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert "| learning_rate | 0.25 |" in text
    assert "| memory.vector_dim | 8 |" in text


def test_without_batches_only_epochs_are_written() -> None:
    trainer_with(TensorBoardCallback(batches=False)).fit(samples())
    assert "loss/batch" not in charts(RUN / "train")


def test_with_accumulation_a_batch_that_makes_a_step_is_a_point() -> None:
    trainer = trainer_with(TensorBoardCallback(), accumulate=2)
    trainer.fit(samples(), epochs=2)  # of three batches: the last makes its step behind the epoch
    shown = charts(RUN / "train")
    assert [step for step, _ in shown["loss/batch"]] == [1, 3]
    assert [step for step, _ in shown["loss/epoch"]] == [2, 4]


def test_another_fit_goes_on_and_another_training_is_another_run() -> None:
    trainer = trainer_with(TensorBoardCallback(projector=False))
    trainer.fit(samples())
    trainer.fit(samples())
    assert [step for step, _ in charts(RUN / "train")["loss/epoch"]] == [3, 6]
    trainer_with(TensorBoardCallback(projector=False), trainer.model).fit(samples())
    assert [step for step, _ in charts(Path("runs/run_2/train"))["loss/epoch"]] == [3]
    assert sorted(path.name for path in Path("runs").iterdir()) == ["run_1", "run_2"]


def test_after_a_resume_steps_made_again_replace_those_they_repeat() -> None:
    trainer = trainer_with(TensorBoardCallback())
    trainer.fit(samples(), epochs=2)
    trainer.save("checkpoint")
    trainer.fit(samples(), epochs=2)
    resumed = trainer_with(TensorBoardCallback(), language_model("./other"), learning_rate=0.5)
    resumed.resume("checkpoint")
    losses = resumed.fit(samples(), epochs=1)
    points = charts(RUN / "train")["loss/epoch"]
    assert [step for step, _ in points] == [3, 6, 9]
    assert points[-1][1] == pytest.approx(losses[0])
    assert [name for name, _, _ in listed(RUN / "train")] == [
        "concepts after epoch 3",
        "concepts after epoch 2",
    ]


def test_training_is_what_it_is_without_it() -> None:
    plain = trainer_with(None).fit(samples(), epochs=3)
    callback = TensorBoardCallback(projector_every=1)
    assert trainer_with(callback, language_model("./other")).fit(samples(), epochs=3) == plain


def test_a_model_without_a_memory_has_charts_too() -> None:
    data = [(torch.rand(3), torch.tensor(1)) for _ in range(4)]
    with pytest.warns(UserWarning, match="neural-only"):
        trainer = trainer_with(TensorBoardCallback(), nn.Linear(3, 2))
    trainer.fit(data)
    shown = charts(RUN / "train")
    assert "loss/epoch" in shown
    assert not any(tag.startswith("memory/") for tag in shown)
    assert not (RUN / "train/concepts").exists()


class Failing(Callback):
    def on_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        if batch == 1:
            raise ValueError("no more")


def test_what_was_written_before_an_error_is_there() -> None:
    callback = TensorBoardCallback()
    trainer = AESGTrainer(language_model(), callbacks=[callback, Failing()], batch_size=4)
    with pytest.raises(AESGTrainingError, match="no more"):
        trainer.fit(samples())
    assert [step for step, _ in charts(RUN / "train")["loss/batch"]] == [1, 2]


def listed(run: Path) -> list[tuple[str, Path, Path]]:
    """Return name, vectors and metadata of what the projector offers, in its order."""
    config = text_format.Parse((run / "projector_config.pbtxt").read_text(), ProjectorConfig())
    return [
        (each.tensor_name, run / each.tensor_path, run / each.metadata_path)
        for each in config.embeddings
    ]


def table(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_the_projector_shows_the_keys_of_all_concepts_when_training_ends() -> None:
    model = language_model()
    trainer_with(TensorBoardCallback(), model).fit(samples(), epochs=4)
    ((name, vectors, metadata),) = listed(RUN / "train")
    assert name == "concepts after epoch 4"
    header, *rows = table(metadata)
    assert tuple(header) == HEADER
    assert len(rows) == len(table(vectors)) == model.memory.storage.node_count > 0
    ids = [int(row[1]) for row in rows]
    assert model.memory.resolve(ids).tolist() == ids
    view = model.memory.storage.engine.view()
    keys = view.keys[view.slots(torch.tensor(ids).numpy().astype("uint64"))]
    shown = torch.tensor([[float(each) for each in row] for row in table(vectors)])
    torch.testing.assert_close(shown, torch.from_numpy(keys), atol=1e-4, rtol=1e-4)
    assert {row[0] for row in rows} <= {str(token) for token in range(VOCABULARY)}


def test_concepts_are_kept_of_several_epochs_the_newest_first() -> None:
    trainer_with(TensorBoardCallback(projector_every=2)).fit(samples(), epochs=5)
    names = [name for name, _, _ in listed(RUN / "train")]
    assert names == [f"concepts after epoch {epoch}" for epoch in (5, 4, 2)]


def test_without_the_projector_there_is_none() -> None:
    trainer_with(TensorBoardCallback(projector=False)).fit(samples(), epochs=4)
    assert not (RUN / "train/projector_config.pbtxt").exists()


def test_labels_are_payloads_and_fit_into_a_cell() -> None:
    with AESGMemory("./memory", AESGConfig(vector_dim=4)) as memory:
        payloads = ["sky", "two\tcells\nand lines", {"a": 1}, None, "long " * 50]
        ids = memory.remember(torch.rand(5, 4), torch.tensor([1, 2, 3, 7, 5]), payloads)
        (keyed,) = memory.remember(torch.rand(1, 4))
        shown = shown_concepts(memory, 10)
        write_concepts(Path("out"), shown)
    header, *rows = table(Path("out/metadata.tsv"))
    labels = {int(row[1]): row[0] for row in rows}
    assert all(len(row) == len(header) for row in rows)
    assert [labels[each] for each in ids[:4].tolist()] == [
        "sky",
        "two cells and lines",
        "{'a': 1}",
        "7",
    ]
    assert labels[int(ids[4])] == "long " * 11 + "lo..."
    assert labels[int(keyed)] == f"concept {keyed}"


def test_of_many_concepts_the_most_used_are_shown() -> None:
    with AESGMemory("./memory", AESGConfig(vector_dim=4)) as memory:
        ids = memory.remember(torch.eye(4), torch.arange(4))
        for _ in range(3):
            memory.learn(memory.retrieve(torch.eye(4)[2], top_k=1))
            memory.update_topology()
        (shown,) = shown_concepts(memory, 1).ids
    assert shown == ids[2]


def test_without_tensorboard_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(AESGTrainingError, match=r"pip install 'aesg\[tensorboard\]'"):
        TensorBoardCallback()


@pytest.mark.parametrize("option", [{"projector_every": 0}, {"max_vectors": "9"}])
def test_numbers_out_of_range_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(AESGTrainingError, match="expected an integer >= 1, got"):
        TensorBoardCallback(**option)


def test_a_hook_without_a_trainer_says_so() -> None:
    with pytest.raises(AESGTrainingError, match="no training runs"):
        TensorBoardCallback().on_train_start({})
