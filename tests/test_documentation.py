"""Every example of the documentation's chapters on training and what surrounds it, as written.

The examples stand word for word in ``documented_examples.md``. Each test says what an example takes
for granted, what it prints, and what is there afterwards. One that would take seconds runs cut down
to tiny sizes, and as written among the long tests.
"""

from __future__ import annotations

import doctest
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from aesg import (
    AESGColorizationNet,
    AESGConfig,
    AESGDecoderLM,
    AESGGRUText,
    AESGMemory,
    AESGTrainer,
    AESGTrainingError,
    AESGTransformer,
    Callback,
    EarlyStopping,
    MemoryMode,
)

PAGE = Path(__file__).with_name("documented_examples.md")
HEADING = re.compile(r"^## (.*)$", re.MULTILINE)
FENCED = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: Runs a test with its example cut down, and among the long tests as it is written.
sizes = pytest.mark.parametrize(
    "cut",
    [pytest.param(True, id="cut"), pytest.param(False, id="as_written", marks=pytest.mark.long)],
)

Cuts = dict[str, str]


class Text(NamedTuple):
    """Tiny training data for a language model over ``VOCABULARY`` tokens."""

    inputs: Tensor
    targets: Tensor

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.inputs, self.targets, strict=True))


VOCABULARY = 12
NUMBER = "-?[0-9]+[.][0-9]+"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def examples() -> dict[str, str]:
    """Return the code of each example by its heading."""
    _, *parts = HEADING.split(PAGE.read_text())
    return {
        name: "\n".join(FENCED.findall(body))
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def run(name: str, cuts: Cuts | None = None, **given: Any) -> dict[str, Any]:
    """Run an example, with parts replaced and what it takes for granted; return its names."""
    code = examples()[name]
    for written, smaller in (cuts or {}).items():
        assert written in code, f"{name}: there is no {written!r} to cut"
        code = code.replace(written, smaller)
    names = {"__name__": "__main__", "AESGTrainer": AESGTrainer, **given}
    exec(compile(code, f"{PAGE.name}: {name}", "exec"), names)
    return names


def text(rows: int = 8, length: int = 6) -> Text:
    tokens = torch.randint(0, VOCABULARY, (rows, length + 1))
    return Text(tokens[:, :-1], tokens[:, 1:])


def language_model(storage_dir: str = "./lm_memory") -> AESGDecoderLM:
    size = {"hidden_size": 8, "num_layers": 1, "nhead": 2, "vector_dim": 8}
    return AESGDecoderLM.sized(vocab_size=VOCABULARY, storage_dir=storage_dir, **size)


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_every_example_of_the_page_is_run_by_a_test() -> None:
    run_here = re.findall(r"\brun\(\s*\"([^\"]+)\"", Path(__file__).read_text())
    assert sorted(set(run_here)) == sorted(examples())
    assert all(code.strip() for code in examples().values())


@sizes
def test_three_lines_train_and_evaluate(cut: bool) -> None:
    rows = text().pairs()
    cuts = {"small(vocab_size=10000": "sized(hidden_size=8, nhead=2, vocab_size=12"}
    names = run("What is AESG?: three lines", cuts if cut else {}, train_data=rows, test_data=rows)
    assert names["trainer"].epoch == 5
    memory = names["model"].memory
    assert memory.storage.node_count + memory.provisional_count > 0


@sizes
def test_the_quick_start(cut: bool, capsys: pytest.CaptureFixture[str]) -> None:
    cuts = {"10000": "50", "range(100)": "range(8)"} if cut else {}
    names = run("Quick start: create, train, evaluate", cuts)
    assert re.fullmatch(f"Final loss: {NUMBER}\nTest loss: {NUMBER}\n", printed(capsys))
    assert len(names["losses"]) == 5
    assert list(names["metrics"]) == ["loss"]
    assert Path("./aesg_memory/CURRENT").is_file()
    assert names["model"].memory.storage.verify() == []


def test_the_trainer_takes_what_is_documented_with_the_documented_defaults() -> None:
    trainer = run("Trainer: constructor", model=language_model())["trainer"]
    assert isinstance(trainer.optimizer, torch.optim.Adam)
    assert trainer.optimizer.param_groups[0]["lr"] == trainer.learning_rate == 1e-3
    assert trainer.batch_size == 32
    assert list(trainer.callbacks) == []
    assert trainer.device == torch.device("cpu")


def test_the_documented_parameters_are_positional_in_their_order() -> None:
    model = language_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback = Callback()
    criterion = torch.nn.CrossEntropyLoss()
    trainer = AESGTrainer(model, optimizer, criterion, [callback], "cpu", 4, 0.1)
    assert (trainer.optimizer, trainer.criterion) == (optimizer, criterion)
    assert (list(trainer.callbacks), trainer.batch_size) == ([callback], 4)


def test_a_model_without_a_memory_is_trained_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="neural-only"):
        trainer = AESGTrainer(torch.nn.Linear(3, 2))
    data = [(torch.rand(3), torch.tensor(1)) for _ in range(4)]
    assert len(trainer.fit(data, epochs=2)) == 2


