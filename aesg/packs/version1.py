"""Packs of version 1, which release 3.0 wrote.

A header of 56 bytes, big-endian: ``AESGPACK``, the version, the width, the numbers of nodes and
edges (each u32), the SHA-256 of all that follows. Then the nodes and the edges, little-endian and
without padding, as `earlier` lays them out. The name is that of the file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aesg._seam import storage_errors
from aesg.packs.columns import MOST_ROWS, MOST_WIDTH
from aesg.packs.earlier import EDGE_RECORD, Graph, RecordsIn, graph_of, node_record, pack_columns
from aesg.packs.pack import Pack, Provenance
from aesg.packs.validation import validate
from storage_backends.errors import StoreCorruptError
from storage_backends.progress import Progress, silent

MAGIC = b"AESGPACK"
VERSION = 1
HEADER = struct.Struct(">8sIIII32s")
#: What the provenance of such a pack says wrote it.
LIBRARY = "3.0"

_log = logging.getLogger("aesg.packs")
_BLOCK = 4 << 20


@dataclass(frozen=True)
class Header:
    """The header of a version-1 pack.

    Parameters
    ----------
    vector_dim, node_count, edge_count : int
    digest : bytes
        SHA-256 of all that follows, 32 bytes.
    """

    vector_dim: int
    node_count: int
    edge_count: int
    digest: bytes

    @property
    def nodes_size(self) -> int:
        """Bytes of the nodes."""
        return self.node_count * node_record(self.vector_dim).itemsize

    @property
    def file_size(self) -> int:
        """Bytes of the file."""
        return HEADER.size + self.nodes_size + self.edge_count * EDGE_RECORD.itemsize


def read_version1(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    vector_dim: int | None = None,
    progress: Progress = silent,
) -> Pack:
    """Read a version-1 pack.

    Its size and its hash are compared before anything else is read. What cannot be a concept or an
    edge is left out; the notes of the provenance say what it was.

    Parameters
    ----------
    path : path
    name : str, optional
        The name of the pack; that of the file, without its suffix, where None.
    vector_dim : int, optional
        The width that is expected.
    progress : callable
        Told of each step.

    Raises
    ------
    AESGStorageError
        If it is no version-1 pack, is damaged, or is of another width.
    """
    graph, pack = read_with_losses(path, name=name, vector_dim=vector_dim, progress=progress)
    for line in graph.told():
        _log.info("%s: %s", os.fspath(path), line)
    return pack


def read_with_losses(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    vector_dim: int | None = None,
    progress: Progress = silent,
) -> tuple[Graph, Pack]:
    """Do what `read_version1` does; the graph says what was left out and changed."""
    with storage_errors(f"read pack file '{os.fspath(path)}'"):
        with regular_file(path) as file:
            header = read_header(file)
            _require_hash(file, header, progress)
            if vector_dim not in (None, header.vector_dim):
                raise StoreCorruptError(
                    f"expected vector_dim {vector_dim}, got {header.vector_dim}"
                )
            graph = _graph(file, header, progress)
        pack = _as_pack(Path(path), name, header, graph)
        validate(pack.columns, pack.vector_dim)
        return graph, pack


def read_header(file: BinaryIO) -> Header:
    """Read the header of a version-1 pack, and compare the size of the file with it.

    Parameters
    ----------
    file : binary file
        At its beginning.

    Raises
    ------
    StoreCorruptError
        If there is none, or the file is not as long as it says.
    """
    content = file.read(HEADER.size)
    if len(content) < HEADER.size:
        raise StoreCorruptError(f"expected a header of {HEADER.size} bytes, got {len(content)}")
    magic, version, vector_dim, nodes, edges, digest = HEADER.unpack(content)
    if (magic, version) != (MAGIC, VERSION):
        raise StoreCorruptError(
            f"expected a pack of version {VERSION}, which begins with {MAGIC!r}, got {magic!r} and "
            f"version {version}"
        )
    if not 1 <= vector_dim <= MOST_WIDTH or max(nodes, edges) > MOST_ROWS:
        raise StoreCorruptError(
            f"expected a vector_dim from 1 to {MOST_WIDTH:,} and no more than {MOST_ROWS:,} nodes "
            f"and edges, got {vector_dim:,}, {nodes:,} and {edges:,}"
        )
    header = Header(vector_dim, nodes, edges, digest)
    size = os.fstat(file.fileno()).st_size
    if size != header.file_size:
        raise StoreCorruptError(
            f"expected {header.file_size:,} bytes for {nodes:,} nodes of width {vector_dim:,} and "
            f"{edges:,} edges, got {size:,}"
        )
    return header


@contextmanager
def regular_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file to be read for as long as the block runs.

    Raises
    ------
    StoreCorruptError
        If it is something else than a file, such as a pipe, which nobody waits for.
    """
    try:
        # Without O_NONBLOCK, to open a pipe waits for somebody to write to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError as error:
        raise StoreCorruptError(f"expected the path of a file ({error})") from error
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StoreCorruptError("expected a file, got something else")
        yield file


def _require_hash(file: BinaryIO, header: Header, progress: Progress) -> None:
    digest, buffer = hashlib.sha256(), bytearray(_BLOCK)
    done, total = HEADER.size, header.file_size
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        digest.update(memoryview(buffer)[:count])
        done += count
        progress("comparing the hash", done, total)
    if digest.digest() != header.digest:
        raise StoreCorruptError(
            f"expected the SHA-256 {header.digest.hex()}, got {digest.hexdigest()}: it is damaged"
        )


def _graph(file: BinaryIO, header: Header, progress: Progress) -> Graph:
    nodes = RecordsIn(file, HEADER.size, header.node_count, node_record(header.vector_dim))
    edges = RecordsIn(file, HEADER.size + header.nodes_size, header.edge_count, EDGE_RECORD)
    return graph_of(nodes, edges, progress)


def _as_pack(path: Path, name: str | None, header: Header, graph: Graph) -> Pack:
    columns = pack_columns(graph)
    for column in columns.values():
        column.flags.writeable = False
    modified = columns["modified"]
    provenance = Provenance(
        memory_uuid="",
        generation=0,
        created=int(modified.max()) if len(modified) else 0,
        library=LIBRARY,
        notes="\n".join(graph.told()),
    )
    return Pack(
        name=path.stem if name is None else name,
        vector_dim=header.vector_dim,
        columns=columns,
        provenance=provenance,
        digest=header.digest.hex(),
        path=path,
        version=VERSION,
    )
