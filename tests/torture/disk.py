"""A disk as a power cut may leave it: what was synced is kept, of the rest anything may be.

The rules are the least that POSIX promises. A file keeps what was written before its last fsync,
of later writes any sectors. A name is kept once its folder was synced; before that the changes of
a folder reach the disk in their order, and any number of them may be missing.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

from tests.torture.trace import Call

_SECTOR = 512

#: The content of a folder, as bytes by relative path; None stands for a folder.
Tree: TypeAlias = Mapping[str, "bytes | None"]


@dataclass
class File:
    """A file: what is safe, and what was written since the last sync.

    A write is its offset and its bytes, a change of length has no bytes.
    """

    safe: bytes = b""
    writes: list[tuple[int, bytes | None]] = field(default_factory=list)

    def all(self) -> bytes:
        """Return the content as a reader sees it."""
        return _apply(self.safe, self.writes)

    def some(self, chance: random.Random) -> bytes:
        """Return the content with each unsafe sector, or change of length, kept or lost."""
        kept = [part for write in self.writes for part in _sectors(*write) if chance.random() < 0.5]
        return _apply(self.safe, kept)

    def sync(self) -> None:
        """Make the content safe."""
        self.safe, self.writes = self.all(), []

    def sync_last_write(self) -> None:
        """Make the last write safe, and what earlier ones wrote in other places no safer."""
        offset, data = self.writes.pop()
        assert data is not None
        end = offset + len(data)
        self.safe = _apply(self.safe, [(offset, data)])
        self.writes = [part for write in self.writes for part in _outside(*write, offset, end)]


@dataclass
class Folder:
    """A folder: its safe entries, and the changes since the last sync.

    A change maps names to what they now name, None where they name nothing any more.
    """

    safe: dict[str, Node] = field(default_factory=dict)
    changes: list[Mapping[str, Node | None]] = field(default_factory=list)

    def entries(self, count: int | None = None) -> dict[str, Node]:
        """Return the entries with the first ``count`` unsafe changes, or with all."""
        found: dict[str, Node | None] = dict(self.safe)
        for change in self.changes[:count]:
            found |= change
        return {name: node for name, node in found.items() if node is not None}

    def sync(self) -> None:
        """Make the entries safe."""
        self.safe, self.changes = self.entries(), []


Node: TypeAlias = "File | Folder"


@dataclass
class _Opened:
    node: Node
    synced: bool  # each write is safe when it returns
    appends: bool
    position: int = 0


class Disk:
    """One folder of a disk, changed by the calls of a program.

    Parameters
    ----------
    root : Path
        The folder, empty at first; calls that concern other places are left out.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._top = Folder()
        self._opened: dict[int, _Opened] = {}

    def apply(self, call: Call) -> bool:
        """Do what a call did; return whether it may have changed anything."""
        if call.result < 0:
            return False
        name = call.name
        if name in ("open", "openat", "creat"):
            self._open(call)
            return "O_CREAT" in call.arguments or "O_TRUNC" in call.arguments
        if name in _ON_PATHS:
            self._change_names(call)
            return True
        opened = self._opened.get(_descriptor(call))
        if opened is not None:
            _ON_OPENED[name](self, opened, call)
        return opened is not None and name != "lseek"

    def written(self) -> Tree:
        """Return everything, as a kill leaves it."""
        return _tree(self._top, Folder.entries, File.all)

    def synced(self) -> Tree:
        """Return what was synced and nothing else."""
        return _tree(self._top, lambda folder: folder.entries(0), lambda file: file.safe)

    def torn(self, chance: random.Random) -> Tree:
        """Return what was synced, and of the rest what chance has left."""

        def entries(folder: Folder) -> dict[str, Node]:
            return folder.entries(chance.randint(0, len(folder.changes)))

        return _tree(self._top, entries, lambda file: file.some(chance))

    def _open(self, call: Call) -> None:
        self._opened.pop(call.result, None)
        (path,) = call.paths
        if not path.is_relative_to(self._root):
            return
        node = self._find(path)
        if node is None:
            node = File()
            self._folder_of(path).changes.append({path.name: node})
        elif "O_TRUNC" in call.arguments and isinstance(node, File):
            node.writes.append((0, None))
        synced = "O_DSYNC" in call.arguments or "O_SYNC" in call.arguments
        self._opened[call.result] = _Opened(node, synced, "O_APPEND" in call.arguments)

    def _change_names(self, call: Call) -> None:
        paths = [path for path in call.paths if path.is_relative_to(self._root)]
        if not paths or paths == [self._root]:
            return
        kind = call.name.removesuffix("at2").removesuffix("at")
        source, target = paths[0], paths[-1]
        change: dict[str, Node | None] = {target.name: None}
        if kind == "mkdir":
            change = {target.name: Folder()}
        elif kind in ("rename", "link"):
            change = {target.name: self._require(source)}
        if kind == "rename" and source.parent == target.parent:
            change[source.name] = None  # at once: one of the two names is always there
        elif kind == "rename":
            self._folder_of(source).changes.append({source.name: None})
        self._folder_of(target).changes.append(change)

    def _write(self, opened: _Opened, call: Call) -> None:
        self._put(opened, b"".join(call.texts)[: call.result], opened.position)
        opened.position += call.result

    def _write_at(self, opened: _Opened, call: Call) -> None:
        self._put(opened, b"".join(call.texts)[: call.result], call.numbers[-1])

    def _put(self, opened: _Opened, content: bytes, offset: int) -> None:
        assert isinstance(opened.node, File)
        where = len(opened.node.all()) if opened.appends else offset
        opened.node.writes.append((where, content))
        if opened.synced:
            opened.node.sync_last_write()

    def _copy(self, opened: _Opened, call: Call) -> None:
        numbers = call.numbers
        source = self._opened[numbers[1]]
        assert isinstance(source.node, File), "a copy from outside of the folder"
        start = numbers[2] if "[" in call.arguments else source.position
        self._put(opened, source.node.all()[start : start + call.result], opened.position)
        opened.position += call.result

    def _seek(self, opened: _Opened, call: Call) -> None:
        opened.position = call.result

    def _resize(self, opened: _Opened, call: Call) -> None:
        assert isinstance(opened.node, File)
        opened.node.writes.append((call.numbers[-1], None))

    def _allocate(self, opened: _Opened, call: Call) -> None:
        assert isinstance(opened.node, File)
        offset, length = call.numbers[-2:]
        opened.node.writes.append((max(offset + length, len(opened.node.all())), None))

    def _sync(self, opened: _Opened, call: Call) -> None:
        opened.node.sync()

    def _find(self, path: Path) -> Node | None:
        node: Node = self._top
        for part in path.relative_to(self._root).parts:
            entries = node.entries() if isinstance(node, Folder) else {}
            if part not in entries:
                return None
            node = entries[part]
        return node

    def _require(self, path: Path) -> Node:
        node = self._find(path)
        assert node is not None, f"{path} is used but was never made"
        return node

    def _folder_of(self, path: Path) -> Folder:
        folder = self._require(path.parent)
        assert isinstance(folder, Folder)
        return folder


