"""BLEU and ROUGE: how many words two texts have in common."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from aesg.evaluation._library import library

#: The longest n-gram of BLEU.
_ORDER = 4

#: Chinese characters and the Japanese syllabaries, which are written without spaces.
_UNSPACED = re.compile(
    "([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"
)


class Overlap:
    """BLEU and ROUGE of texts whose words stand between spaces, over batches of any size.

    BLEU is that of the whole corpus (Papineni et al., "BLEU: a method for automatic evaluation of
    machine translation", 2002), without smoothing. Where no prediction has four words, only the
    n-grams count that the longest has.

    ROUGE is the recall of ROUGE-1 (Lin, "ROUGE: a package for automatic evaluation of summaries",
    2004): which part of a reference's words its prediction has, without upper case and
    punctuation, on average over the references that have words. In a reference without letters and
    digits, each symbol is a word.
    """

    def __init__(self) -> None:
        # N-grams of the predictions that their references have, and all.
        self._shared = [0] * _ORDER
        self._all = [0] * _ORDER
        self._predicted_words = 0
        self._reference_words = 0
        self._recalled = 0.0
        self._references = 0

    def update(self, predictions: Sequence[str], references: Sequence[str]) -> None:
        """Take in predictions and as many references."""
        for made, wanted in zip(predictions, references, strict=True):
            self._count(made.split(), wanted.split())
        pairs = [_bare(*pair) for pair in zip(predictions, references, strict=True)]
        self._recall([(made, wanted) for made, wanted in pairs if wanted.split()])

    def compute(self) -> dict[str, float]:
        """Return ``"bleu"`` and ``"rouge"``, both in [0, 1]; 0 without words."""
        return {
            "bleu": self._bleu(),
            "rouge": self._recalled / max(self._references, 1),
        }

    def _count(self, made: list[str], wanted: list[str]) -> None:
        # As torchmetrics counts, which takes 15 times as long, in float32: no more than 2 ** 24.
        for order in range(1, _ORDER + 1):
            predicted = Counter(_ngrams(made, order))
            self._shared[order - 1] += (predicted & Counter(_ngrams(wanted, order))).total()
            self._all[order - 1] += predicted.total()
        self._predicted_words += len(made)
        self._reference_words += len(wanted)

    def _bleu(self) -> float:
        order = sum(count > 0 for count in self._all)
        if not order:
            return 0.0
        bleu = library("torchmetrics.text").BLEUScore(order)
        bleu.update([], [])  # computing without an update warns
        bleu.numerator, bleu.denominator = (
            _sums(counts[:order]) for counts in (self._shared, self._all)
        )
        bleu.preds_len, bleu.target_len = _sums([self._predicted_words, self._reference_words])
        return float(bleu.compute())

    def _recall(self, pairs: Sequence[tuple[str, str]]) -> None:
        if not pairs:
            return
        scores = library("torchmetrics.functional.text").rouge_score(
            [made for made, _ in pairs],
            [[wanted] for _, wanted in pairs],
            rouge_keys="rouge1",
            normalizer=str,  # the default drops all but a-z and 0-9
            tokenizer=str.split,
        )
        self._recalled += float(scores["rouge1_recall"]) * len(pairs)
        self._references += len(pairs)


def _sums(counts: Sequence[int]) -> Tensor:
    return torch.tensor(counts, dtype=torch.double, device="cpu")


def _ngrams(words: Sequence[str], order: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(order)), strict=False)


def spaced(text: str) -> str:
    """Return a text in which characters that are words of their own stand between spaces."""
    return _UNSPACED.sub(r" \1 ", text)


def _bare(made: str, wanted: str) -> tuple[str, str]:
    """Return a prediction and its reference, of which only words are left.

    Letters with their marks, of any script, and digits stay: a word of Hindi is cut to pieces where
    only what ``str.isalnum`` accepts does. Where the reference has none, each symbol of both is a
    word.
    """
    if any(unicodedata.category(each)[0] in "LN" for each in wanted):
        return _only("LMN", made), _only("LMN", wanted)
    return " ".join(_only("PS", made)), " ".join(_only("PS", wanted))


def _only(kinds: str, text: str) -> str:
    """Return a text in lower case with spaces for characters of other kinds."""
    return "".join(
        each if unicodedata.category(each)[0] in kinds else " " for each in text.casefold()
    )
