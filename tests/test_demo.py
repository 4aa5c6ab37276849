"""The pieces of the demo, on a text of a few hundred lines."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from aesg import AESGMemory, AESGStorageError, AESGTrainer, AESGTrainingError
from aesg.demo import plan as plans
from aesg.demo import read, train
from aesg.demo.__main__ import main
from aesg.demo.corpus import Corpus, load_corpus
from aesg.demo.plan import Plan, Workspace
from aesg.demo.train import (
    heldout_batches,
    load_model,
    loader,
    memory_batches,
    part_title,
    side_by_side,
)

pytest.importorskip("sentencepiece")

PLAN = Plan(
    vocab_size=512,
    segment=8,
    batch=4,
    trunk_steps=5,
    memory_steps=60,
    streams=2,
    heldout_tokens=200,
)


def write_text(path: Path) -> Path:
    dice = np.random.default_rng(0)
    words = ["def", "return", "class", "value", "import", "os", "self", "none", "(x)", "[/]"]
    lines = [" ".join(dice.choice(words, 8)) for _ in range(600)]
    path.write_text("import os\nimport sys\n" + "\n".join(lines))
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return load_corpus(write_text(tmp_path_factory.mktemp("corpus") / "text.txt"))


@pytest.fixture
def workspace(corpus: Corpus) -> Workspace:
    made = Workspace(Path("run").absolute())
    made.prepare(PLAN, corpus)
    return made


def part_of(line: str) -> str:
    return line.partition(":")[0]


def titles(plan: Plan, first: int = 1) -> list[str]:
    """Return how the reports begin of the parts from ``first`` on."""
    return [part_title(number, plan) for number in range(first, plan.parts + 1) for _ in range(2)]


ALL = titles(PLAN)


def test_a_workspace_gives_back_what_it_was_prepared_with(
    workspace: Workspace, corpus: Corpus
) -> None:
    assert workspace.plan == PLAN
    train_text = "".join(each.text for each in corpus.train)
    tokens = workspace.tokens("train")
    assert 0 < len(tokens) <= PLAN.train_tokens
    assert train_text.startswith(workspace.tokenizer.decode(tokens))
    assert len(workspace.tokens("heldout")) <= PLAN.heldout_tokens
    assert max(tokens.max(), workspace.tokens("heldout").max()) < PLAN.vocab_size


def test_the_short_form_is_shorter_and_keeps_its_seed() -> None:
    quick, whole = Plan.quick(3), Plan(seed=3)
    assert quick.seed == 3
    assert quick.train_tokens < whole.train_tokens
    assert 2 <= quick.parts < whole.parts  # a part is cut short behind a whole one


def test_clearing_removes_an_earlier_run_and_nothing_else(workspace: Workspace) -> None:
    list(train.train(workspace, 1))
    workspace.clear()
    assert list(workspace.folder.iterdir()) == []
    workspace.clear()
    Workspace(Path("nowhere")).clear()


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["thesis.txt"], "thesis.txt"),
        (["plan.json", "thesis.txt"], "thesis.txt"),
        (["memory"], "memory"),
    ],
)
def test_a_folder_with_other_files_is_left_alone(names: Sequence[str], named: str) -> None:
    folder = Path("mine")
    folder.mkdir()
    for name in names:
        (folder / name).write_text("precious")
    with pytest.raises(AESGStorageError, match=f"expected an earlier demo.*got '{named}'"):
        Workspace(folder).clear()
    assert sorted(each.name for each in folder.iterdir()) == sorted(names)


def joined(rows: Sequence[Tensor]) -> list[int]:
    return torch.cat(list(rows)).tolist()


def test_each_stream_continues_where_its_last_segment_ended() -> None:
    tokens = np.arange(3 * 35 + 1)
    batches = side_by_side(tokens, streams=3, length=5)
    assert len(batches) == 7
    for stream in range(3):
        begin = 35 * stream
        assert joined([inputs[stream] for inputs, _ in batches]) == list(range(begin, begin + 35))
        assert joined([targets[stream] for _, targets in batches]) == list(
            range(begin + 1, begin + 36)
        )


def test_too_little_text_for_every_stream_is_an_error() -> None:
    assert len(side_by_side(np.arange(16), streams=3, length=5)) == 1
    with pytest.raises(AESGTrainingError, match="3 streams of 5 tokens need 16 tokens, got 15"):
        side_by_side(np.arange(15), streams=3, length=5)


def test_training_with_memory_reads_in_order_and_from_anywhere_in_turn() -> None:
    plan = replace(PLAN, memory_steps=9)
    tokens = np.arange(plan.batch * plan.segment * 3 + 1)
    batches, ordered = memory_batches(tokens, plan), side_by_side(tokens, plan.batch, plan.segment)
    assert len(batches) == 9
    for number, (inputs, targets) in enumerate(batches):
        assert inputs.shape == targets.shape == (plan.batch, plan.segment)
        assert torch.equal(targets, inputs + 1)
        if number % 2 == 0:
            assert torch.equal(inputs, ordered[number % 3][0])
    anywhere = {tuple(inputs[:, 0].tolist()) for inputs, _ in batches[1::2]}
    assert len(anywhere) > 1
    again = memory_batches(tokens, plan)
    assert all(torch.equal(one[0], other[0]) for one, other in zip(batches, again, strict=True))


def test_training_reports_every_part_and_leaves_a_model(workspace: Workspace) -> None:
    lines = list(train.train(workspace, 2))
    assert lines[0] == "the network alone, 10 steps"
    assert lines[1].startswith("the network alone, epoch 1, step 5: loss ")
    assert lines[2].startswith("the network alone, epoch 2, step 5: loss ")
    assert [part_of(line) for line in lines[3:]] == ALL
    assert " concepts, " in lines[-1]
    model = load_model(workspace)
    assert model.memory.storage.node_count > 0
    assert model.memory.storage.verify() == []
    losses = AESGTrainer(model).evaluate(loader(heldout_batches(workspace)))
    assert 0 < losses["loss"] < 10
    model.memory.close()
    assert list(train.train(workspace, 2)) == []  # there is nothing left to do


@pytest.mark.parametrize("reported", [1, 3, 4, 5])
def test_interrupted_training_goes_on_from_its_last_checkpoint(
    workspace: Workspace, reported: int
) -> None:
    running = train.train(workspace, 1)
    first = [next(running) for _ in range(reported)]
    running.close()
    rest = list(train.train(workspace, 1))
    begun_anew = 1 if reported % 2 else 0  # what was begun and not reported is done again
    together = [part_of(line) for line in first[: reported - begun_anew] + rest]
    assert together[2:] == ALL


def test_a_checkpoint_cut_short_is_not_read(workspace: Workspace) -> None:
    running = train.train(workspace, 1)
    for _ in range(4):
        next(running)
    running.close()
    workspace.checkpoint.with_suffix(".new").write_bytes(b"half")
    assert [part_of(line) for line in train.train(workspace, 1)] == ALL[2:]


@pytest.mark.parametrize("begun", [1, 2])
def test_killed_training_leaves_a_sound_memory_and_resumes(
    workspace: Workspace, begun: int
) -> None:
    plan = replace(PLAN, memory_steps=200)  # still under way when the signal comes
    (workspace.folder / "plan.json").write_text(json.dumps(asdict(plan)))
    command = [sys.executable, "-m", "aesg.demo.train", str(workspace.folder), "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() == part_title(begun, plan):
                break
        time.sleep(0.02)
        child.kill()
        assert child.wait() == -signal.SIGKILL
    with AESGMemory.open(workspace.memory) as memory:
        assert memory.storage.verify() == []
    rest = [part_of(line) for line in train.train(workspace, 1)]
    first = plan.parts + 1 - len(rest) // 2
    assert begun <= first <= plan.parts  # later than ``begun`` where the signal came late
    assert rest == titles(plan, first)
    with AESGMemory.open(workspace.memory) as memory:
        assert memory.storage.verify() == []
        assert memory.storage.node_count > 0


def test_the_second_process_prints_what_it_found(workspace: Workspace) -> None:
    list(train.train(workspace, 1))
    result = CliRunner().invoke(read.main, [str(workspace.folder)])
    assert result.exit_code == 0, result.output
    assert "what came next" in result.output
    model = load_model(workspace, memory_mode="INFERENCE")
    assert f"from {model.memory.storage.node_count} concepts" in " ".join(result.output.split())
    model.memory.close()


def test_the_second_process_fails_where_there_is_nothing(workspace: Workspace) -> None:
    result = CliRunner().invoke(read.main, [str(workspace.folder)])
    assert_one_line(result, 1, "checkpoint.pt: No such file or directory")


def assert_one_line(result: Result, code: int, message: str) -> None:
    """Check that a command ended by saying what was wrong, and not by a traceback."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit)
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert message in error


