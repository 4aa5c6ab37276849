from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aesg.demo.corpus import (
    MIN_CHARACTERS,
    Document,
    encode_documents,
    load_corpus,
    segments,
)
from aesg.demo.tokenizer import Tokenizer
from aesg.errors import AESGTrainingError

LIBRARY = load_corpus()
SAMPLE = [document.text for document in LIBRARY.train[:20]]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(SAMPLE, vocab_size=600)


def packages(documents: tuple[Document, ...]) -> set[str]:
    return {Path(document.name).parts[0].removesuffix(".py").strip("_") for document in documents}


def telling_lines(documents: tuple[Document, ...]) -> list[str]:
    lines = (line.strip() for document in documents for line in document.text.splitlines())
    return [line for line in lines if len(line) >= 25]


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def lines_of_text(count: int) -> str:
    return "".join(f"line {number} of a text that goes on and on\n" for number in range(count))


def test_the_library_is_read_the_same_way_every_time() -> None:
    assert load_corpus() == LIBRARY


def test_no_package_is_both_trained_on_and_held_out() -> None:
    train, heldout = packages(LIBRARY.train), packages(LIBRARY.heldout)
    assert len(train) > 5 * len(heldout) > 0
    assert not train & heldout


def test_what_is_held_out_shares_few_lines_with_training() -> None:
    known = set(telling_lines(LIBRARY.train))
    heldout = telling_lines(LIBRARY.heldout)
    assert sum(line in known for line in heldout) < 0.1 * len(heldout)


def test_documents_are_modules_without_tests_and_tables() -> None:
    names = {document.name for document in LIBRARY.train + LIBRARY.heldout}
    parts = {part for name in names for part in Path(name).parts}
    assert {"argparse.py", "asyncio/events.py"} <= names
    assert not parts & {"test", "tests", "site-packages", "idlelib", "encodings", "locale.py"}


def test_a_library_without_source_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "lone.py", "x = 1\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(AESGTrainingError, match="Name a text file"):
        load_corpus()


def test_a_module_and_its_private_twin_are_on_one_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [f"{mark}module{number}" for number in range(100) for mark in ("", "_")]:
        lines = (f"{name}: line {line} of one module alone\n" for line in range(100))
        write(tmp_path / f"{name}.py", "".join(lines))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    corpus = load_corpus()
    assert not packages(corpus.train) & packages(corpus.heldout)


