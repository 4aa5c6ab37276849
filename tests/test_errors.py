from __future__ import annotations

import copy
import errno
import pickle
from collections.abc import Callable, Iterator

import pytest

from aesg import errors
from aesg._seam import storage_errors
from aesg.errors import AESGConfigError, AESGError, AESGStorageError
from storage_backends.errors import StoreError

SUBSYSTEMS = {
    "AESGConfigError": "config",
    "AESGMemoryError": "memory",
    "AESGNavigationError": "navigation",
    "AESGTrainingError": "trainer",
    "AESGStorageError": "storage",
}
ERRORS: list[tuple[Callable[[str], AESGError], str]] = [
    (getattr(errors, name), subsystem) for name, subsystem in SUBSYSTEMS.items()
]


def subclasses(parent: type[StoreError]) -> Iterator[type[StoreError]]:
    for child in parent.__subclasses__():
        yield child
        yield from subclasses(child)


@pytest.mark.parametrize(("kind", "subsystem"), ERRORS)
def test_an_error_carries_its_message_and_its_subsystem(
    kind: Callable[[str], AESGError], subsystem: str
) -> None:
    error = kind("expected 3, got 4")
    assert isinstance(error, AESGError)
    assert (error.message, error.subsystem, str(error)) == (
        "expected 3, got 4",
        subsystem,
        "expected 3, got 4",
    )


def test_the_tree_has_no_other_branches() -> None:
    branches = AESGError.__subclasses__()  # those of other tests, too
    ours = {kind.__name__ for kind in branches if kind.__module__.startswith("aesg.")}
    assert ours == set(SUBSYSTEMS)


def test_the_tree_drawn_in_the_module_names_every_error() -> None:
    drawing = errors.__doc__ or ""
    assert all(name in drawing for name in ("AESGError", *SUBSYSTEMS))


def test_a_message_is_at_most_500_characters() -> None:
    assert AESGConfigError("x" * 500).message == "x" * 500
    assert AESGConfigError("x" * 501).message == "x" * 497 + "..."


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "error", [AESGError("m", "memory"), *(kind("m") for kind, _ in ERRORS)], ids=repr
)
def test_an_error_survives_pickle(error: AESGError, protocol: int) -> None:
    twin = pickle.loads(pickle.dumps(error, protocol))
    assert type(twin) is type(error)
    assert (twin.message, twin.subsystem, str(twin)) == (error.message, error.subsystem, str(error))


def test_an_error_survives_copy() -> None:
    twin = copy.deepcopy(AESGStorageError("m"))
    assert (twin.message, twin.subsystem, twin.args) == ("m", "storage", ("m",))


def test_every_store_error_becomes_a_storage_error() -> None:
    kinds: list[type[StoreError]] = [StoreError, *subclasses(StoreError)]
    assert len(kinds) > 5
    for kind in kinds:
        with pytest.raises(AESGStorageError) as caught, storage_errors("open memory './m'"):
            raise kind("expected schema 1, got 2")
        assert caught.value.message == "Failed to open memory './m': expected schema 1, got 2"
        assert isinstance(caught.value.__cause__, kind)


def test_an_error_of_the_operating_system_becomes_a_storage_error() -> None:
    with pytest.raises(AESGStorageError) as caught, storage_errors("save"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.message == "Failed to save: [Errno 28] No space left on device"


@pytest.mark.parametrize("kind", [ValueError, KeyError, KeyboardInterrupt])
def test_other_errors_pass_the_seam_unchanged(kind: type[BaseException]) -> None:
    with pytest.raises(kind), storage_errors("save"):
        raise kind("a mistake of ours")


def test_an_error_of_aesg_passes_the_seam_unchanged() -> None:
    error = AESGConfigError("m")
    with pytest.raises(AESGConfigError) as caught, storage_errors("save"):
        raise error
    assert caught.value is error


def test_the_seam_serves_as_a_decorator() -> None:
    @storage_errors("read the log")
    def read() -> None:
        raise StoreError("gone")

    for _ in range(2):
        with pytest.raises(AESGStorageError, match="Failed to read the log: gone"):
            read()