_ON_PATHS = {"link", "linkat", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "rmdir"}
_ON_PATHS |= {"unlink", "unlinkat"}

_ON_OPENED: dict[str, Callable[[Disk, _Opened, Call], None]] = {
    "write": Disk._write,
    "writev": Disk._write,
    "pwrite64": Disk._write_at,
    "pwritev": Disk._write_at,
    "sendfile": Disk._copy,
    "lseek": Disk._seek,
    "ftruncate": Disk._resize,
    "fallocate": Disk._allocate,
    "fsync": Disk._sync,
    "fdatasync": Disk._sync,
}


def digest(tree: Tree) -> str:
    """Return what tells two trees apart."""
    total = hashlib.sha256()
    for path, content in sorted(tree.items()):
        total.update(f"{path}\0{-1 if content is None else len(content)}\0".encode())
        total.update(content or b"")
    return total.hexdigest()


def lay_out(tree: Tree, folder: Path) -> None:
    """Write a tree into a new folder."""
    folder.mkdir()
    for path, content in sorted(tree.items()):
        if content is None:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(content)


def _tree(
    top: Folder,
    entries: Callable[[Folder], Mapping[str, Node]],
    content: Callable[[File], bytes],
) -> Tree:
    found: dict[str, bytes | None] = {}

    def walk(folder: Folder, prefix: str) -> None:
        for name, node in sorted(entries(folder).items()):
            if isinstance(node, Folder):
                found[prefix + name] = None
                walk(node, f"{prefix}{name}/")
            else:
                found[prefix + name] = content(node)

    walk(top, "")
    return found


def _apply(content: bytes, writes: list[tuple[int, bytes | None]]) -> bytes:
    result = bytearray(content)
    for offset, data in writes:
        if len(result) < offset:
            result.extend(bytes(offset - len(result)))
        if data is None:
            del result[offset:]
        else:
            result[offset : offset + len(data)] = data
    return bytes(result)


def _sectors(offset: int, data: bytes | None) -> list[tuple[int, bytes | None]]:
    if data is None:
        return [(offset, None)]
    first = -offset % _SECTOR or _SECTOR
    cuts = [0, *range(first, len(data), _SECTOR), len(data)]
    return [(offset + a, data[a:b]) for a, b in pairwise(cuts)]


def _outside(
    offset: int, data: bytes | None, start: int, end: int
) -> list[tuple[int, bytes | None]]:
    """Return the parts of a write that lie before ``start`` or from ``end`` on."""
    if data is None:
        return [(offset, None)]
    before, after = data[: max(start - offset, 0)], data[max(end - offset, 0) :]
    parts = [(offset, before), (max(offset, end), after)]
    return [(where, part) for where, part in parts if part]


def _descriptor(call: Call) -> int:
    return int(call.arguments.split("<")[0].split(",")[0].split(")")[0])
