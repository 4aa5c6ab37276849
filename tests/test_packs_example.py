"""The example of packs: what a copy of a network gains by what another copy has read."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from aesg import AESGCNNClassifier, AESGMemory, AESGTrainingError
from aesg.demo.plan import Plan
from examples.packs import digits, run, topics
from examples.packs.controls import control_rows
from examples.packs.measuring import Row
from examples.packs.network import Network
from examples.packs.reading import Encoded, encode, make_pack
from examples.packs.topics import FOLDERS, read_texts

pytest.importorskip("sentencepiece")

TOPICS = ("plants", "metals")
PLAN = Plan(
    vocab_size=512,
    segment=16,
    batch=8,
    trunk_steps=40,
    memory_steps=40,
    streams=4,
    heldout_tokens=800,
    learning_rate=1e-2,
)


def write_texts(folder: Path, pieces: int = 30) -> Path:
    """Write topics that say other phrases of the same words, over and over."""
    folder.mkdir()
    dice = np.random.default_rng(0)
    words = ["".join(dice.choice(list("abcdefghij"), 4)) for _ in range(40)]
    for name in (*TOPICS, "rest", "more"):
        phrases = [" ".join(dice.choice(words, 5)) for _ in range(20)]
        lines = [" ".join(dice.choice(phrases, 2)) for _ in range(3 * pieces)]
        parts = ["\n".join(lines[each::pieces]) for each in range(pieces)]
        (folder / name).write_text("\n%\n".join(parts) + "\n")
    return folder


@dataclass
class Made:
    """A trained network, what it is measured on, and the packs of both topics."""

    network: Network
    encoded: Encoded
    packs: list[Path]
    folder: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("example")
    encoded = encode(read_texts(write_texts(folder / "texts"), TOPICS), PLAN, 3_000)
    network = Network(folder, PLAN)
    network.train(encoded.base)
    packs = [make_pack(network, encoded.read[name], folder, name).path for name in TOPICS]
    return Made(network, encoded, packs, folder)


def test_a_fresh_copy_gains_by_packs_as_their_priorities_say_and_loses_it_again(
    made: Made, tmp_path: Path
) -> None:
    rows = list(run.fresh_rows(made.network, made.encoded, made.packs, tmp_path))
    assert run.problems_of(rows) == []
    for topic in (0, 1):
        assert rows[1 + topic].perplexities[topic] < 0.5 * rows[0].perplexities[topic]
    with AESGMemory.open(tmp_path / "memory_of_fresh_copy") as memory:
        assert (memory.storage.node_count, memory.provisional_count) == (0, 0)


def test_a_pack_helps_its_own_network_and_neither_shuffled_nor_another(
    made: Made, tmp_path: Path
) -> None:
    rows = control_rows(made.network, made.encoded, made.packs[0], tmp_path)
    values = {row.title: row.perplexities[0] for row in rows}
    assert (
        values["plants; the network's own memory"] < 0.5 * values["none; the network's own memory"]
    )
    assert values["plants; trained as long again"] < 0.5 * values["none; trained as long again"]
    helped = values["plants; the network's own memory"]
    assert values["plants, values shuffled"] > 2 * helped
    assert values["plants, by another network"] > 2 * helped


def rows_of(*perplexities: tuple[float, float]) -> list[Row]:
    titles = ("none", "a", "b", "a (90), b (10)", "a (10), b (90)", "none, all detached")
    return [Row(title, each) for title, each in zip(titles, perplexities, strict=True)]


GOOD = ((90, 80), (50, 70), (60, 40), (55, 50), (65, 45), (90, 80))


def test_rows_as_they_should_be_are_no_problem() -> None:
    assert run.problems_of(rows_of(*GOOD)) == []


@pytest.mark.parametrize(
    ("place", "row", "problem"),
    [
        (1, (90, 70), "a: the pack does not help on its own topic"),
        (2, (60, 81), "b: the pack does not help on its own topic"),
        (3, (65, 50), "a: the higher priority does not help more"),
        (4, (65, 50), "b: the higher priority does not help more"),
        (5, (90, 80.0001), "what was detached has left traces"),
    ],
)
def test_what_does_not_bear_out_a_claim_is_a_problem(
    place: int, row: tuple[float, float], problem: str
) -> None:
    rows = [row if number == place else each for number, each in enumerate(GOOD)]
    assert run.problems_of(rows_of(*rows)) == [problem]


def test_what_is_held_out_is_not_read_anywhere(tmp_path: Path) -> None:
    folder = write_texts(tmp_path / "texts")
    known = (folder / "rest").read_text().split("\n%\n")[0]
    with (folder / "plants").open("a") as file:
        file.write("%\n" + "\n%\n".join([known] * 30))
    (folder / "plants.dat").write_bytes(b"\xff\x00")
    texts = read_texts(folder, TOPICS)
    lines = {line for piece in texts.base for line in piece.text.split("\n") if line}
    for topic in texts.topics:
        assert topic.heldout
        read = lines.union(*(piece.text.split("\n") for piece in topic.train)) - {""}
        assert not any(read & set(piece.text.split("\n")) for piece in topic.heldout)


def called(*arguments: str) -> Result:
    return CliRunner().invoke(run.main, arguments)


def test_the_command_prints_what_each_pack_is_worth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = replace(PLAN, trunk_steps=2, memory_steps=2)
    monkeypatch.setattr(run, "PLAN", tiny)
    monkeypatch.setattr(run, "TOPIC_TOKENS", 300)
    texts = write_texts(tmp_path / "texts")
    result = called("--texts", str(texts), "--topics", *TOPICS, "--folder", str(tmp_path / "run"))
    assert "Perplexity of held-out text" in result.output
    assert result.exit_code == ("PROBLEM" in result.output)
    for topic in TOPICS:
        assert re.search(f"a copy has read {topic}: [0-9]+ concepts", result.output)
        assert (tmp_path / "run" / f"{topic}.aesgpack").is_file()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    result = called("--folder", str(tmp_path))
    assert result.exit_code == 2
    assert "expected a new or an empty folder" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("second", ["stones", "plants"])
def test_topics_that_are_not_two_files_are_named(second: str, tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts")
    result = called("--texts", str(texts), "--topics", "plants", second)
    assert result.exit_code == 1
    assert f"expected different files plants, {second}" in result.output
    assert "got metals, more, plants, rest" in result.output


def test_without_fortunes_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "FOLDERS", ("/nowhere",))
    with pytest.raises(AESGTrainingError, match=r"'fortunes'.*--texts"):
        topics.find_folder()


@pytest.mark.long
@pytest.mark.skipif(
    not any(Path(folder, "definitions").is_file() for folder in FOLDERS),
    reason="NOT TESTED: no fortunes here; install Debian's package 'fortunes'",
)
def test_the_example_holds_on_fortunes() -> None:
    result = called("--quick")
    assert result.exit_code == 0, result.output


def test_classifiers_with_other_weights_ask_the_same(tmp_path: Path) -> None:
    images = torch.rand(4, 1, 16, 16)
    queries = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        sizes = {"num_classes": 10, "channels": 1, "base_filters": 4, "blocks": 1}
        model = AESGCNNClassifier.small(storage_dir=str(tmp_path / str(seed)), **sizes)
        with torch.no_grad():
            queries.append(model.eval().queries(images))
    assert queries[0].equal(queries[1])


@pytest.mark.long
def test_a_pack_of_a_classifier_serves_networks_with_other_weights(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn, for its digits")
    for _, (without, attached, detached) in digits.results(tmp_path, seeds=(0, 1)):
        assert attached[1] > without[1] + 0.5  # new digits
        assert attached[0] > without[0] - 0.15  # old digits
        assert detached == without


def test_an_example_says_how_it_is_used_and_errors_without_their_subsystem(tmp_path: Path) -> None:
    for command in (digits.main, run.main):
        shown = CliRunner().invoke(command, ["--help"])
        assert shown.exit_code == 0
        assert shown.output.startswith("Usage: ")
    failed = CliRunner().invoke(
        run.main, ["--texts", str(tmp_path), "--folder", str(tmp_path / "f")]
    )
    assert failed.exit_code == 1
    assert failed.output.startswith("Error: ")
    assert not failed.output.startswith("Error: [")
