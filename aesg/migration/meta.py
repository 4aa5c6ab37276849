"""Reads ``meta.npy`` of release 3.0: a pickled dict of numbers in numpy's array format.

To unpickle is to run a program that the file contains. Here the few instructions that a dict of
numbers takes are followed by hand, over plain data: nothing is imported, looked up or called,
whatever the file asks for.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aesg.packs.version1 import regular_file
from storage_backends.errors import StoreCorruptError

#: The file, as ``numpy.save`` writes one object: what comes before the pickle.
_START = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '\|O', 'fortran_order': (?:False|True), 'shape': \(\), \} *\n",
    re.DOTALL,
)
#: It has a few hundred bytes.
_MOST_BYTES = 1 << 16

#: What numpy's pickle of an array names: remembered as text, and never looked up.
_NAMES = {
    "numpy.core.multiarray _reconstruct",
    "numpy._core.multiarray _reconstruct",
    "numpy ndarray",
    "numpy dtype",
}
_COUNTS = ("node_count", "edge_count", "vector_dim", "cap_nodes", "cap_edges")


@dataclass(frozen=True)
class Meta:
    """What ``meta.npy`` holds.

    Parameters
    ----------
    node_count, edge_count : int
        Records that count, 0 or more.
    vector_dim : int
        1 or more.
    cap_nodes, cap_edges : int
        Records that there is room for.
    """

    node_count: int
    edge_count: int
    vector_dim: int
    cap_nodes: int
    cap_edges: int


def read_meta(path: Path) -> Meta:
    """Read the numbers.

    Raises
    ------
    StoreCorruptError
        If the file holds anything else.
    """
    with regular_file(path) as file:
        content = file.read(_MOST_BYTES + 1)
    start = _START.match(content)
    if start is None or len(content) > _MOST_BYTES:
        raise StoreCorruptError(f"{path}: expected one pickled object as numpy saves it, got less")
    try:
        found = _numbers(_Pickle().follow(content[start.end() :]))
    except (ValueError, IndexError, KeyError) as error:
        raise StoreCorruptError(
            f"{path}: expected a pickled dict of numbers, got {error}"
        ) from error
    return _checked(path, found)


def _checked(path: Path, found: Mapping[str, int]) -> Meta:
    missing = [name for name in _COUNTS if name not in found]
    if missing:
        raise StoreCorruptError(f"{path}: expected {list(_COUNTS)}, got none for {missing}")
    meta = Meta(**{name: found[name] for name in _COUNTS})
    if meta.vector_dim < 1 or meta.node_count > meta.cap_nodes or meta.edge_count > meta.cap_edges:
        raise StoreCorruptError(
            f"{path}: expected a width of 1 or more and counts within the capacities, got {meta}"
        )
    return meta


@dataclass
class _Made:
    """What a pickle asks to be made; it is not."""

    name: str
    state: Any = None


def _numbers(made: Any) -> dict[str, int]:
    """Return the dict that an array of one object was to hold."""
    state = made.state if isinstance(made, _Made) else None
    content = state[4] if isinstance(state, tuple) and len(state) == 5 else None
    held = content[0] if isinstance(content, list) and len(content) == 1 else None
    if not isinstance(held, dict):
        raise ValueError("no array of one dict")
    for name, value in held.items():
        if type(value) is not int or not 0 <= value < 2**63:  # True is an int to Python
            shown = value if type(value) is int else type(value).__name__  # it may be nested
            raise ValueError(f"{shown} as {name[:40]!r}")
    return held


class _Pickle:
    """A pickle that is followed as far as a dict of numbers goes."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def follow(self, content: bytes) -> Any:
        """Return what a pickle comes to.

        Raises
        ------
        ValueError, IndexError, KeyError
            If it is none, or has an instruction that a dict of numbers does not take.
        """
        for opcode, argument, _ in pickletools.genops(content):
            name = opcode.name
            if name in _FOLLOWED:
                _FOLLOWED[name](self, argument)
            elif name in _LITERALS:
                self._stack.append(argument)
            elif name not in ("PROTO", "FRAME", "STOP"):
                raise ValueError(f"the instruction {name}")
        return self._stack.pop()

    def _marked(self) -> list[Any]:
        begin = self._marks.pop()
        items, self._stack[begin:] = self._stack[begin:], []
        return items

    def _last(self, count: int) -> list[Any]:
        self._marks.append(len(self._stack) - count)
        if len(self._stack) < count:
            raise ValueError(f"fewer than {count} things to put together")
        return self._marked()

    def mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def push(self, thing: Any) -> None:
        self._stack.append(thing)

    def tuple(self, items: list[Any]) -> None:
        self._stack.append(tuple(items))

    def memoize(self, place: int | None) -> None:
        self._memo[len(self._memo) if place is None else place] = self._stack[-1]

    def recall(self, place: int) -> None:
        self._stack.append(self._memo[place])

    def name(self, text: str) -> None:
        if text not in _NAMES:
            raise ValueError(f"the name {text[:80]!r}")
        self._stack.append(_Made(text))

    def name_on_stack(self, _: Any) -> None:
        parts = self._last(2)
        if not all(isinstance(part, str) for part in parts):
            raise ValueError("a name that is no text")
        self.name(" ".join(parts))

    def call(self, _: Any) -> None:
        called, arguments = self._last(2)
        if not isinstance(called, _Made) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is not numpy's")
        self._stack.append(_Made(called.name))

    def build(self, _: Any) -> None:
        made, state = self._last(2)
        if not isinstance(made, _Made):
            raise ValueError("a state of something that is not numpy's")
        made.state = state
        self._stack.append(made)

    def append(self, items: list[Any]) -> None:
        into = self._stack[-1]
        if not isinstance(into, list):
            raise ValueError("something else to append to than a list")
        into += items

    def set_items(self, items: list[Any]) -> None:
        into, names, values = self._stack[-1], items[::2], items[1::2]
        if not isinstance(into, dict) or not all(isinstance(name, str) for name in names):
            raise ValueError("something else than names in a dict")
        into.update(zip(names, values, strict=True))


