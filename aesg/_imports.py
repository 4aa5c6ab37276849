"""Libraries that want torchvision, imported beside one that is broken."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import Distribution, PackageNotFoundError
from types import ModuleType
from typing import Any

#: What an installed package that does not fit raises when it is imported: torchvision built for
#: another torch a RuntimeError, one whose libraries are missing an OSError.
BROKEN = (ImportError, RuntimeError, OSError, AttributeError)


def imported(name: str) -> ModuleType:
    """Return a module of torchmetrics, or of Lightning, which imports that.

    Torchmetrics imports torchvision where it is installed, for metrics that are not used here, and
    cannot be imported where torchvision cannot. It is then imported as if there were none.

    Parameters
    ----------
    name : str
        For instance ``"torchmetrics.text"``.

    Raises
    ------
    ImportError, RuntimeError, OSError, AttributeError
        If it cannot be imported: one of `BROKEN`.
    """
    if name in sys.modules or _works("torchvision"):
        return import_module(name)
    if "torchmetrics" not in sys.modules:
        _forget("torchmetrics")  # what an import that failed before has left
    with hidden("torchvision"):
        return import_module(name)


@contextmanager
def hidden(package: str) -> Iterator[None]:
    """Let a package seem not to be installed for a block.

    Parameters
    ----------
    package : str
        The name of both the package and its distribution.
    """
    present = sys.modules.get(package)
    described = vars(Distribution)["from_name"]
    found = Distribution.from_name

    def from_name(name: str) -> Distribution:
        if name == package:
            raise PackageNotFoundError(name)
        return found(name)

    absent: Any = None  # importing it raises ModuleNotFoundError
    sys.modules[package] = absent
    setattr(Distribution, "from_name", staticmethod(from_name))  # noqa: B010
    try:
        yield
    finally:
        setattr(Distribution, "from_name", described)  # noqa: B010
        del sys.modules[package]
        if present is not None:
            sys.modules[package] = present


def _works(package: str) -> bool:
    """Tell whether a package can be imported, or is not there to be."""
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        return error.name == package
    except BROKEN:
        return False
    return True


def _forget(package: str) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            del sys.modules[name]
