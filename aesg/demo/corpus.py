"""The text that the demo reads: the standard library's own source, or a file of the user's.

Every machine that runs Python has the first. It is split by whole packages and modules, so that
what is held out was never trained on, not even as a sibling in the same package; packages that
share much of their text with training (``bz2`` beside ``lzma``) are left out of both sides.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aesg.demo.tokenizer import Tokenizer, Tokens
from aesg.errors import AESGTrainingError

#: Less text than this says nothing about held-out text.
MIN_CHARACTERS = 20_000
#: One package in this many is held out.
HELDOUT_SHARE = 8
#: A held-out package with a larger share of its lines in the training text is a near-duplicate.
MAX_SHARED_LINES = 0.1
#: Shorter lines (``return None``, ``else:``) are shared by all programs.
TELLING_LINE = 25
BLOCK_CHARACTERS = 32_768

#: Folders of tests, programs, third-party code and generated tables.
_SKIPPED_FOLDERS = frozenset(
    [
        "__pycache__",
        "dist-packages",
        "encodings",
        "idlelib",
        "lib-dynload",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "turtledemo",
    ]
)
#: Single modules that are mostly tables.
_SKIPPED_MODULES = frozenset(["html/entities.py", "locale.py", "stringprep.py"])


@dataclass(frozen=True)
class Document:
    """A piece of running text.

    Parameters
    ----------
    name : str
        Where it is from: a path relative to the library, or file and block number.
    text : str
        The text, newlines included.
    """

    name: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Text for training and text held out from it.

    Parameters
    ----------
    source : str
        The folder or file that it was read from.
    train, heldout : tuple of Document
        In reading order. No document is in both.
    """

    source: str
    train: tuple[Document, ...]
    heldout: tuple[Document, ...]


def load_corpus(text_file: str | Path | None = None) -> Corpus:
    """Read a corpus; the same machine and file always give the same one.

    Parameters
    ----------
    text_file : path, optional
        UTF-8 text. Its last tenth is held out. None takes the standard library's source.

    Returns
    -------
    Corpus
        Both sides hold text.

    Raises
    ------
    AESGTrainingError
        If the file cannot be read, is not UTF-8, or there is too little text.
    """
    if text_file is not None:
        return _from_file(Path(text_file))
    return _from_library(Path(sysconfig.get_path("stdlib")))


