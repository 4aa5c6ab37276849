from __future__ import annotations

import logging
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from aesg.callbacks import Callback, ProgressBar
from aesg.errors import AESGTrainingError
from aesg.memory import AESGMemory
from aesg.models import AESGCNNClassifier, AESGDecoderLM
from aesg.modes import MemoryMode
from aesg.trainer import AESGTrainer
from tests.trainer_build import Classifier, classifier, failing_at, loader, samples, with_memory

pytestmark = pytest.mark.filterwarnings("ignore:.* has no AESG memory")


class Diary(Callback):
    """Writes down each hook with its number and logs; `then` is called with the name."""

    def __init__(self, then: Callable[[str], None] = lambda hook: None) -> None:
        self.hooks: list[str] = []
        self.logs: list[dict[str, Any]] = []
        self.then = then

    def note(self, hook: str, logs: dict[str, Any]) -> None:
        self.hooks.append(hook)
        self.logs.append(dict(logs))
        self.then(hook)

    def of(self, hook: str) -> list[dict[str, Any]]:
        return [logs for each, logs in zip(self.hooks, self.logs, strict=True) if each == hook]

    def on_train_start(self, logs: dict[str, Any]) -> None:
        self.note("start", logs)

    def on_train_end(self, logs: dict[str, Any]) -> None:
        self.note("end", logs)

    def on_epoch_start(self, epoch: int, logs: dict[str, Any]) -> None:
        self.note(f"epoch {epoch}", logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        self.note(f"epoch {epoch} done", logs)

    def on_batch_start(self, batch: int, logs: dict[str, Any]) -> None:
        self.note(f"batch {batch}", logs)

    def on_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        self.note(f"batch {batch} done", logs)


def followed(diary: Diary, **options: Any) -> AESGTrainer:
    torch.manual_seed(0)
    return AESGTrainer(Classifier(), callbacks=[diary], batch_size=2, progress=False, **options)


ONE_EPOCH = ["batch 0", "batch 0 done", "batch 1", "batch 1 done"]


def test_hooks_come_in_order_and_numbers_go_on_in_the_next_fit() -> None:
    diary = Diary()
    trainer = followed(diary)
    trainer.fit(samples(4), epochs=2)
    trainer.fit(samples(4))
    first = ["start", "epoch 0", *ONE_EPOCH, "epoch 0 done", "epoch 1", *ONE_EPOCH, "epoch 1 done"]
    assert diary.hooks == [*first, "end", "start", "epoch 2", *ONE_EPOCH, "epoch 2 done", "end"]


def test_hooks_are_told_what_is_known() -> None:
    diary = Diary()
    trainer = followed(diary, learning_rate=0.1)
    losses = trainer.fit(samples(3), epochs=2)
    assert diary.of("start") == [{"epochs": 2, "batches": 2, "validation": False}]
    assert diary.of("epoch 1") == [{}]
    batches = diary.of("batch 1 done")
    assert [(each["samples"], each["global_step"]) for each in batches] == [(1, 2), (1, 4)]
    (done,) = diary.of("epoch 1 done")
    assert done["seconds"] >= 0
    known = {key: value for key, value in done.items() if key != "seconds"}
    assert known == {
        "loss": losses[1],
        "epoch": 2,
        "global_step": 4,
        "learning_rate": 0.1,
        "samples": 3,
    }
    assert diary.of("end") == [{**done, "interrupted": False, "stopped": False}]
    assert trainer.history[1] == done


def test_the_number_of_batches_is_left_out_where_nobody_knows_it() -> None:
    diary = Diary()
    followed(diary).fit(iter(samples(3)), 1, samples(2))
    assert diary.of("start") == [{"epochs": 1, "validation": True}]


def test_what_a_callback_adds_to_the_logs_is_in_the_history() -> None:
    class Adds(Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
            logs["extra"] = 7

    trainer = AESGTrainer(Classifier(), callbacks=[Adds()])
    trainer.fit(samples(2))
    assert trainer.history[0]["extra"] == 7


def test_batches_that_are_passed_over_reach_no_callback() -> None:
    diary = Diary()
    ignored = [(torch.ones(2), torch.tensor(-100))] * 2
    followed(diary).fit(loader([*ignored, *samples(2)], batch_size=2))
    assert [hook for hook in diary.hooks if "batch" in hook] == ["batch 1", "batch 1 done"]


def test_stop_ends_fit_after_the_epoch_under_way() -> None:
    diary = Diary(lambda hook: trainer.stop("enough") if hook == "batch 0" else None)
    trainer = followed(diary)
    assert len(trainer.fit(samples(4), epochs=5)) == 1
    assert diary.hooks[-2:] == ["epoch 0 done", "end"]
    assert diary.logs[-1]["stopped"] is True
    diary.then = lambda hook: None
    assert len(trainer.fit(samples(4), epochs=2)) == 2
    assert diary.logs[-1]["stopped"] is False


def test_an_early_stop_is_seen_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    diary = Diary(lambda hook: trainer.stop("enough") if hook == "batch 0" else None)
    trainer = followed(diary)
    with caplog.at_level(logging.WARNING):
        trainer.fit(samples(4), epochs=5)
    assert "training stopped after epoch 1: enough" in caplog.text
    assert diary.logs[-1]["reason"] == "enough"


def test_stop_before_the_first_epoch_trains_nothing() -> None:
    diary = Diary(lambda hook: trainer.stop() if hook == "start" else None)
    trainer = followed(diary)
    assert trainer.fit(samples(4), epochs=5) == []
    assert diary.hooks == ["start", "end"]


def test_a_callback_may_stop_training_by_the_logs_of_an_epoch() -> None:
    class Stops(Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
            logs["stop_training"] = epoch == 1

    diary = Diary()
    trainer = AESGTrainer(Classifier(), callbacks=[Stops(), diary])
    assert len(trainer.fit(samples(4), epochs=5)) == 2
    assert diary.logs[-1]["stopped"] is True
    assert "stop_training" not in trainer.history[-1]


@pytest.mark.parametrize(
    ("hook", "finished"), [("start", 0), ("batch 1 done", 0), ("epoch 0 done", 1), ("epoch 1", 1)]
)
def test_an_interrupt_in_a_hook_ends_the_training_in_order(hook: str, finished: int) -> None:
    def interrupt(now: str) -> None:
        if now == hook:
            raise KeyboardInterrupt

    diary = Diary(interrupt)
    model, memory = classifier()
    trainer = AESGTrainer(model, callbacks=[diary], batch_size=2)
    trainer.fit(samples(4), epochs=3)
    assert trainer.epoch == len(trainer.history) == finished
    assert diary.hooks[-1] == "end"
    assert diary.logs[-1]["interrupted"] is True
    assert model.calls[-3:] == ["reset_state", "save", "reset_state"]
    assert memory.mode is MemoryMode.ONLINE


def test_an_interrupt_in_validation_ends_the_training_in_order() -> None:
    model, memory = classifier()
    model.during = failing_at(2, KeyboardInterrupt())
    diary = Diary()
    trainer = AESGTrainer(model, callbacks=[diary])
    assert trainer.fit(samples(4), 3, samples(2)) == []
    assert trainer.epoch == 0
    assert diary.hooks[-1] == "end"
    assert memory.mode is MemoryMode.ONLINE
    assert model.training


def test_an_interrupt_waits_until_all_callbacks_have_seen_the_epoch(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, _ = classifier()
    diary, behind = interrupting_at("epoch 1 done"), Diary()
    trainer = AESGTrainer(model, callbacks=[diary, behind])
    losses = trainer.fit(samples(4), epochs=5)
    assert len(losses) == trainer.epoch == len(trainer.history) == 2
    assert behind.hooks[-2:] == ["epoch 1 done", "end"]
    assert behind.logs[-1]["interrupted"] is True
    assert "interrupted behind epoch 2 of 5" in caplog.text
    assert model.calls.count("save") == 5  # twice in each epoch, and once more


def test_a_second_interrupt_does_not_wait_for_the_callbacks_of_an_epoch() -> None:
    def twice(hook: str) -> None:
        for _ in range(2 * (hook == "epoch 0 done")):
            os.kill(os.getpid(), signal.SIGINT)

    diary, behind = Diary(twice), Diary()
    trainer = AESGTrainer(Classifier(), callbacks=[diary, behind])
    assert len(trainer.fit(samples(4), epochs=5)) == trainer.epoch == 1
    assert "epoch 0 done" not in behind.hooks
    assert behind.hooks[-1] == "end"


def test_an_epoch_whose_validation_the_keyboard_interrupts_does_not_count() -> None:
    model, _ = classifier()
    calls = iter(range(9))
    model.during = lambda: os.kill(os.getpid(), signal.SIGINT) if next(calls) == 3 else None
    diary = Diary()
    trainer = AESGTrainer(model, callbacks=[diary])
    assert len(trainer.fit(samples(4), 3, samples(2))) == trainer.epoch == 1
    assert diary.hooks[-2:] == ["batch 0 done", "end"]


def test_training_goes_on_after_an_interrupt() -> None:
    model, _ = classifier()
    model.during = failing_at(3, KeyboardInterrupt())
    trainer = AESGTrainer(model, batch_size=2)
    trainer.fit(samples(4), epochs=2)
    model.during = lambda: None
    diary = Diary()
    trainer.callbacks.append(diary)
    trainer.fit(samples(4))
    assert trainer.epoch == 2
    assert diary.hooks[1] == "epoch 1"


def test_an_error_of_a_callback_names_it_and_puts_modes_back() -> None:
    class Breaks(Callback):
        def on_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
            raise ValueError("of the user")

    model, memory = classifier()
    trainer = AESGTrainer(model, callbacks=[Breaks()])
    with pytest.raises(AESGTrainingError, match=r"Breaks\.on_batch_end: ValueError: of the user"):
        trainer.fit(samples(2))
    assert memory.mode is MemoryMode.ONLINE
    assert trainer.callbacks[0].trainer is None


def test_fit_within_fit_is_refused() -> None:
    def fit_again(hook: str) -> None:
        if hook == "epoch 0":
            trainer.fit(samples(2))

    diary = Diary(fit_again)
    trainer = followed(diary)
    with pytest.raises(AESGTrainingError, match="fit: expected to be called when fit has returned"):
        trainer.fit(samples(2))
    diary.then = lambda hook: None
    assert len(trainer.fit(samples(2))) == 1


def test_fit_from_a_teardown_is_refused() -> None:
    class Again(Callback):
        def teardown(self, error: BaseException | None) -> None:
            trainer.fit(samples(2))

    trainer = AESGTrainer(Classifier(), callbacks=[Again()])
    with pytest.raises(AESGTrainingError, match="fit: expected to be called when fit has returned"):
        trainer.fit(samples(2))
    trainer.callbacks = []
    assert len(trainer.fit(samples(2))) == 1


def test_a_callback_may_evaluate_and_predict() -> None:
    def look(hook: str) -> None:
        trainer.evaluate(samples(2))
        trainer.predict(torch.zeros(1, 2))

    diary = Diary()
    trainer = followed(diary)
    undisturbed = trainer.fit(samples(6), epochs=2)
    diary = Diary(look)
    trainer = followed(diary)
    assert trainer.fit(samples(6), epochs=2) == undisturbed


def test_a_progress_bar_of_the_user_is_not_doubled(capfd: pytest.CaptureFixture[str]) -> None:
    trainer = AESGTrainer(Classifier(), callbacks=[ProgressBar(enabled=False)], progress=True)
    trainer.fit(samples(2))
    assert capfd.readouterr().err == ""


def test_callbacks_that_are_none_are_refused() -> None:
    with pytest.raises(AESGTrainingError, match=r"callbacks\[0\]: expected a Callback, got"):
        AESGTrainer(Classifier(), callbacks=[print])  # type: ignore[list-item]


def test_callbacks_that_are_assigned_later_are_called_and_judged_as_those_given_first() -> None:
    diary = Diary()
    trainer = followed(Diary())
    trainer.callbacks = [diary]
    trainer.fit(samples(2))
    assert diary.hooks[-1] == "end"
    with pytest.raises(AESGTrainingError, match=r"callbacks\[0\]: expected a Callback, got"):
        trainer.callbacks = [print]  # type: ignore[list-item]
    assert list(trainer.callbacks) == [diary]
    trainer.callbacks = None
    assert len(trainer.callbacks) == 0


def test_parameters_stand_in_the_documented_order() -> None:
    model, callbacks = Classifier(), [Diary()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    trainer = AESGTrainer(model, optimizer, nn.L1Loss(), callbacks, "cpu", 5, 0.25)
    assert trainer.optimizer is optimizer
    assert isinstance(trainer.criterion, nn.L1Loss)
    assert list(trainer.callbacks) == callbacks
    assert (trainer.device, trainer.batch_size) == (torch.device("cpu"), 5)
    assert trainer.learning_rate == 0.5


def test_validation_judges_each_epoch_as_evaluate_does() -> None:
    diary = Diary()
    trainer = followed(diary, learning_rate=0.1)
    held_out = samples(7)[4:]
    trainer.fit(samples(4), 3, held_out)
    judged = [logs["val_loss"] for logs in trainer.history]
    assert len(set(judged)) == 3
    found = trainer.evaluate(held_out, metrics=True)
    assert {key: trainer.history[-1][f"val_{key}"] for key in found} == found
    assert set(found) == {"loss", "accuracy", "precision", "recall", "f1"}
    assert trainer.best_loss == min(judged)


def test_validation_is_the_third_argument_and_its_metrics_can_be_left_out() -> None:
    trainer = followed(Diary())
    trainer.fit(samples(4), 1, loader(samples(2), batch_size=1), validation_metrics=False)
    assert [key for key in trainer.history[0] if key.startswith("val_")] == ["val_loss"]


def test_a_model_of_no_known_domain_is_validated_without_metrics() -> None:
    trainer = AESGTrainer(nn.Linear(2, 3))
    trainer.fit(samples(4), 1, samples(2))
    assert [key for key in trainer.history[0] if key.startswith("val_")] == ["val_loss"]
    with pytest.raises(AESGTrainingError, match="metrics: expected a model whose class name") as it:
        trainer.evaluate(samples(2), metrics=True)
    assert "give AESGTrainer a domain" in it.value.message


def test_the_domain_that_is_given_says_which_metrics_judge() -> None:
    trainer = AESGTrainer(nn.Linear(2, 3), domain="classification")
    trainer.fit(samples(4), 1, samples(2))
    assert "val_accuracy" in trainer.history[0]
    assert "accuracy" in trainer.evaluate(samples(2), metrics=True)
    assert "perplexity" in AESGTrainer(Classifier(), domain="text").evaluate(
        [(torch.zeros(2), torch.tensor(1))], metrics=True
    )
    with pytest.raises(AESGTrainingError, match="domain: expected one of text, image, classif"):
        AESGTrainer(nn.Linear(2, 3), domain="audio")


def test_metrics_that_do_not_fit_are_left_out_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class SeriesTransformer(nn.Linear):
        """Called as a model of text is, and none."""

    data = [(torch.randn(2), torch.randn(1)) for _ in range(4)]
    trainer = AESGTrainer(SeriesTransformer(2, 1))
    trainer.fit(data, 2, data)
    assert [key for key in trainer.history[1] if key.startswith("val_")] == ["val_loss"]
    assert caplog.text.count("goes on without metrics") == 1
    with pytest.raises(AESGTrainingError):
        trainer.evaluate(data, metrics=True)


def test_validation_reads_the_memory_and_does_not_change_training() -> None:
    model, memory = classifier()
    trainer = AESGTrainer(model, batch_size=2)
    trainer.fit(samples(4), 1, samples(2))
    assert model.seen[:2] == [(True, True, MemoryMode.TRAIN)] * 2
    assert model.seen[2:] == [(False, False, MemoryMode.INFERENCE)]
    assert model.calls.count("update_topology") == 2
    assert memory.mode is MemoryMode.ONLINE


def test_validation_data_that_can_be_read_once_is_refused_for_several_epochs() -> None:
    model, _ = classifier()
    with pytest.raises(AESGTrainingError, match="validation_data: 2 epochs need data"):
        AESGTrainer(model).fit(samples(4), 2, iter(samples(2)))
    assert model.calls == []


def test_an_error_in_validation_says_where_it_was() -> None:
    data = [*samples(2), (torch.zeros(2), torch.tensor(3))]
    with pytest.raises(AESGTrainingError, match=r"validation, batch 3: .* in \[0, 3\), got 3"):
        AESGTrainer(Classifier()).fit(samples(2), 1, loader(data), validation_metrics=False)


def test_ignored_targets_are_left_out_of_the_metrics() -> None:
    model = Classifier()
    with torch.no_grad():
        model.linear.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))
    trainer = AESGTrainer(model, criterion=nn.CrossEntropyLoss(ignore_index=0))
    data = [(torch.zeros(2), torch.tensor(label)) for label in (0, 1, 1, 0)]
    assert trainer.evaluate(data, metrics=True)["accuracy"] == 1.0


def small_text() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 20, (8, 7), generator=generator)
    return [(row[:-1], row[1:]) for row in rows]


def small_lm(folder: Path, **options: Any) -> AESGTrainer:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_layers": 1, "nhead": 2, "vector_dim": 8}
    model = AESGDecoderLM.sized(20, folder, memory_dropout=0.0, **sizes)
    return AESGTrainer(model, batch_size=4, learning_rate=0.02, **options)


def test_the_logs_of_an_epoch_count_what_the_memory_did(tmp_path: Path) -> None:
    trainer = small_lm(tmp_path)
    trainer.fit(small_text(), epochs=4)
    memory = trainer.memory
    assert memory is not None
    last = trainer.history[-1]
    assert last["concepts"] == memory.storage.node_count > 0
    assert last["edges"] == memory.storage.edge_count
    born = sum(logs["births"] for logs in trainer.history)
    assert born - sum(logs["prunes"] for logs in trainer.history) == last["concepts"]
    assert trainer.history[0]["provisional"] > 0
    assert last["retrieval_ms"] > 0


def test_a_text_model_is_validated_with_the_metrics_of_text(tmp_path: Path) -> None:
    trainer = small_lm(tmp_path)
    trainer.fit(small_text(), 1, small_text()[:4])
    wanted = {"val_bleu", "val_rouge", "val_accuracy", "val_perplexity"}
    assert wanted <= set(trainer.history[0])


def test_a_memory_that_learns_nothing_is_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = small_lm(tmp_path)
    with caplog.at_level(logging.WARNING), trainer.model.memory.at_rest():  # type: ignore
        trainer.fit(small_text(), epochs=2)
    assert caplog.text.count("learned nothing") == 1
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        trainer.fit(small_text())
    assert caplog.text == ""


def test_predict_takes_data_of_every_form(tmp_path: Path) -> None:
    model, _ = classifier()
    trainer = AESGTrainer(model, batch_size=4)
    data = samples(6)
    inputs = torch.stack([each for each, _ in data])
    expected = model.linear(inputs)
    forms = [
        data,
        loader(data, batch_size=4),
        torch.utils.data.TensorDataset(inputs, torch.arange(6)),
        torch.utils.data.TensorDataset(inputs),
        loader(inputs, batch_size=4),
        [inputs[:4], inputs[4:]],
    ]
    for form in forms:
        outputs = trainer.predict(form)
        assert [len(each) for each in outputs] == [4, 2]
        assert torch.allclose(torch.cat(outputs), expected, atol=1e-6)


def test_an_interrupt_by_the_keyboard_ends_training_in_order() -> None:
    diary = Diary(
        lambda hook: os.kill(os.getpid(), signal.SIGINT) if hook == "batch 1 done" else None
    )
    trainer = followed(diary)
    assert trainer.fit(samples(4), epochs=3) == []
    assert diary.hooks[-2:] == ["batch 1 done", "end"]
    assert diary.logs[-1]["interrupted"] is True


def interrupting_at(*hooks: str) -> Diary:
    return Diary(lambda hook: os.kill(os.getpid(), signal.SIGINT) if hook in hooks else None)


def test_an_interrupt_in_the_last_hooks_waits_for_their_end() -> None:
    diary, behind = interrupting_at("end"), Diary()
    trainer = AESGTrainer(Classifier(), callbacks=[diary, behind])
    assert len(trainer.fit(samples(4), epochs=2)) == 2
    assert behind.hooks[-1] == "end"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_in_the_last_hooks_is_raised_behind_them() -> None:
    diary, behind = interrupting_at("epoch 0", "end"), Diary()
    trainer = AESGTrainer(Classifier(), callbacks=[diary, behind])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(samples(4), epochs=2)
    assert behind.hooks[-1] == "end"
    diary.then = lambda hook: None
    assert len(trainer.fit(samples(4))) == 1


def test_a_loss_of_which_nothing_is_finite_ends_training_without_its_end() -> None:
    diary = Diary()
    trainer = followed(diary)
    with pytest.raises(AESGTrainingError, match="expected a finite loss"):
        trainer.fit([(torch.full((2,), math.nan), torch.tensor(0))])
    assert "end" not in diary.hooks


class GoesBack(Callback):
    """Puts the first weights in at the end, as `load_state_dict` does or as an average may."""

    def __init__(self, *, by_data: bool) -> None:
        self.by_data = by_data

    @property
    def weights(self) -> list[nn.Parameter]:
        assert self.trainer is not None
        return list(self.trainer.model.parameters())

    def on_train_start(self, logs: dict[str, Any]) -> None:
        self.kept = [each.detach().clone() for each in self.weights]

    def on_train_end(self, logs: dict[str, Any]) -> None:
        for weight, kept in zip(self.weights, self.kept, strict=True):
            with torch.no_grad():
                (weight.data if self.by_data else weight).copy_(kept)


def passes_of_keys(folder: Path, *callbacks: Callback) -> int:
    """Return how many batches `fit` re-keyed."""
    trainer = small_lm(folder, callbacks=callbacks)
    with mock.patch.object(AESGMemory, "update_keys", autospec=True) as update:
        trainer.fit(small_text(), epochs=2)
    return int(update.call_count)


@pytest.mark.parametrize("by_data", [False, True])
def test_the_keys_are_refreshed_again_where_a_callback_puts_other_weights_in(
    tmp_path: Path, by_data: bool
) -> None:
    assert passes_of_keys(tmp_path / "as trained") == 2
    assert passes_of_keys(tmp_path / "other", GoesBack(by_data=by_data)) == 4


@pytest.mark.parametrize(("hook", "batches"), [("epoch 1", 0), ("end", 2)])
def test_no_keys_are_refreshed_behind_an_interrupt(tmp_path: Path, hook: str, batches: int) -> None:
    assert passes_of_keys(tmp_path, GoesBack(by_data=False), interrupting_at(hook)) == batches


def test_a_classifier_trains_validates_and_tells_its_metrics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AESGCNNClassifier.sized(storage_dir=tmp_path, num_classes=3, base_filters=4, blocks=2)
    data = [(torch.rand(3, 8, 8), torch.tensor(i % 3)) for i in range(6)]
    trainer = AESGTrainer(model, batch_size=3)
    trainer.fit(data, 1, data)
    assert 0 <= trainer.history[0]["val_accuracy"] <= 1
    assert set(trainer.evaluate(data, metrics=True)) == {
        "loss",
        "accuracy",
        "precision",
        "recall",
        "f1",
    }


def test_the_memory_of_a_model_is_saved_behind_the_hooks_of_an_epoch() -> None:
    model = Classifier()
    with_memory(model)
    diary = Diary(lambda hook: model.calls.append(hook))
    AESGTrainer(model, callbacks=[diary]).fit(samples(2))
    assert [call for call in model.calls if call in ("save", "epoch 0 done")] == [
        "save",
        "epoch 0 done",
        "save",
    ]
