"""Makes the assertions of the shared suite explain themselves; what spreads activation."""

import pytest

from storage_backends.spreading import kernel
from storage_backends.spreading.dispatch import Name

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


@pytest.fixture(params=["numpy", "C"])
def either(request: pytest.FixtureRequest) -> Name:
    """Give the name of one of the two after the other."""
    if request.param == "C" and kernel.why_not():
        pytest.skip(f"no kernel: {kernel.why_not()}")
    name: Name = request.param
    return name
