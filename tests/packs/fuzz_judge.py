"""Does with a file what a user does with a pack, and says what came of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch

from aesg import AESGConfig, AESGMemory, AESGMemoryError, AESGStorageError
from aesg.packs import Pack, read_pack, validate, write_pack
from aesg.packs.cache import load
from storage_backends.examination import examine
from tests.pack_build import write_tiny
from tests.packs import fuzz, fuzz_version1

#: Widths of the memories that packs are attached to. Packs of more concepts, whose seed index would
#: take long, are only read.
WIDTHS, MOST_ATTACHED = (1, 4, 8), 30_000

#: The width of the widest memory there can be.
WIDEST = 8_192

#: Of so many packs that load, one is merged into a memory.
MERGED_OF = 20

#: All kinds of mutants.
KINDS: Mapping[str, fuzz.Mutator] = {
    **fuzz.KINDS,
    **fuzz_version1.KINDS,
    "large bombs": fuzz.large_bombs,
}

#: Payloads of the sound packs, by position.
_PAYLOADS = {0: b"\xa3abc", 1: b"\x81\xa1a\x01"}

#: Sound packs: numbers of concepts, widths, edges of each, and whether they have vector values.
_SOUND = (
    (2, 4, 1, False),
    (12, 4, 3, True),
    (30, 8, 5, True),
    (0, 4, 0, False),
    (200, 8, 4, False),
)


def sources(folder: Path) -> Mapping[int, Sequence[bytes]]:
    """Return sound packs by the version of their format; the same at each call."""
    folder.mkdir(exist_ok=True)
    packs = []
    for number, (concepts, width, edges, vectors) in enumerate(_SOUND):
        path = write_tiny(
            folder / f"{number}.aesgpack",
            name="sound" if number % 2 else "",
            vector_dim=width,
            concepts=concepts,
            edges_each=edges,
            vectors=vectors,
            payloads=_PAYLOADS if concepts else None,
        )
        packs.append(path.read_bytes())
    earlier = [fuzz_version1.sound(*sizes) for sizes in ((4, 5, 7), (8, 40, 100), (4, 0, 0))]
    return {1: earlier, 2: packs}


def mutant(kind: str, seed: int, packs: Mapping[int, Sequence[bytes]]) -> bytes:
    """Return one file that is not what it should be; the same for the same kind and seed."""
    version = 1 if kind in fuzz_version1.KINDS else 2
    return KINDS[kind](Random(f"{kind} {seed}"), packs[version])


class Judge:
    """Loads files into memories that have a few concepts of their own.

    Parameters
    ----------
    folder : Path
        Where the memories and the cache of packs are to be.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "pack.aesgpack"
        self._copy = folder / "copy.aesgpack"
        self._cache = Path(os.environ["AESG_CACHE"])
        self._merged_into = folder / "merged"
        self._memories, self._loaded = {}, 0
        for width in WIDTHS:
            memory = AESGMemory(folder / f"memory-{width}", AESGConfig(vector_dim=width))
            memory.remember(torch.randn(3, width, generator=torch.Generator().manual_seed(0)))
            self._memories[width] = memory.eval()

    def close(self) -> None:
        for memory in self._memories.values():
            memory.close()

    def outcome(self, content: bytes) -> str:
        """Return ``"refused"`` or ``"loaded"``; anything that must not be is an AssertionError.

        What else is raised, the product has raised.
        """
        self._path.write_bytes(content)
        shutil.rmtree(self._cache, ignore_errors=True)
        try:
            pack = self._load()
        except AESGStorageError as error:
            assert str(self._path) in str(error), error
            assert not any(memory.get_attached_packs() for memory in self._memories.values())
            # A sound pack for which there was no memory may lie there.
            assert not self._cached() or "fits into memory" in str(error), self._cached()
            return "refused"
        validate(pack.columns, pack.vector_dim)
        if pack.node_count <= MOST_ATTACHED:
            self._used(pack)
        return "loaded"

    def _load(self) -> Pack:
        """Load the file as a memory does, for one as wide as the pack."""
        try:
            return self._memories[WIDTHS[1]].load_pack(self._path)
        except AESGStorageError as error:
            if "vector_dim" not in str(error):
                raise
        return load(self._path)

    def _used(self, pack: Pack) -> None:
        if pack.vector_dim in self._memories:
            self._attached(self._memories[pack.vector_dim], pack)
        self._written_again(pack)
        self._loaded += 1
        if self._loaded % MERGED_OF == 0 and pack.vector_dim <= WIDEST:
            self._merged(pack)

    def _cached(self) -> list[str]:
        return [str(path) for path in self._cache.rglob("*") if path.is_file()]

    def _attached(self, memory: AESGMemory, pack: Pack) -> None:
        """Attach a pack, retrieve with it and detach it; nothing else must stay of it."""
        before = memory.storage.node_count
        memory.attach_pack(pack, priority=80)
        try:
            query = torch.ones(2, pack.vector_dim)
            found = memory.retrieve(query)
            assert torch.isfinite(found.vectors).all() and torch.isfinite(found.weights).all()
            memory.payloads(found.concept_ids[found.mask.numpy()])
            memory.explain(query[0])
        except AESGMemoryError as error:  # what payloads hold may be large
            assert "expected room" in str(error), error
        finally:
            memory.detach_pack(pack.name)
        assert not memory.get_attached_packs()
        assert memory.storage.node_count == before

    def _merged(self, pack: Pack) -> None:
        """Merge a pack into a memory that has a concept; what comes of it must be a sound one."""
        shutil.rmtree(self._merged_into, ignore_errors=True)
        config = AESGConfig(vector_dim=pack.vector_dim)
        with AESGMemory(self._merged_into, config) as memory:
            memory.remember(torch.ones(1, pack.vector_dim))
            report = memory.merge_pack(pack)
            assert report.added + report.merged == pack.node_count
            assert memory.storage.node_count == 1 + report.added
            memory.retrieve(torch.ones(2, pack.vector_dim))
            memory.update_topology()
            memory.export_pack(self._copy)
        read_pack(self._copy)
        self._copy.unlink()
        assert not examine(self._merged_into).problems

    def _written_again(self, pack: Pack) -> None:
        write_pack(
            self._copy,
            pack.columns,
            name="",
            vector_dim=pack.vector_dim,
            provenance=pack.provenance,
        )
        again = read_pack(self._copy)
        self._copy.unlink()
        assert set(again.columns) == set(pack.columns)
        for name, rows in pack.columns.items():
            assert np.array_equal(_bits(again.columns[name]), _bits(rows)), name


def _bits(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