def test_fit_returns_the_average_loss_of_each_epoch() -> None:
    trainer = AESGTrainer(language_model())
    losses = run("Trainer: fit", trainer=trainer, train_data=text().pairs())["losses"]
    assert len(losses) == 10
    assert losses[-1] < losses[0]


class Order(Callback):
    """Notes the hooks, and what is so in each."""

    def __init__(self) -> None:
        self.hooks: list[str] = []
        self.modes: set[MemoryMode] = set()
        self.saved: list[bool] = []

    def _note(self, hook: str) -> None:
        assert self.trainer is not None
        self.hooks.append(hook)
        self.modes.add(self.trainer.memory.mode)

    def on_train_start(self, logs: dict[str, Any]) -> None:
        self._note("train_start")

    def on_train_end(self, logs: dict[str, Any]) -> None:
        self._note("train_end")

    def on_epoch_start(self, epoch: int, logs: dict[str, Any]) -> None:
        self._note(f"epoch_start {epoch}")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        self._note(f"epoch_end {epoch}")
        assert math.isfinite(logs["loss"])

    def on_batch_start(self, batch: int, logs: dict[str, Any]) -> None:
        self._note(f"batch_start {batch}")

    def on_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        self._note(f"batch_end {batch}")


def test_fit_calls_the_hooks_in_the_documented_order_in_train_mode() -> None:
    model, order = language_model(), Order()
    model.memory.set_mode("INFERENCE")
    AESGTrainer(model, callbacks=[order], batch_size=4).fit(text().pairs(), epochs=2)
    batches = [f"batch_{when} {number}" for number in (0, 1) for when in ("start", "end")]
    epochs = [[f"epoch_start {number}", *batches, f"epoch_end {number}"] for number in (0, 1)]
    assert order.hooks == ["train_start", *epochs[0], *epochs[1], "train_end"]
    assert order.modes == {MemoryMode.TRAIN}
    assert model.memory.mode is MemoryMode.INFERENCE


def test_fit_takes_a_loader_a_dataset_and_a_list_of_pairs() -> None:
    inputs, targets = text()
    trainer = AESGTrainer(language_model(), batch_size=4)
    row = {"input_tensor": inputs[0], "target_tensor": targets[0]}
    cuts = {"for ...]": "for _ in range(5)]"}
    run("Trainer: data forms", cuts, trainer=trainer, inputs=inputs, targets=targets, **row)
    assert trainer.epoch == 15
    assert trainer.global_step == 5 * (1 + 2 + 2)


def test_evaluate_returns_the_loss_and_leaves_mode_and_memory_as_they_were() -> None:
    model, data = language_model(), text().pairs()
    trainer = AESGTrainer(model)
    trainer.fit(data)
    model.memory.set_mode("ONLINE")
    before = (model.memory.storage.generation, model.memory.provisional_count)
    metrics = run("Trainer: evaluate", trainer=trainer, test_data=data)["metrics"]
    assert list(metrics) == ["loss"]
    assert math.isfinite(metrics["loss"])
    assert model.memory.mode is MemoryMode.ONLINE
    assert (model.memory.storage.generation, model.memory.provisional_count) == before


def test_predict_returns_the_output_without_a_gradient_and_restores_the_mode() -> None:
    model, inputs = language_model(), text().inputs
    output = run("Trainer: predict", trainer=AESGTrainer(model), input_tensor=inputs)["output"]
    assert output.shape == (8, 6, VOCABULARY)
    assert not output.requires_grad
    assert model.memory.mode is MemoryMode.TRAIN


