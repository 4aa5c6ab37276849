"""Programs that the tests of the cache of packs run in processes of their own."""

from __future__ import annotations

import itertools
import mmap
import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from aesg.packs import Pack, cache, read_pack
from aesg.packs.graph import view_of
from storage_backends.housekeeping import built
from tests.failing_calls import at_call, die

#: Of concepts, from which on a pack has a seed index in these tests.
FEW = 10


def map_all() -> None:
    """Let every pack be mapped, and have a seed index if it has more than a few concepts."""
    patch.multiple(cache, MAPPED_FROM=0, EXACT_BELOW=FEW).start()


def holder_of(rows: NDArray[Any]) -> object:
    """Return what the memory of an array belongs to."""
    held: Any = rows
    while isinstance(held, np.ndarray):
        held = held.base
    return held


def found_in(pack: Pack) -> list[int]:
    """Return the positions that a search for each key of a pack finds first."""
    view = view_of(pack)
    slots, _ = view.index.search(np.ascontiguousarray(view.keys.whole()), 1)
    found: list[int] = slots[:, 0].tolist()
    return found


def die_at_calls(say: Connection, path: str, folder: str, first: int, stride: int) -> None:
    """Prepare a pack and die before the n-th call; prepare it again, and check what there is.

    For n of a stride, until no call is the n-th. Each n is said.
    """
    map_all()
    for number in itertools.count(first, stride):
        os.environ["AESG_CACHE"] = str(Path(folder, str(number)))
        ended = _forked(_prepare_until, path, number) == 0
        assert _forked(_require_whole, path) == 0
        say.send(number)
        if ended:
            return


def _prepare_until(path: str, number: int) -> None:
    with at_call(number, die):
        cache.indexed(cache.load(path))


def _require_whole(path: str) -> None:
    plain = read_pack(path)
    pack = cache.indexed(cache.load(path))
    assert all(np.array_equal(pack.columns[name], rows) for name, rows in plain.columns.items())
    assert view_of(pack).base is not None
    assert found_in(pack) == found_in(plain)
    left = [each.name for each in Path(os.environ["AESG_CACHE"]).rglob("*.new")]
    assert not left, left


def _forked(run: Callable[..., None], *arguments: Any) -> int:
    """Return the exit code of a child that runs this."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run(*arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def load_watching_memory(say: Connection, path: str) -> None:
    """Say how long the columns of a pack are, and how much memory loading them takes at most."""
    map_all()
    before = _anonymous()
    most = [before]
    pack = cache.load(path, progress=lambda *step: most.append(_anonymous()))
    most.append(_anonymous())
    say.send((sum(rows.nbytes for rows in pack.columns.values()), max(most) - before))


def _anonymous() -> int:
    """Return the bytes that this process holds and no file does."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def prepare_at_once(say: Connection, path: str, count: int) -> None:
    """Let some processes prepare one pack at the same time; say what each did and found."""
    map_all()
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(count), context.SimpleQueue()

    def prepare() -> None:
        barrier.wait()
        with patch.object(cache, "built", wraps=built) as build:
            pack = cache.indexed(cache.load(path))
        results.put(
            (
                build.call_count,
                isinstance(holder_of(pack.columns["keys"]), mmap.mmap),
                found_in(pack),
            )
        )

    children = [context.Process(target=prepare) for _ in range(count)]
    for child in children:
        child.start()
    say.send([results.get() for _ in children])
    for child in children:
        child.join()


def search_after_fork(say: Connection, path: str) -> None:
    """Map a pack, search in it, and say what this process and a fork of it find."""
    map_all()
    pack = cache.indexed(cache.load(path))
    here = found_in(pack)
    say.send((here, _forked(_require_found, pack, here)))


def _require_found(pack: Pack, expected: list[int]) -> None:
    assert found_in(pack) == expected
