"""Properties that are computed when first asked for, without a lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

Result = TypeVar("Result")
_Own = TypeVar("_Own", bound="lazy[Any]")


class lazy(Generic[Result]):  # noqa: N801 - used as a decorator, like property
    """A property that is computed once and then kept in the object's ``__dict__``.

    Before Python 3.12 `functools.cached_property` computes under one lock for all objects of a
    class. A process forked while another thread holds it has a copy that nobody will release, and
    hangs. Here there is no lock: threads that ask at once may each compute the value, and all get
    the one that was kept first. So the value must depend on nothing that changes.

    Parameters
    ----------
    compute : callable
        The method that gives the value.
    """

    def __init__(self, compute: Callable[[Any], Result]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self: _Own, instance: None, owner: type) -> _Own: ...

    @overload
    def __get__(self, instance: object, owner: type) -> Result: ...

    def __get__(self, instance: object, owner: type) -> Any:
        if instance is None:
            return self
        return instance.__dict__.setdefault(self._name, self._compute(instance))