def test_a_text_that_is_not_there_is_a_mistake_in_the_call() -> None:
    result = CliRunner().invoke(main, ["--text", "missing.txt"])
    assert_one_line(result, 2, "'missing.txt' does not exist")
    assert list(Path.cwd().iterdir()) == []


def test_a_folder_that_is_a_file_is_a_mistake_in_the_call() -> None:
    Path("file").write_text("x")
    assert_one_line(CliRunner().invoke(main, ["--folder", "file"]), 2, "is a file")


@pytest.mark.parametrize("option", ["--epochs", "--seed"])
def test_numbers_out_of_range_are_mistakes_in_the_call(option: str) -> None:
    assert_one_line(CliRunner().invoke(main, [option, "-1"]), 2, option)


def test_a_text_too_short_to_split_is_said() -> None:
    Path("short.txt").write_text("import os\n" * 20)
    result = CliRunner().invoke(main, ["--quick", "--text", "short.txt"])
    assert_one_line(result, 1, "expected at least 20,000 characters")
    assert not Path("aesg_demo").exists()


def test_a_text_too_short_for_the_plan_is_said_before_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    text = write_text(Path("text.txt"))
    result = CliRunner().invoke(main, ["--quick", "--text", str(text)])
    assert_one_line(result, 1, "too little text")


def test_a_folder_with_foreign_files_is_said_and_left_alone() -> None:
    text, folder = write_text(Path("text.txt")), Path("mine")
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    result = CliRunner().invoke(main, ["--quick", "--text", str(text), "--folder", str(folder)])
    assert_one_line(result, 1, "got 'thesis.txt'")
    assert (folder / "thesis.txt").read_text() == "precious"


def test_the_plan_is_written_first() -> None:
    # Otherwise a run that was stopped while it prepared could not be cleared.
    workspace = Workspace(Path("run").absolute())
    with pytest.raises(AESGTrainingError, match="expected text to learn word pieces from"):
        workspace.prepare(PLAN, Corpus("nowhere", (), ()))
    assert [each.name for each in workspace.folder.iterdir()] == ["plan.json"]
    workspace.clear()


def test_a_part_is_as_long_as_the_plan_says() -> None:
    assert Plan(memory_steps=2 * plans.STEPS_PER_PART).parts == 2
    assert Plan(memory_steps=2 * plans.STEPS_PER_PART + 1).parts == 3
