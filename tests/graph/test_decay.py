"""Numbers that fade: their worth, and when they fall below a threshold."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from aesg.graph.decay import NEVER, decayed, epochs_until, later

SHARES = st.sampled_from([0.95, 0.99])


@given(held=st.floats(0, 1, width=32), kept=SHARES, threshold=st.floats(1e-30, 1))
def test_a_hint_is_never_late_and_at_most_one_epoch_early(
    held: float, kept: float, threshold: float
) -> None:
    number = np.array([held], np.float32)
    (hint,) = epochs_until(number, kept, threshold).tolist()
    before = decayed(number, kept, np.arange(max(hint, 1)))
    assert hint == 0 or (before >= np.float32(threshold)).all()
    assert decayed(number, kept, hint + 1)[0] < np.float32(threshold)


@given(held=st.floats(0, 1, width=32), threshold=st.sampled_from([0.0, -1.0, 1e-300]))
def test_nothing_falls_below_zero(held: float, threshold: float) -> None:
    assert epochs_until(np.array([held], np.float32), 0.95, threshold).tolist() == [NEVER]


def test_epochs_are_added_without_overflow() -> None:
    since = np.array([5, 5, 2**63 - 1, 2**64 - 1], np.uint64)
    more = np.array([3, NEVER, 1, 7], np.int64)
    assert later(since, more).tolist() == [8, NEVER, NEVER, NEVER]
