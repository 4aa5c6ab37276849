"""A Kneser-Ney model of word pieces that can go on learning, the rival that is no network."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from aesg.demo.tokenizer import Tokens

_DISCOUNT = 0.75


class KneserNey:
    """Interpolated Kneser-Ney with one discount (Chen and Goodman, 1999, section 2.7).

    A lower order counts in how many contexts a word was met, not how often. So an n-gram hands
    down what it is told once, when it is new (Teh, 2006, "A hierarchical Bayesian language
    model", section 4), and the model can learn while it reads.

    Parameters
    ----------
    vocab_size : int
        Tokens ``V``.
    order : int
        Longest n-gram.
    """

    def __init__(self, vocab_size: int, order: int = 4) -> None:
        self.vocab_size = vocab_size
        self.order = order
        self._count: defaultdict[tuple[int, ...], int] = defaultdict(int)
        self._total: defaultdict[tuple[int, ...], int] = defaultdict(int)
        self._kinds: defaultdict[tuple[int, ...], int] = defaultdict(int)

    def learn(self, tokens: Sequence[int] | Tokens, start: int = 0) -> None:
        """Take in the n-grams that end at ``start`` or later.

        Parameters
        ----------
        tokens : (N,) integers
        start : int
            What comes before is context.
        """
        ids = [int(token) for token in tokens]
        for place in range(start, len(ids)):
            gram = tuple(ids[max(0, place + 1 - self.order) : place + 1])
            while gram:
                context = gram[:-1]
                self._total[context] += 1
                self._count[gram] += 1
                if self._count[gram] > 1:
                    break
                self._kinds[context] += 1
                gram = gram[1:]

    def log_prob(self, context: Sequence[int], token: int) -> float:
        """Return the log-probability of a token after its context, of which the end counts."""
        longest = tuple(context)[-(self.order - 1) :]
        probability = 1 / self.vocab_size
        for length in range(len(longest) + 1):
            before = longest[len(longest) - length :]
            total = self._total.get(before, 0)
            if not total:
                break
            held = max(self._count.get((*before, token), 0) - _DISCOUNT, 0)
            probability = (held + _DISCOUNT * self._kinds[before] * probability) / total
        return math.log(probability)
