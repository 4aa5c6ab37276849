"""What the tests of this folder share: a process that forks to run programs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.torture.workers import Workers


@pytest.fixture(scope="session")
def forks() -> Iterator[Workers]:
    # Not above: what this imports, the conftest of tests.storage has rewritten first.
    from tests.torture.workers import workers

    with workers() as server:
        yield server
