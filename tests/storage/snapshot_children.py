"""Programs about snapshots that tests run in processes of their own, see `processes`."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from storage_backends import snapshot
from storage_backends.errors import StoreCorruptError
from storage_backends.hnsw import HnswBase
from storage_backends.lmdb_store import LMDBStore
from storage_backends.manifest import Manifest, is_snapshot_file
from storage_backends.recovery import publish, recover, snapshot_problems
from storage_backends.view import View
from tests.storage.history import batch_of
from tests.storage.shown import shown

#: Holds the manifest of the snapshot that is damaged.
MANIFEST = "manifest"

_PAGE = 4096


def _say(text: object) -> None:
    print(text, flush=True)


def die_at_every_step(directory: str) -> None:
    """Replace a snapshot and die before the n-th system call, for every n; say what is found.

    Said are the generation of the snapshot that the next writer opens from, and the files that it
    removed.
    """
    template, memory = Path(directory) / "template", Path(directory) / "memory"
    assert _in_a_child(partial(_make, template)) == 0
    for step in itertools.count(1):
        shutil.copytree(template, memory)
        status = _in_a_child(partial(_replace_snapshot, memory, step))
        assert _in_a_child(partial(_examine, memory)) == 0
        shutil.rmtree(memory)
        if status == 0:
            return
        assert status == signal.SIGKILL


def _in_a_child(work: Callable[[], object]) -> int:
    """Return the status of a forked process that does some work."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def _make(memory: Path) -> None:
    """Make a memory with a snapshot, and one generation more."""
    with LMDBStore.open(memory) as store:
        store.commit(batch_of(1))
        view = View.of(store.load())
        publish(store, replace(view, base=HnswBase.build(view.keys)), None)
        store.commit(batch_of(2))


def _replace_snapshot(memory: Path, step: int) -> None:
    with LMDBStore.open(memory) as store:
        view = View.of(store.load())
        view = replace(view, base=HnswBase.build(view.keys))
        _die_at_call(step)
        publish(store, view, None)
        sys.setprofile(None)


def _examine(memory: Path) -> None:
    with LMDBStore.open(memory) as store:
        files = set(os.listdir(store.folder))
        found = recover(store)
        removed = files - set(os.listdir(store.folder))
        assert found.footing is not None
        assert not snapshot_problems(store)
        assert shown(found.view) == shown(View.of(store.load()))
        manifest = found.footing.manifest
        left = {name for name in os.listdir(store.folder) if is_snapshot_file(name)}
        assert left == {record.name for record in manifest.files}
        _say(f"{manifest.generation} {len(removed)}")


def _die_at_call(step: int) -> None:
    """Let this process be killed before its n-th call of the operating system.

    Writes are not counted: a file that is partly written is no other than one that is not synced.
    """
    calls = itertools.count(1)

    def watch(frame: FrameType, event: str, called: Any) -> None:
        counts = event == "c_call" and called.__module__ in ("posix", "_io")
        if counts and called.__name__ != "write" and next(calls) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)


def open_mutated(directory: str, name: str, times: str) -> None:
    """Damage a file of a snapshot in many ways, and say in how many of them it was opened.

    Damage is always found by whoever reads all, and whoever opens without is told or gets a view.
    """
    folder = Path(directory)
    manifest = Manifest.decode((folder / MANIFEST).read_bytes())
    content = (folder / name).read_bytes()
    opened = 0
    for seed in range(int(times)):
        damaged = _mutated(content, random.Random(seed))
        (folder / name).write_bytes(damaged)
        problems = snapshot.find_problems(folder, manifest)
        assert [problem.key for problem in problems] == ([name] if damaged != content else []), seed
        try:
            snapshot.open_view(folder, manifest, {})
            opened += 1
        except StoreCorruptError:
            pass
    _say(opened)


def _mutated(content: bytes, rng: random.Random) -> bytes:
    changes: list[Callable[[bytearray, int, random.Random], object]] = [
        _flip_a_bit,
        _zero_a_page,
        _cut,
        _lengthen,
        _repeat_a_page,
        _overwrite,
        _set_a_number,
    ]
    damaged = bytearray(content)
    # Half of the damage hits the start, where headers are.
    limit = len(content) if rng.random() < 0.5 else min(len(content), 512)
    rng.choice(changes)(damaged, rng.randrange(limit), rng)
    return bytes(damaged)


def _flip_a_bit(content: bytearray, place: int, rng: random.Random) -> None:
    content[place] ^= 1 << rng.randrange(8)


def _zero_a_page(content: bytearray, place: int, rng: random.Random) -> None:
    begin = place // _PAGE * _PAGE
    page = content[begin : begin + _PAGE]
    content[begin : begin + len(page)] = bytes(len(page))


def _cut(content: bytearray, place: int, rng: random.Random) -> None:
    del content[place:]


def _lengthen(content: bytearray, place: int, rng: random.Random) -> None:
    content += rng.randbytes(place % (3 * _PAGE) + 1)


def _repeat_a_page(content: bytearray, place: int, rng: random.Random) -> None:
    begin, other = (at // _PAGE * _PAGE for at in (place, rng.randrange(len(content))))
    size = min(_PAGE, len(content) - max(begin, other))
    content[begin : begin + size] = content[other : other + size]


def _overwrite(content: bytearray, place: int, rng: random.Random) -> None:
    junk = rng.randbytes(min(rng.randrange(1, 100), len(content) - place))
    content[place : place + len(junk)] = junk


def _set_a_number(content: bytearray, place: int, rng: random.Random) -> None:
    place = min(place // 4 * 4, len(content) - 8)
    number = rng.choice([-1, 0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, -(2**63)])
    content[place : place + 8] = number.to_bytes(8, "little", signed=number < 0)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
