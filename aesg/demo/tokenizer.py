"""Word pieces for any text, learned from the text itself and exact in both directions."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from aesg.errors import AESGTrainingError

Tokens = NDArray[np.int64]

#: sentencepiece writes a space as this character, so the character itself needs another way.
_SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"
#: Characters read to learn the pieces: enough for 4,096 of them, about one second.
_SAMPLE_CHARACTERS = 4_000_000
#: sentencepiece drops longer lines (in bytes) from what it learns from.
_LINE_CHARACTERS = 1_000


class Tokenizer:
    """Byte-pair encoding with a byte for every character that has no piece.

    ``decode(encode(text)) == text`` for every text: newlines, runs of spaces, control characters.

    Parameters
    ----------
    model : bytes
        A serialised sentencepiece model that `train` made.

    Raises
    ------
    AESGTrainingError
        If sentencepiece is not installed, or the bytes are not a model.
    """

    def __init__(self, model: bytes) -> None:
        self._model = model
        try:
            self._pieces = _sentencepiece().SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise AESGTrainingError(
                f"expected a sentencepiece model, got {len(model)} bytes of something else"
            ) from error
        mark_bytes = _SPACE_MARK.encode()
        self._mark = [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in mark_bytes]

    @classmethod
    def train(cls, texts: Sequence[str], vocab_size: int = 4096) -> Tokenizer:
        """Learn the pieces of some texts.

        Parameters
        ----------
        texts : sequence of str
            The training text only: pieces learned from held-out text would leak it.
        vocab_size : int
            Most pieces to learn, at least 512; a small text may give fewer.

        Returns
        -------
        Tokenizer
            The same for the same texts.

        Raises
        ------
        AESGTrainingError
            If sentencepiece is not installed, or the texts are empty.
        """
        lines = list(_sample(texts))
        if not lines:
            raise AESGTrainingError("expected text to learn word pieces from, got only line ends")
        model = io.BytesIO()
        _sentencepiece().SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            # Everything that would change the text on the way is off.
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            user_defined_symbols=["\n"],
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
        return cls(model.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read a tokenizer that `save` wrote.

        Raises
        ------
        AESGTrainingError
            If the file cannot be read or holds no model.
        """
        try:
            return cls(Path(path).read_bytes())
        except OSError as error:
            raise AESGTrainingError(f"{path}: cannot be read: {error.strerror}") from error

    def save(self, path: str | Path) -> None:
        """Write the tokenizer to one file."""
        Path(path).write_bytes(self._model)

    @property
    def vocab_size(self) -> int:
        """Number of ids; they run from 0."""
        return int(self._pieces.get_piece_size())

    def encode(self, text: str) -> Tokens:
        """Return the ids of a text, (N,) int64."""
        ids: list[int] = []
        for number, part in enumerate(text.split(_SPACE_MARK)):
            if number:
                ids.extend(self._mark)
            ids.extend(self._pieces.encode(part))
        return np.asarray(ids, np.int64)

    def decode(self, ids: Sequence[int] | Tokens) -> str:
        """Return the text of ids; broken runs of bytes become U+FFFD."""
        return str(self._pieces.decode(np.asarray(ids, np.int64).tolist()))


def _sample(texts: Sequence[str]) -> Iterator[str]:
    """Yield every n-th line, so that a long text is seen from end to end."""
    step = 1 + sum(map(len, texts)) // _SAMPLE_CHARACTERS
    lines = (line for text in texts for line in _short_lines(text))
    for number, line in enumerate(lines):
        if number % step == 0:
            yield line


def _short_lines(text: str) -> Iterable[str]:
    for line in text.split("\n"):
        for start in range(0, len(line), _LINE_CHARACTERS):
            yield line[start : start + _LINE_CHARACTERS]


def _sentencepiece() -> ModuleType:
    try:
        import sentencepiece
    except ImportError as error:
        raise AESGTrainingError(
            "the demo's tokenizer needs sentencepiece, which is not installed; "
            'install it with: pip install "aesg[demo]"'
        ) from error
    return sentencepiece