def test_modules_that_are_not_utf8_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(200):
        lines = (f"{number}: line {line} of one package alone\n" for line in range(100))
        write(tmp_path / f"module{number}.py", "".join(lines))
    (tmp_path / "odd.py").write_bytes(b"x = '\xff'\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    corpus = load_corpus()
    assert len(corpus.train) + len(corpus.heldout) == 200


def test_near_duplicates_of_training_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(200):
        write(tmp_path / f"module{number}.py", lines_of_text(100))
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(AESGTrainingError, match=r"held out, got .* and 0"):
        load_corpus()


@pytest.mark.parametrize("end", ["\n", "\r\n", " "])
def test_a_file_is_cut_into_blocks_and_its_last_tenth_is_held_out(tmp_path: Path, end: str) -> None:
    text = lines_of_text(20_000).replace("\n", end)
    corpus = load_corpus(write(tmp_path / "book.txt", text))
    parts = corpus.train + corpus.heldout
    assert "".join(document.text for document in parts) == text
    heldout = sum(len(document.text) for document in corpus.heldout)
    assert 0.05 * len(text) < heldout < 0.15 * len(text)
    assert len({document.name for document in parts}) == len(parts)


def test_a_file_just_long_enough_has_both_sides(tmp_path: Path) -> None:
    corpus = load_corpus(write(tmp_path / "short.txt", "x" * MIN_CHARACTERS))
    assert corpus.train
    assert corpus.heldout


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    corpus = load_corpus(write(tmp_path / "marked.txt", "\ufeff" + lines_of_text(1_000)))
    assert corpus.train[0].text.startswith("line 0")


@pytest.mark.parametrize("text", ["", "too short", "x" * (MIN_CHARACTERS - 1)])
def test_a_file_with_too_little_text_is_refused(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "short.txt", text)
    with pytest.raises(AESGTrainingError, match=f"short.txt: expected .* got {len(text):,}"):
        load_corpus(path)


def test_a_file_that_is_not_utf8_is_refused_with_the_offset(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(lines_of_text(1_000).encode() + b"caf\xe9 ")
    offset = path.stat().st_size - 2
    with pytest.raises(AESGTrainingError, match=f"got byte 0xe9 at offset {offset}"):
        load_corpus(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.txt"):
        with pytest.raises(AESGTrainingError, match=f"{path.name}: cannot be read"):
            load_corpus(path)


def test_source_comes_back_exactly(tokenizer: Tokenizer) -> None:
    for document in (LIBRARY.train + LIBRARY.heldout)[::7]:
        assert tokenizer.decode(tokenizer.encode(document.text)) == document.text


@given(text=st.text(st.characters(codec="utf-8")))
def test_any_text_comes_back_exactly(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["", " ", "\n\n", "  a\n\tb \r\n", "\x00\x0c", "a\u2581b \u2581"])
def test_characters_with_a_meaning_of_their_own_come_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_are_int64_within_the_vocabulary(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("def f(x):\n    return x\n")
    assert ids.dtype == np.int64
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocab_size == 600
    assert len(ids) < len("def f(x):\n    return x\n")


def test_learning_twice_gives_the_same_pieces(tokenizer: Tokenizer) -> None:
    again = Tokenizer.train(SAMPLE, vocab_size=600)
    assert np.array_equal(again.encode(SAMPLE[0]), tokenizer.encode(SAMPLE[0]))


def test_a_small_text_gives_fewer_pieces() -> None:
    tokenizer = Tokenizer.train(["one line and no more"], vocab_size=4096)
    assert tokenizer.vocab_size < 4096
    assert tokenizer.decode(tokenizer.encode("another line")) == "another line"


def test_a_text_without_line_ends_is_learned_from() -> None:
    tokenizer = Tokenizer.train(["many words " * 10_000], vocab_size=512)
    assert len(tokenizer.encode("many words ")) < 6


def test_a_saved_tokenizer_is_the_same_when_loaded(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.model")
    loaded = Tokenizer.load(tmp_path / "tokenizer.model")
    assert loaded.vocab_size == tokenizer.vocab_size
    assert np.array_equal(loaded.encode(SAMPLE[1]), tokenizer.encode(SAMPLE[1]))


def test_a_file_that_holds_no_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AESGTrainingError, match="cannot be read"):
        Tokenizer.load(tmp_path / "missing")
    with pytest.raises(AESGTrainingError, match="expected a sentencepiece model"):
        Tokenizer.load(write(tmp_path / "other", "not a model"))


@pytest.mark.parametrize("texts", [[], [""], ["\n\n"]])
def test_nothing_to_learn_from_is_refused(texts: list[str]) -> None:
    with pytest.raises(AESGTrainingError, match="expected text"):
        Tokenizer.train(texts)


def test_without_sentencepiece_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(AESGTrainingError, match=r'pip install "aesg\[demo\]"'):
        Tokenizer.train(["text"])


def test_documents_are_encoded_one_after_another_up_to_the_limits(tokenizer: Tokenizer) -> None:
    documents = [Document("a", "alpha " * 50), Document("b", "beta " * 50)]
    whole = encode_documents(tokenizer, documents, limit=10_000)
    first = tokenizer.encode(documents[0].text)
    assert np.array_equal(whole, np.concatenate([first, tokenizer.encode(documents[1].text)]))
    limit = len(first) + 3
    assert np.array_equal(encode_documents(tokenizer, documents, limit), whole[:limit])
    short = encode_documents(tokenizer, documents, limit=10_000, per_document=5)
    assert np.array_equal(short[:5], whole[:5])
    assert np.array_equal(short[5:], whole[len(first) : len(first) + 5])
    assert len(encode_documents(tokenizer, [], limit=10)) == 0


def test_documents_beyond_the_limit_are_not_read(tokenizer: Tokenizer) -> None:
    documents = iter(LIBRARY.train)
    encode_documents(tokenizer, documents, limit=10)
    assert next(documents) is LIBRARY.train[1]


@pytest.mark.parametrize(("count", "rows"), [(5, 1), (8, 1), (9, 2), (12, 2), (13, 3)])
def test_segments_follow_one_another_and_targets_are_one_later(count: int, rows: int) -> None:
    tokens = np.arange(count)
    inputs, targets = segments(tokens, 4)
    assert inputs.shape == targets.shape == (rows, 4)
    assert np.array_equal(inputs.ravel(), tokens[: 4 * rows])
    assert np.array_equal(targets, inputs + 1)


def test_too_few_tokens_for_a_segment_are_refused() -> None:
    with pytest.raises(AESGTrainingError, match="needs 5 tokens, got 4"):
        segments(np.arange(4), 4)
