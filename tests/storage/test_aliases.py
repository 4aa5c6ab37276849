"""Where chains of aliases end, against a walk along them."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from storage_backends.aliases import ends_of
from tests.storage.build import ids

CHAINS = st.dictionaries(st.integers(1, 12), st.integers(1, 12))


def walked(chains: dict[int, int], start: int) -> int:
    seen = set[int]()
    while start in chains:
        if start in seen:
            return 0
        seen.add(start)
        start = chains[start]
    return start


@given(CHAINS)
def test_every_chain_is_followed_to_its_end_and_no_circle_for_ever(chains: dict[int, int]) -> None:
    named = sorted(chains)
    found = ends_of(ids(*named), ids(*(chains[each] for each in named)))
    assert found.dtype == np.uint64
    assert found.tolist() == [walked(chains, each) for each in named]


def test_a_long_chain_is_followed_to_its_end() -> None:
    names = np.arange(1, 1001, dtype=np.uint64)
    assert set(ends_of(names, names + np.uint64(1)).tolist()) == {1001}
    assert set(ends_of(names, np.maximum(names, 2) - np.uint64(1)).tolist()) == {0}
