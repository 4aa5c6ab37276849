from __future__ import annotations

from importlib.metadata import version
from types import ModuleType

import aesg


def test_all_names_every_public_member_in_sorted_order() -> None:
    public = {
        name
        for name, member in vars(aesg).items()
        if not name.startswith("_") and not isinstance(member, ModuleType) and name != "annotations"
    }
    assert public
    assert list(aesg.__all__) == sorted(public | {"__version__"})


def test_every_exported_class_says_what_it_is() -> None:
    for name in aesg.__all__:
        member = getattr(aesg, name)
        assert isinstance(member, str) or member.__doc__, name


def test_errors_and_modes_are_public() -> None:
    assert {
        "AESGConfig",
        "AESGConfigError",
        "AESGError",
        "AESGMemoryError",
        "AESGNavigationError",
        "AESGStorageError",
        "AESGTrainingError",
        "MemoryMode",
    } <= set(aesg.__all__)


def test_the_version_is_that_of_the_package() -> None:
    assert aesg.__version__ == version("aesg")
