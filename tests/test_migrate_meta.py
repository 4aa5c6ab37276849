"""``meta.npy`` of release 3.0 is read without unpickling it."""

from __future__ import annotations

import builtins
import os
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aesg.migration.meta import Meta, read_meta
from storage_backends.errors import StoreCorruptError
from tests.earlier_build import meta_of

GOOD = meta_of(3, 4, 8, 100)
HEADER = 128  # bytes before the pickle


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "meta.npy"


def saved(path: Path, content: Any) -> bytes:
    np.save(path, content)
    return path.read_bytes()


def refused(path: Path, reason: str) -> None:
    with pytest.raises(StoreCorruptError, match=reason):
        read_meta(path)


def test_the_numbers_are_those_that_numpy_saved(path: Path) -> None:
    saved(path, GOOD)
    assert read_meta(path) == Meta(**GOOD)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_any_protocol_that_numpy_has_used_is_read(path: Path, protocol: int) -> None:
    array = np.empty((), object)
    array[()] = GOOD
    header = saved(path, GOOD)[:HEADER]
    path.write_bytes(header + pickle.dumps(array, protocol=protocol))
    if protocol == 2:  # bytes are a call of a codec there; numpy for Python 3 has never used it
        refused(path, "the name '_codecs encode'")
    else:
        assert read_meta(path) == Meta(**GOOD)


def test_the_names_of_numpy_1_are_read(path: Path) -> None:
    content = saved(path, GOOD)
    assert b"numpy._core.multiarray" in content or b"numpy.core.multiarray" in content
    array = np.empty((), object)
    array[()] = GOOD
    pickled = pickle.dumps(array, protocol=3).replace(b"numpy._core.", b"numpy.core.")
    path.write_bytes(content[:HEADER] + pickled)
    assert read_meta(path) == Meta(**GOOD)


def test_large_numbers_are_read(path: Path) -> None:
    numbers = meta_of(2**31 + 5, 2**33, 300, 2**40)
    saved(path, numbers)
    assert read_meta(path) == Meta(**numbers)


class Calls:
    """Is pickled as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.made = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.made


def evil(touched: Path) -> list[Any]:
    write = f"open({str(touched)!r}, 'w').close()"
    return [
        Calls(os.system, f"touch {touched}"),
        Calls(builtins.exec, write),
        Calls(builtins.eval, write),
        Calls(os.mkdir, str(touched)),
        Calls(getattr, str(touched), "touch"),
        Calls(np.load, str(touched), None, True),
        Calls(np.fromfile, str(touched)),
        Calls(np.empty, (1 << 40,)),
    ]


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("nested", ["whole", "value", "key", "deep"])
def test_a_pickle_that_calls_anything_is_refused_and_calls_nothing(
    path: Path, tmp_path: Path, number: int, nested: str
) -> None:
    touched = tmp_path / "touched"
    call = evil(touched)[number]
    shapes: dict[str, Any] = {
        "whole": call,
        "value": {**GOOD, "more": call},
        "key": {**GOOD, (call,): 1},
        "deep": {**GOOD, "more": [[(call, {"a": call})]]},
    }
    content = np.empty((), object)
    content[()] = shapes[nested]
    saved(path, content)
    refused(path, "the name")
    assert not touched.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({**GOOD, "node_count": True}, "bool as 'node_count'"),
        ({**GOOD, "node_count": 1.5}, "BINFLOAT"),
        ({**GOOD, "node_count": -1}, "-1 as 'node_count'"),
        ({**GOOD, "node_count": 2**70}, "as 'node_count'"),
        ({**GOOD, "node_count": "3"}, "str as 'node_count'"),
        ({**GOOD, "node_count": [3]}, "list as 'node_count'"),
        ({**GOOD, "node_count": None}, "NoneType as 'node_count'"),
        ({**GOOD, 5: 5}, "something else than names"),
        ({**GOOD, "node_count": 101}, "counts within the capacities"),
        ({**GOOD, "edge_count": 501}, "counts within the capacities"),
        ({**GOOD, "vector_dim": 0}, "a width of 1 or more"),
        ({"node_count": 3}, "got none for"),
        ([GOOD], "one pickled object"),
        (np.zeros(3), "one pickled object"),
    ],
)
def test_another_content_is_refused(path: Path, content: Any, reason: str) -> None:
    saved(path, np.asarray(content))
    refused(path, reason)


def test_content_nested_without_end_is_refused_at_once(path: Path) -> None:
    layers: Any = []
    for _ in range(100):
        layers = [layers, layers]  # 2**100 lists, were they written out
    saved(path, np.asarray({**GOOD, "more": (layers,)}))
    refused(path, "tuple as 'more'")


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"\x80\x04.",
        b"\x80\x04}.",
        b"\x80\x04)R.",
        b"\x80\x04(((((u.",
        b"\x80\x04}]a.",
        b"\x80\x04h\x05.",
        b"\x80\x04\x93.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04r\xff\xff\xff\xffN.",  # a memo of four billion
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes beyond the end
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a frame beyond the end
        b"\x80\x04(" * 5000,
        b"\x80\x04" + b"]" * 60_000 + b".",
    ],
)
def test_what_is_no_pickle_of_numbers_is_refused(path: Path, pickled: bytes) -> None:
    path.write_bytes(saved(path, GOOD)[:HEADER] + pickled)
    refused(path, "expected a pickled dict of numbers, got")


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    content = saved(path, GOOD)
    for size in range(len(content)):
        path.write_bytes(content[:size])
        refused(path, "expected")


def test_a_file_with_any_byte_changed_is_numbers_or_refused(path: Path) -> None:
    content = saved(path, GOOD)
    read = 0
    for place in range(len(content)):
        for change in (1, 0xFF):
            spoiled = bytearray(content)
            spoiled[place] ^= change
            path.write_bytes(spoiled)
            try:
                found = read_meta(path)
            except StoreCorruptError:
                continue
            read += 1
            assert all(type(value) is int for value in vars(found).values())
    assert 0 < read < len(content)


def test_a_file_that_is_far_too_large_is_refused(path: Path) -> None:
    path.write_bytes(saved(path, GOOD) + bytes(1 << 17))
    refused(path, "one pickled object")


def test_the_pickle_is_what_this_numpy_writes(path: Path) -> None:
    names = {op.name for op, _, _ in pickletools.genops(saved(path, GOOD)[HEADER:])}
    assert {"REDUCE", "BUILD"} <= names
