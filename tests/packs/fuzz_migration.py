"""Makes directories of release 3.0 that are not what they should be, and migrates them."""

from __future__ import annotations

import pickle
import pickletools
import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

import numpy as np
import torch

from aesg import AESGMemory, AESGStorageError
from aesg.migration import migrate
from storage_backends.examination import examine
from tests.earlier_build import edges_of, event, meta_of, nodes_of, some_pairs, write_directory
from tests.packs.fuzz import cut, flipped
from tests.packs.fuzz_parts import FLOATS, NUMBERS, ODD

#: The files of a directory, by name.
Files: TypeAlias = dict[str, bytes]

_NODES, _EDGES, _META, _LOG = "nodes.aesg", "edges.aesg", "meta.npy", "evolution.aesglog"
_WIDTH, _COUNT, _LINKS = 6, 20, 50


def sound(folder: Path) -> Files:
    """Return the files of a directory that release 3.0 could have written."""
    nodes = nodes_of(_COUNT, _WIDTH)
    edges = edges_of(nodes, some_pairs(_COUNT, _LINKS))
    events = [event(kind, kind, 7) for kind in range(6)]
    write_directory(folder, nodes, edges, events, room=30)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def damaged(random: Random, files: Files) -> Files:
    """Flip bits of a file, cut it off or lengthen it."""
    name = random.choice(sorted(files))
    mutator = random.choice((flipped, flipped, cut))
    return files | {name: mutator(random, [files[name] + bytes(57)])}


def missing(random: Random, files: Files) -> Files:
    """Leave a file out, empty it, or put another one in its place."""
    name, other = random.choice(sorted(files)), random.choice(sorted(files))
    changed = {key: content for key, content in files.items() if key != name}
    return random.choice((changed, changed | {name: b""}, changed | {name: files[other]}))


def records(random: Random, files: Files) -> Files:
    """Give nodes, edges and events odd numbers."""
    name = random.choice((_NODES, _EDGES, _LOG))
    content = bytearray(files[name])
    for _ in range(random.choice((1, 3, 20))):
        number = (random.choice(NUMBERS) & ((1 << 64) - 1)).to_bytes(8, "little")
        odd = random.choice((number, number[:4], np.float32(random.choice(FLOATS)).tobytes()))
        place = random.randrange(len(content) - 8)
        content[place : place + len(odd)] = odd
    return files | {name: bytes(content)}


def counts(random: Random, files: Files) -> Files:
    """Let the counts be others, or other things than counts."""
    said: dict[Any, Any] = dict(meta_of(_COUNT, _LINKS, _WIDTH, 30))
    for _ in range(random.choice((1, 1, 2))):
        said[random.choice(sorted(said))] = random.choice((*NUMBERS, *ODD))
    if random.random() < 0.2:
        said[random.choice(("", "more", "x" * 300))] = random.choice(NUMBERS)
    return files | {_META: _with_pickle(files, pickle.dumps(_array_of(said)))}


def instructions(random: Random, files: Files) -> Files:
    """Remove, repeat, exchange or insert instructions of the pickle."""
    start, pickled = _pickle_of(files)
    operations = list(pickletools.genops(pickled))
    ends = [place for _, _, place in operations if place is not None] + [len(pickled)]
    parts = [pickled[begin:end] for begin, end in pairwise(ends)]
    for _ in range(random.choice((1, 1, 2, 5, 30))):
        place = random.randrange(len(parts))
        parts[place : place + random.choice((0, 1))] = random.choice(
            ([], [random.choice(parts)], [_any_instruction(random)], [parts[place]] * 2)
        )
        parts = parts or [b"."]
    return files | {_META: start + b"".join(parts)}


def programs(random: Random, files: Files) -> Files:
    """Let the pickle be one that would do something if it were loaded."""
    start, _ = _pickle_of(files)
    nested: list[Any] = []
    for _ in range(random.choice((10, 200))):
        nested = [nested]
    program = random.choice(
        (
            b"cos\nsystem\n(S'touch migrated'\ntR.",
            b'cbuiltins\neval\n(S\'open("migrated", "w")\'\ntR.',
            b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0etouch migrated\x85R.",
            b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\ntR.",
            pickle.dumps(nested),
            pickle.dumps(random.choice((Path("x"), np.arange(4), {1: 2}, _array_of(nested)))),
            b"\x80\x04" + b"]" * 50_000 + b".",
            b"\x80\x04}" + b"\x94h\x00" * 10_000 + b".",
        )
    )
    return files | {_META: start + program}


def _any_instruction(random: Random) -> bytes:
    code = random.choice(pickletools.opcodes).code.encode("latin-1")
    argument = random.choice((b"", b"\0", b"\x01", b"\xff\xff\xff\xff", b"os\nsystem\n", b"1\n"))
    return code + argument


def _array_of(held: object) -> Any:
    array = np.empty((), object)
    array[()] = held
    return array


def _pickle_of(files: Files) -> tuple[bytes, bytes]:
    """Return what comes before the pickle of the counts, and the pickle."""
    end = files[_META].index(b"\n") + 1
    return files[_META][:end], files[_META][end:]


def _with_pickle(files: Files, pickled: bytes) -> bytes:
    return _pickle_of(files)[0] + pickled


#: The kinds of mutants, with what is done to a directory.
KINDS: Mapping[str, Callable[[Random, Files], Files]] = {
    f"migration: {mutator.__name__}": mutator
    for mutator in (damaged, missing, records, counts, instructions, programs)
}


def outcome(kind: str, seed: int, files: Files, folder: Path) -> str:
    """Migrate a mutant; return ``"refused"`` or ``"loaded"``, as `Judge.outcome` does."""
    old, new = folder / "old", folder / "new"
    for path in (old, new):
        shutil.rmtree(path, ignore_errors=True)
    old.mkdir()
    for name, content in KINDS[kind](Random(f"{kind} {seed}"), files).items():
        (old / name).write_bytes(content)
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    found = _migrated(old, new)
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    assert not Path("migrated").exists(), "a program was run"
    return found


def _migrated(old: Path, new: Path) -> str:
    try:
        report = migrate(old, new)
    except AESGStorageError as error:
        assert str(old) in str(error), error
        assert not new.exists() or not list(new.iterdir()), "something is left"
        return "refused"
    assert not examine(new).problems
    with closing(AESGMemory.open(new)) as memory:
        assert memory.storage.node_count == report.concepts
        found = memory.retrieve(torch.ones(2, memory.vector_dim))
        assert torch.isfinite(found.vectors).all() and torch.isfinite(found.weights).all()
    return "loaded"
