"""Program text that the tasks of the text models share, in word pieces."""

from __future__ import annotations

from functools import cache
from itertools import chain
from typing import Any

from aesg.demo.corpus import encode_documents, load_corpus
from aesg.demo.tokenizer import Tokenizer, Tokens
from aesg.demo.train import Batches, side_by_side

STREAMS, SEGMENT = 16, 32
_PIECES, _PER_DOCUMENT = 1_000, 4_000


@cache
def text(train_steps: int, heldout_steps: int) -> tuple[int, Batches, Batches]:
    """Return the size of the vocabulary, training batches, and those of other packages.

    Both are the standard library's source in reading order; targets are the next word pieces.
    """
    corpus = load_corpus()
    tokenizer = Tokenizer.train([each.text for each in corpus.train], _PIECES)

    def batches(documents: Any, steps: int) -> Batches:
        length = STREAMS * (SEGMENT * steps + 1)
        tokens = encode_documents(tokenizer, documents, length, per_document=_PER_DOCUMENT)
        return side_by_side(tokens, STREAMS, SEGMENT)

    return (
        tokenizer.vocab_size,
        batches(corpus.train, train_steps),
        batches(corpus.heldout, heldout_steps),
    )


@cache
def word_pieces(pieces: int, most: int) -> Tokens:
    """Return the standard library's source in reading order, in at most so many word pieces."""
    corpus = load_corpus()
    tokenizer = Tokenizer.train([each.text for each in corpus.train], pieces)
    documents = chain(corpus.train, corpus.heldout)
    return encode_documents(tokenizer, documents, most, per_document=_PER_DOCUMENT)