def encode_documents(
    tokenizer: Tokenizer,
    documents: Iterable[Document],
    limit: int,
    per_document: int | None = None,
) -> Tokens:
    """Encode documents, one after another, into a single run of tokens.

    Parameters
    ----------
    tokenizer : Tokenizer
        What turns text into ids.
    documents : iterable of Document
        Read only as far as the limit needs.
    limit : int
        Most tokens to return.
    per_document : int, optional
        Most tokens of one document, so that a few long ones do not stand for all.

    Returns
    -------
    (N,) int64
        Token ids, N <= limit.
    """
    parts: list[Tokens] = []
    room = limit
    for document in documents:
        part = tokenizer.encode(document.text)[:per_document][:room]
        parts.append(part)
        room -= len(part)
        if room <= 0:
            break
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def segments(tokens: Tokens, length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut tokens into inputs and the targets one token later.

    Segment *i* + 1 starts where segment *i* ends; what does not fill a segment is left off.

    Parameters
    ----------
    tokens : (N,) int64
        A run of tokens.
    length : int
        Tokens of a segment, at least 1.

    Returns
    -------
    (M, length) int64, (M, length) int64
        Inputs and targets, M = (N - 1) // length. Views of ``tokens``.

    Raises
    ------
    AESGTrainingError
        If there are too few tokens for one segment.
    """
    count = (len(tokens) - 1) // length
    if count < 1:
        raise AESGTrainingError(
            f"too little text: one segment needs {length + 1} tokens, got {len(tokens)}"
        )
    used = count * length
    return tokens[:used].reshape(count, length), tokens[1 : used + 1].reshape(count, length)


def _from_file(path: Path) -> Corpus:
    text = _read(path)
    if len(text) < MIN_CHARACTERS:
        raise AESGTrainingError(
            f"{path}: expected at least {MIN_CHARACTERS:,} characters of text, got {len(text):,}"
        )
    blocks = tuple(
        Document(f"{path.name}[{number}]", block) for number, block in enumerate(_blocks(text))
    )
    held = max(1, len(blocks) // 10)
    return Corpus(str(path), blocks[:-held], blocks[-held:])


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise AESGTrainingError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AESGTrainingError(
            f"{path}: expected UTF-8 text, got byte 0x{error.object[error.start]:02x}"
            f" at offset {error.start}"
        ) from error


def _blocks(text: str) -> Iterator[str]:
    """Yield contiguous blocks, cut after a line end where there is one in the second half."""
    size = min(BLOCK_CHARACTERS, len(text) // 10)
    start = 0
    while start < len(text):
        stop = start + size
        line_end = text.rfind("\n", start + size // 2, stop)
        if line_end >= 0 and stop < len(text):
            stop = line_end + 1
        yield text[start:stop]
        start = stop


def _from_library(root: Path) -> Corpus:
    packages = _packages(root)
    names = sorted(packages, key=_hash)
    train = [doc for name in names if not _is_held_out(name) for doc in packages[name]]
    heldout = [
        document
        for documents in _unlike(train, [packages[name] for name in names if _is_held_out(name)])
        for document in documents
    ]
    # A package's modules apart, so that any first part is of many packages.
    heldout.sort(key=lambda document: _hash(document.name))
    if min(_characters(train), _characters(heldout)) < MIN_CHARACTERS:
        raise AESGTrainingError(
            f"{root}: expected the standard library's source, at least {MIN_CHARACTERS:,} "
            f"characters for training and held out, got {_characters(train):,} and "
            f"{_characters(heldout):,}. Name a text file to read instead."
        )
    return Corpus(str(root), tuple(train), tuple(heldout))


def _is_held_out(package: str) -> bool:
    return _hash(package) % HELDOUT_SHARE == 0


def _unlike(
    train: Sequence[Document], packages: Iterable[Sequence[Document]]
) -> Iterator[Sequence[Document]]:
    """Yield the packages that share few telling lines with training."""
    known = set(_telling_lines(train))
    for documents in packages:
        lines = _telling_lines(documents)
        if sum(line in known for line in lines) <= MAX_SHARED_LINES * len(lines):
            yield documents


def _packages(root: Path) -> dict[str, list[Document]]:
    """Group the library's modules by top-level name, ``_x`` with ``x``."""
    packages: dict[str, list[Document]] = {}
    for path in _modules(root):
        relative = path.relative_to(root)
        try:
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError):
            continue  # one module fewer changes nothing; too few are an error later
        name = relative.parts[0].removesuffix(".py").strip("_")
        packages.setdefault(name, []).append(Document(relative.as_posix(), text))
    return packages


def _modules(root: Path) -> Iterator[Path]:
    for folder, subfolders, files in os.walk(root):
        # In place, so that the walk stays out of what may be a large site-packages.
        subfolders[:] = sorted(set(subfolders) - _SKIPPED_FOLDERS)
        for path in sorted(Path(folder, name) for name in files if name.endswith(".py")):
            tables = path.relative_to(root).as_posix() in _SKIPPED_MODULES
            if not (tables or path.name.startswith("_sysconfigdata")):
                yield path


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _telling_lines(documents: Iterable[Document]) -> list[str]:
    lines = (line.strip() for document in documents for line in document.text.split("\n"))
    return [line for line in lines if len(line) >= TELLING_LINE]


def _characters(documents: Iterable[Document]) -> int:
    return sum(len(document.text) for document in documents)
