"""Makes the assertions of the shared suite explain themselves."""

import pytest

pytest.register_assert_rewrite(
    "tests.storage.picture",
    "tests.storage.place",
    "tests.storage.contract",
    "tests.storage.contract_changes",
    "tests.storage.contract_handles",
    "tests.storage.contract_reads",
    "tests.storage.contract_refusals",
    "tests.storage.contract_snapshots",
    "tests.storage.contract_writes",
    "tests.storage.stateful",
)
