"""The LMDB store answers as the reference store does, whatever the sequence of calls."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from storage_backends.lmdb_store import LMDBStore
from tests.storage.place import Opener
from tests.storage.stateful import StoreMachine

SHORT = settings(max_examples=30, stateful_step_count=15, deadline=None)
LONG = settings(max_examples=200, stateful_step_count=40, deadline=None)


class LMDBMachine(StoreMachine):
    def opener(self, folder: Path) -> Opener:
        return partial(LMDBStore.open, folder)


class ShortLogMachine(StoreMachine):
    log_length = 2

    def opener(self, folder: Path) -> Opener:
        return partial(LMDBStore.open, folder, log_length=self.log_length)


def test_the_store_agrees_with_the_reference() -> None:
    run_state_machine_as_test(LMDBMachine, settings=SHORT)


def test_a_store_with_a_short_log_says_what_it_no_longer_knows() -> None:
    run_state_machine_as_test(ShortLogMachine, settings=SHORT)


@pytest.mark.long
def test_the_store_agrees_with_the_reference_over_long_histories() -> None:
    run_state_machine_as_test(LMDBMachine, settings=LONG)