def test_save_writes_the_documented_files_and_load_brings_them_back() -> None:
    trainer, data = AESGTrainer(language_model()), text().pairs()
    trainer.fit(data, epochs=10)
    at_saving = trainer.evaluate(data)["loss"]
    cuts = {"# Load everything back": "trainer.fit(data, epochs=2)"}
    run("Trainer: save and load", cuts, trainer=trainer, data=data)
    assert trainer.evaluate(data)["loss"] == pytest.approx(at_saving, abs=1e-6)

    folder = Path("./checkpoints/epoch_10")
    files = {"model_weights.pt", "optimizer_state.pt", "config.json", "training_state.json"}
    assert files | {"memory"} <= {path.name for path in folder.iterdir()}
    weights = torch.load(folder / "model_weights.pt", weights_only=True)
    assert sorted(weights) == sorted(trainer.model.state_dict())
    optimizer = torch.load(folder / "optimizer_state.pt", weights_only=True)
    assert sorted(optimizer) == ["param_groups", "state"]
    state = json.loads((folder / "training_state.json").read_text())
    assert (state["epoch"], state["global_step"]) == (10, 10)
    assert state["best_loss"] == min(trainer.history[epoch]["loss"] for epoch in range(10))
    assert "learning_rate" in json.loads((folder / "config.json").read_text())["trainer"]
    with AESGMemory.open(folder / "memory") as held:
        assert held.provisional_count + held.storage.node_count > 0


def test_resume_returns_the_epoch_from_which_training_goes_on() -> None:
    data = text().pairs()
    before = AESGTrainer(language_model())
    before.fit(data, epochs=10)
    before.save("./checkpoints/epoch_10")
    order = Order()
    trainer = AESGTrainer(language_model("./other_memory"), callbacks=[order])
    names = run("Trainer: resume", trainer=trainer, train_data=data)
    assert names["start_epoch"] == 10
    starts = [hook for hook in order.hooks if hook.startswith("epoch_start")]
    assert starts == [f"epoch_start {epoch}" for epoch in range(10, 20)]
    assert trainer.epoch == 20


def test_early_stopping_ends_training_when_the_loss_no_longer_improves() -> None:
    model = language_model()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    no_progress = {"callbacks=[es]": "callbacks=[es], learning_rate=1e-30"}
    with model.without_memory():
        data = text(rows=1).pairs()
        names = run("Trainer: early stopping", no_progress, model=model, data=data)
    assert isinstance(names["es"], EarlyStopping)
    assert len(names["losses"]) == 1 + 5


def test_checkpoints_are_written_every_second_epoch() -> None:
    run("Trainer: checkpoint", model=language_model(), data=text().pairs())
    written = {path.name for path in Path("./checkpoints").iterdir() if path.is_dir()}
    assert written == {f"epoch_{epoch}" for epoch in (2, 4, 6, 8, 10)}