#: Instructions that give what stands behind them.
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG"),
    *("SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES", "SHORT_BINSTRING"),
}

_FOLLOWED: Mapping[str, Callable[[_Pickle, Any], None]] = {
    "NONE": lambda pickle, _: pickle.push(None),
    "NEWTRUE": lambda pickle, _: pickle.push(True),
    "NEWFALSE": lambda pickle, _: pickle.push(False),
    "EMPTY_TUPLE": lambda pickle, _: pickle.push(()),
    "EMPTY_LIST": lambda pickle, _: pickle.push([]),
    "EMPTY_DICT": lambda pickle, _: pickle.push({}),
    "TUPLE": lambda pickle, _: pickle.tuple(pickle._marked()),
    "TUPLE1": lambda pickle, _: pickle.tuple(pickle._last(1)),
    "TUPLE2": lambda pickle, _: pickle.tuple(pickle._last(2)),
    "TUPLE3": lambda pickle, _: pickle.tuple(pickle._last(3)),
    "APPEND": lambda pickle, _: pickle.append(pickle._last(1)),
    "APPENDS": lambda pickle, _: pickle.append(pickle._marked()),
    "SETITEM": lambda pickle, _: pickle.set_items(pickle._last(2)),
    "SETITEMS": lambda pickle, _: pickle.set_items(pickle._marked()),
    "MARK": _Pickle.mark,
    "MEMOIZE": _Pickle.memoize,
    "BINPUT": _Pickle.memoize,
    "LONG_BINPUT": _Pickle.memoize,
    "BINGET": _Pickle.recall,
    "LONG_BINGET": _Pickle.recall,
    "GLOBAL": _Pickle.name,
    "STACK_GLOBAL": _Pickle.name_on_stack,
    "REDUCE": _Pickle.call,
    "BUILD": _Pickle.build,
}
