"""Short texts by topic, in files as the program ``fortune`` reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aesg.demo.corpus import Document
from aesg.errors import AESGTrainingError

#: Where systems keep them.
FOLDERS = (
    "/usr/share/games/fortunes",
    "/usr/share/fortune",
    "/usr/local/share/games/fortunes",
    "/opt/homebrew/share/games/fortunes",
)
#: One piece in this many is held out.
_HELDOUT_SHARE = 6
#: A held-out piece with a larger share of its lines in what is read is a near-duplicate.
_MAX_SHARED_LINES = 0.1
#: Shorter lines are shared by chance.
_TELLING_LINE = 25


@dataclass(frozen=True)
class Topic:
    """The pieces of one topic.

    Parameters
    ----------
    name : str
    train, heldout : tuple of Document
        What may be read, and what is kept for the measurement; no piece is in both.
    """

    name: str
    train: tuple[Document, ...]
    heldout: tuple[Document, ...]


@dataclass(frozen=True)
class Texts:
    """What there is to read.

    Parameters
    ----------
    base : tuple of Document
        Of all other topics, in an order that has nothing to do with them.
    topics : tuple of Topic
        Those that the network is not trained on.
    """

    base: tuple[Document, ...]
    topics: tuple[Topic, ...]


def find_folder() -> Path:
    """Return the folder of the fortunes that are installed.

    Raises
    ------
    AESGTrainingError
        If there is none.
    """
    for folder in map(Path, FOLDERS):
        if folder.is_dir():
            return folder
    raise AESGTrainingError(
        "expected the fortunes of Debian's package 'fortunes' (Homebrew: 'fortune'), got none in "
        f"{', '.join(FOLDERS)}; install it, or name a folder of such files with --texts"
    )


def read_texts(folder: Path, topics: Sequence[str]) -> Texts:
    """Read a folder of files with pieces of text between lines of a single %.

    Parameters
    ----------
    folder : Path
    topics : sequence of str
        Names of files that become topics of their own; all others are trained on.

    Returns
    -------
    Texts

    Raises
    ------
    AESGTrainingError
        If there is no file for a topic, or one is named twice, or there is nothing else.
    """
    pieces = _pieces(folder)
    missing = sorted(set(topics) - set(pieces))
    if missing or len(set(topics)) < len(topics) or len(pieces) == len(topics):
        raise AESGTrainingError(
            f"{folder}: expected different files {', '.join(topics)} and others to train on, "
            f"got {', '.join(sorted(pieces)) or 'none'}"
        )
    base = [piece for name in pieces if name not in topics for piece in pieces[name]]
    known = _telling_lines(base)
    split = tuple(_split(name, pieces[name], known) for name in topics)
    return Texts(tuple(sorted(base, key=_hash)), split)


def _pieces(folder: Path) -> Mapping[str, list[Document]]:
    """Return the pieces of each file; those with an ending are made from the others."""
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file() and not path.suffix)
        texts = {path.name: path.read_text("utf-8", "replace").split("\n%\n") for path in files}
    except OSError as error:
        raise AESGTrainingError(f"{folder}: cannot be read: {error.strerror}") from error
    return {
        name: [
            Document(f"{name}[{number}]", piece.strip("\n") + "\n\n")
            for number, piece in enumerate(parts)
            if piece.strip()
        ]
        for name, parts in texts.items()
    }


def _split(name: str, pieces: Sequence[Document], known: frozenset[str]) -> Topic:
    shuffled = sorted(pieces, key=_hash)
    heldout = shuffled[::_HELDOUT_SHARE]
    train = [each for place, each in enumerate(shuffled) if place % _HELDOUT_SHARE]
    known |= _telling_lines(train)
    return Topic(name, tuple(train), tuple(each for each in heldout if _is_new(each, known)))


def _is_new(piece: Document, known: frozenset[str]) -> bool:
    """Tell whether a piece has telling lines, and hardly one that was read elsewhere."""
    lines = _telling_lines([piece])
    return bool(lines) and len(lines & known) <= _MAX_SHARED_LINES * len(lines)


def _telling_lines(pieces: Iterable[Document]) -> frozenset[str]:
    lines = (line.strip() for piece in pieces for line in piece.text.split("\n"))
    return frozenset(line for line in lines if len(line) >= _TELLING_LINE)


def _hash(piece: Document) -> bytes:
    return hashlib.sha256(piece.name.encode()).digest()