def test_a_callback_of_ones_own_prints_each_loss(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = run("Trainer: custom callback", model=language_model())["trainer"]
    losses = trainer.fit(text().pairs(), epochs=2)
    assert printed(capsys) == "".join(
        f"Epoch {epoch}: loss = {loss:.4f}\n" for epoch, loss in enumerate(losses)
    )


def test_modes_are_read_and_switched(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("Memory modes: modes")
    assert printed(capsys) == "MemoryMode.TRAIN\n"
    assert names["memory"].mode is MemoryMode.TRAIN


def test_what_a_mode_does_not_allow_does_nothing_and_raises_nothing() -> None:
    memory = AESGTransformer.small(vocab_size=10).memory
    memory.set_mode("INFERENCE")
    for _ in range(5):
        memory.retrieve(torch.ones(64))
        memory.update_topology()
    assert (memory.provisional_count, memory.storage.node_count) == (0, 0)


def two_regions(directory: str, vector_dim: int) -> None:
    """Make a memory of two triples of concepts, each of which leads on to the next."""
    each = {"consolidation_epoch_interval": 1, "region_detection_interval": 1}
    with AESGMemory(directory, AESGConfig(vector_dim=vector_dim, **each)) as memory:
        one = torch.eye(vector_dim)
        memory.remember(one[:6], one[[1, 2, 0, 4, 5, 3]])
        memory.update_topology()


TRANSFORMER = "AESGTransformer.medium(vocab_size=30000"
TINY = "AESGTransformer.sized(vocab_size=12, hidden_size=8, nhead=2, vector_dim=8"


def exported(cut: bool) -> dict[str, Any]:
    """Run the example that trains a model and exports three packs."""
    two_regions("./medical_memory", 8 if cut else 128)
    cuts = {TRANSFORMER: TINY, "epochs=20": "epochs=2"} if cut else {}
    return run("Packs: export", cuts, medical_data=text().pairs())


@sizes
def test_a_memory_is_exported_whole_by_relevance_and_by_region(cut: bool) -> None:
    memory = exported(cut)["model"].memory
    packs = {path.stem: memory.load_pack(path) for path in Path("./packs").iterdir()}
    assert sorted(packs) == ["medical_core", "medical_full", "medical_region2"]
    assert len(packs["medical_full"].nodes) == memory.storage.node_count
    assert len(packs["medical_core"].nodes) > 6
    assert packs["medical_core"].nodes["relevance"].min() >= 0.5
    assert len(packs["medical_region2"].nodes) >= 3
    assert set(packs["medical_region2"].nodes["region_id"]) == {2}


@sizes
def test_a_fresh_model_finds_the_concepts_of_a_pack(
    cut: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(cut)
    capsys.readouterr()
    names = run("Packs: load and attach", {TRANSFORMER: TINY} if cut else {})
    memory, pack = names["model"].memory, names["pack"]
    assert printed(capsys) == f"Loaded: medical_core, {pack.node_count} concepts\n"
    context = memory.retrieve(torch.as_tensor(pack.nodes["vector"][0]), top_k=1)
    assert memory.sources(context.concept_ids) == [("medical_core", int(pack.nodes["id"][0]))]
    assert memory.storage.node_count == 0


def three_packs(model: AESGDecoderLM) -> None:
    for name in ("medical", "chemistry", "general"):
        model.memory.remember(torch.randn(2, 8))
        model.memory.export_pack(f"./packs/{name}.aesgpack")


def test_packs_weigh_as_their_priorities_say() -> None:
    model = language_model()
    three_packs(model)
    run("Packs: combine", model=model)
    weights = model.memory.get_pack_weights()
    assert weights == pytest.approx({"medical": 0.529, "chemistry": 0.353, "general": 0.118}, 0.01)


def test_a_detached_pack_leaves_memory_and_other_packs_as_they_are() -> None:
    model = language_model()
    three_packs(model)
    run("Packs: combine", model=model)
    medical = model.memory.get_attached_packs()["medical"].pack
    run("Packs: detach", model=model)
    assert list(model.memory.get_attached_packs()) == ["chemistry", "general"]
    assert model.memory.storage.node_count == 6
    model.memory.attach_pack(medical)
    assert len(model.memory.get_attached_packs()) == 3


def test_text_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = run("Evaluation: text metrics")["metrics"]
    assert 0.5 <= metrics["bleu"] <= 0.8
    assert 0.8 <= metrics["rouge"] <= 1.0
    assert metrics["accuracy"] == 0.5
    assert metrics["perplexity"] >= 1.0
    assert sorted(metrics) == ["accuracy", "bleu", "perplexity", "rouge"]
    want = "BLEU: 0...\nROUGE: 0...\nAccuracy: 0.5000\nPerplexity: ...\n"
    assert doctest.OutputChecker().check_output(want, printed(capsys), doctest.ELLIPSIS)


def test_image_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = run("Evaluation: image metrics")["metrics"]
    expected = f"PSNR: {NUMBER} dB\nSSIM: {NUMBER}\nMSE: {NUMBER}\nMAE: {NUMBER}\n"
    assert re.fullmatch(expected, printed(capsys))
    assert metrics["mse"] == pytest.approx(1 / 6, abs=0.005)  # of two uniform random numbers
    assert metrics["mae"] == pytest.approx(1 / 3, abs=0.005)
    assert metrics["psnr"] == pytest.approx(10 * math.log10(6), abs=0.1)


def test_classification_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = run("Evaluation: classification metrics")["metrics"]
    expected = f"Accuracy: {NUMBER}\nPrecision: {NUMBER}\nRecall: {NUMBER}\nF1: {NUMBER}\n"
    assert re.fullmatch(expected, printed(capsys))
    assert all(0.0 <= value <= 1.0 for value in metrics.values())


def test_the_evaluator_detects_what_a_model_is_for() -> None:
    metrics = run("Evaluation: detection by model")["metrics"]
    assert list(metrics) == ["accuracy", "precision", "recall", "f1"]


def test_exceptions_say_subsystem_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    run("Exceptions: hierarchy")
    *said, pack = printed(capsys).splitlines()
    assert said == [
        "[config] vocab_size must be >= 1",
        "[memory] Invalid memory mode 'INVALID'. "
        "Valid modes: ['TRAIN', 'FINETUNE', 'INFERENCE', 'ONLINE']",
        "[trainer] Empty dataset provided. Training requires at least one sample.",
    ]
    assert pack.startswith("[storage] Failed to read pack file './not_a_real_pack.aesgpack': ")


@sizes
def test_the_colorization_benchmark(cut: bool, capsys: pytest.CaptureFixture[str]) -> None:
    from aesg import ColorizationBenchmark

    assert ColorizationBenchmark is not None
    smaller = {"=2000,": "=10,", "image_size=128": "image_size=16", "max_epochs=3": "max_epochs=1"}
    with pytest.warns(UserWarning, match="CIFAR|cifar"):  # there is no such folder
        results = run("Benchmark: colorization", smaller if cut else {})["results"]
    measured = f"PSNR: {NUMBER} dB, SSIM: {NUMBER}\n"
    expected = f"AESG — {measured}Base — {measured}AESG Memory: [0-9]+ concepts created\n"
    assert re.search(expected, printed(capsys))
    folder = Path("./benchmark_results")
    assert (folder / "benchmark_report.md").read_text().startswith("#")
    held = json.loads((folder / "results.json").read_text())
    assert held
    assert (folder / "samples/sample_000.png").is_file()
    assert (folder / "samples/sample_001.png").is_file()
    assert results["aesg"].psnr > 0


@sizes
def test_a_custom_optimizer(cut: bool) -> None:
    names = run("Integration: optimizer", {"medium": "small", "10000": "12"} if cut else {})
    assert names["trainer"].optimizer is names["optimizer"]
    assert len(names["trainer"].fit(text().pairs())) == 1


@sizes
def test_a_custom_loss_function(cut: bool) -> None:
    cuts = {"small()": "small(base_filters=4, blocks=2)"} if cut else {}
    names = run("Integration: loss function", cuts)
    assert isinstance(names["model"], AESGColorizationNet)
    gray, color = torch.rand(4, 1, 16, 16), torch.rand(4, 3, 16, 16)
    (loss,) = names["trainer"].fit(list(zip(gray, color, strict=True)))
    assert 0 < loss < 1


@sizes
def test_the_model_is_moved_to_the_gpu_or_the_error_says_that_there_is_none(cut: bool) -> None:
    cuts = {"large": "small", "30000": "12"} if cut else {}
    if not torch.cuda.is_available():
        with pytest.raises(AESGTrainingError, match=r"device: expected .* got 'cuda'"):
            run("Integration: GPU", cuts)
        return
    trainer = run("Integration: GPU", cuts)["trainer"]
    trainer.fit(text().pairs())
    assert {parameter.device.type for parameter in trainer.model.parameters()} == {"cuda"}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than there are cores
@sizes
def test_a_loader_with_workers(cut: bool) -> None:
    smaller = {"(1000, 50)": "(16, 6)", "medium": "small", "5000": "50", "epochs=10": "epochs=2"}
    names = run("Integration: DataLoader", smaller if cut else {})
    assert len(names["losses"]) == (2 if cut else 10)
    assert names["loader"].num_workers == 4


@sizes
def test_a_manual_loop(cut: bool, capsys: pytest.CaptureFixture[str]) -> None:
    cuts = {"5000": "50", "range(10)": "range(2)", "(32, 20)": "(4, 6)"} if cut else {}
    names = run("Integration: manual loop", cuts)
    assert re.fullmatch(f"(Epoch [0-9]: loss={NUMBER}\n)+", printed(capsys))
    assert isinstance(names["model"], AESGGRUText)
    assert names["model"].memory.provisional_count > 0


def test_stats_and_history_of_a_memory(capsys: pytest.CaptureFixture[str]) -> None:
    after = "trainer(model, rows)\n# After training..."
    cuts = {"vocab_size=5000": "vocab_size=12", "# After training...": after}
    rows = text(rows=16).pairs()

    def train(model: AESGTransformer, data: list[tuple[Tensor, Tensor]]) -> None:
        AESGTrainer(model, batch_size=4).fit(data, epochs=4)

    names = run("Integration: memory stats", cuts, trainer=train, rows=rows)
    concepts = names["memory"].storage.node_count
    assert concepts > 0
    lines = printed(capsys).splitlines()
    assert lines[0] == f"Total concepts: {concepts}"
    assert lines[2:4] == ["Current mode: TRAIN", "Vector dim: 64"]
    assert len(names["history"]) >= concepts
    assert re.fullmatch(r"  CREATE at \d.*", lines[5])
