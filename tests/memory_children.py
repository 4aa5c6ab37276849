"""Programs that tests run in processes of their own, see `memory_processes`.

Each gets a connection first. What it sends is compared in the test; an exception that leaves it
is raised there.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import itertools
import logging
import os
import pickle
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aesg import AESGDecoderLM, AESGMemory, AESGStorageError
from tests.memory_build import born, config, meet, opened, pattern, patterns


def main(connection: Connection, program: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Run a program."""
    try:
        program(connection, *arguments)
    except Exception as error:
        connection.send(error)
        raise
    finally:
        connection.close()


def hold(say: Connection, directory: str) -> None:
    """Open a memory for writing and keep it until told to close."""
    with opened(directory):
        say.send(os.getpid())
        say.recv()
    say.send("closed")


def look(say: Connection, directory: str) -> None:
    """Say what a memory holds."""
    with AESGMemory.open(directory) as memory:
        say.send((born(memory), memory.storage.edge_count, memory.provisional_count))


def follow(say: Connection, directory: str, query: Tensor) -> None:
    """Say what a reader retrieves, each time it is asked."""
    with AESGMemory.open(directory) as memory, contextlib.suppress(EOFError):
        while True:
            found = memory.retrieve(query)
            say.send((found.primary_concepts, memory.payloads(found.concept_ids)))
            say.recv()


def meet_once(say: Connection, directory: str, number: int) -> None:
    """Meet a pattern once, and close; say what there is."""
    with opened(directory) as memory:
        memory.retrieve(pattern(number))
        say.send((born(memory), memory.provisional_count))


def try_to_open(say: Connection, directory: str) -> None:
    """Say how opening for writing ends."""
    try:
        with opened(directory):
            say.send("opened")
    except AESGStorageError as error:
        say.send((error.subsystem, error.message))


def try_mode(say: Connection, directory: str) -> None:
    """Read, then ask for a writing mode each time it is told to."""
    with AESGMemory.open(directory) as memory:
        for _ in range(2):
            try:
                memory.set_mode("TRAIN")
                meet(memory, pattern(9))
                say.send((memory.mode.value, born(memory)))
            except AESGStorageError as error:
                say.send((memory.mode.value, error.message, len(memory.retrieve(pattern(0)).mask)))
                say.recv()


def remember_and_die(say: Connection, directory: str) -> None:
    """Say the ids that `remember` returned, and wait to be killed."""
    memory = opened(directory)
    ids = memory.remember(patterns(0, 1), [7, 8], ["seven", {"n": 8}])
    say.send(ids.tolist())
    say.recv()


def unpickle(say: Connection, pickled: bytes) -> None:
    """Say what a pickled module retrieves here."""
    module = pickle.loads(pickled)
    say.send(module.memory.retrieve(pattern(0)).primary_concepts)
    module.memory.close()


def load(say: Connection, path: str) -> None:
    """Say what a module saved with torch.save gives here."""
    model = torch.load(path, weights_only=False)
    model.eval()
    model.memory.set_mode("INFERENCE")
    say.send(model(torch.arange(8).reshape(1, 8)).tolist())
    say.send(born(model.memory))
    model.memory.close()


def leave_open(say: Connection, directory: str) -> None:
    """End with a memory open, as a script does that does not close it."""
    global left_open
    left_open = opened(directory)
    left_open.retrieve(pattern(0))
    atexit._run_exitfuncs()  # which the end of a child process, unlike others, leaves out


left_open: AESGMemory


class Holder(torch.nn.Module):
    """A module with a memory inside."""

    def __init__(self, memory: AESGMemory) -> None:
        super().__init__()
        self.memory = memory


class Remembered(Dataset[Tensor]):
    """Reads a memory in each item, and tries to write."""

    def __init__(self, memory: AESGMemory) -> None:
        self.memory = memory

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        meet(self.memory, pattern(12))
        written = self.memory.remember(pattern(13))
        self.memory.set_mode("TRAIN")
        self.memory.save()
        found = self.memory.retrieve(pattern(index % 2))
        return torch.tensor([found.primary_concepts[0], len(written), os.getpid()])


def load_data(say: Connection, directory: str, start: str) -> None:
    """Read a memory in data workers while this process writes it."""
    with opened(directory) as memory:
        ids = memory.remember(patterns(0, 1)).tolist()
        loader = DataLoader(
            Remembered(memory), batch_size=2, num_workers=2, multiprocessing_context=start
        )
        for batch in loader:
            meet(memory, pattern(5))
            memory.save()
            assert batch[:, 0].tolist() == ids
            assert batch[:, 1].tolist() == [0, 0]
            assert os.getpid() not in batch[:, 2].tolist()
        memory.save()
        say.send((born(memory), memory.provisional_count, memory.storage.verify()))


def fork(say: Connection, directory: str) -> None:
    """Fork with a memory open; the child reads, fails to write, and ends in every way."""
    memory = opened(directory)
    ids = memory.remember(patterns(0, 1)).tolist()
    memory.retrieve(pattern(2))
    for leave in (lambda: None, memory.close, lambda: memory.set_mode("TRAIN")):
        if pid := os.fork():
            assert os.waitpid(pid, 0)[1] == 0
            continue
        status = 1
        try:
            assert memory.retrieve(pattern(1)).primary_concepts == ids[::-1]
            meet(memory, pattern(3))
            memory.update_topology()
            memory.set_mode("INFERENCE")
            memory.set_mode("TRAIN")
            assert memory.remember(pattern(4)).tolist() == []
            memory.save()
            assert born(memory) == 2
            leave()
            status = 0
        finally:
            os._exit(status)
    meet(memory, pattern(2), times=2)
    memory.save()
    say.send((born(memory), memory.provisional_count, memory.storage.verify()))
    memory.close()


class _Notes(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def _refused(memory: AESGMemory) -> list[str]:
    """Return what is logged while a memory that may not write is told to remember, twice."""
    notes = _Notes()
    logging.getLogger("aesg.memory").addHandler(notes)
    for number in (3, 4):
        assert memory.remember(pattern(number)).tolist() == []
    return notes.said


class _Refused(Dataset[list[str]]):
    """One item: what `_refused` says of a memory."""

    def __init__(self, memory: AESGMemory) -> None:
        self.memory = memory

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> list[str]:
        return _refused(self.memory)


def in_data_worker(say: Connection, directory: str) -> None:
    """Say what a data worker logs that remembers."""
    with opened(directory) as memory:
        (said,) = DataLoader(_Refused(memory), batch_size=None, num_workers=1)
        say.send(said)


def in_forked_child(say: Connection, directory: str) -> None:
    """Say what a forked child logs that remembers."""
    with opened(directory) as memory:
        if not (pid := os.fork()):
            say.send(_refused(memory))
            os._exit(0)
        os.waitpid(pid, 0)


def move_and_end(say: Connection, directory: str, level: str) -> None:
    """Say what is logged at the end of a process whose memory was moved away."""
    global left_open
    left_open = opened(directory, log_level=level)
    left_open.retrieve(pattern(0))
    os.rename(directory, f"{directory}.moved")
    text = io.StringIO()
    logging.getLogger("aesg.memory").addHandler(logging.StreamHandler(text))
    atexit._run_exitfuncs()
    say.send(text.getvalue())


def fork_and_exit(say: Connection, directory: str) -> None:
    """Fork with a memory open; the child ends as an interpreter does."""
    memory = opened(directory)
    memory.remember(patterns(0, 1))
    memory.retrieve(pattern(2))
    if not (pid := os.fork()):
        assert len(memory.retrieve(pattern(0)).mask)
        raise SystemExit(0)
    os.waitpid(pid, 0)
    memory.remember(pattern(3))
    say.send(memory.provisional_count)
    memory.close()


def fill(say: Connection, directory: str) -> None:
    """Write until no room is left; then make room, and go on."""
    generator = torch.Generator().manual_seed(0)
    memory = opened(directory)
    written = memory.remember(patterns(0)).tolist()
    meet(memory, pattern(1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limits[1]))
    try:
        while True:
            written += memory.remember(torch.randn(64, 16, generator=generator)).tolist()
    except AESGStorageError as error:
        say.send((error.subsystem, error.message))
    meet(memory, patterns(2, 3))  # what comes meanwhile waits
    assert memory.retrieve(pattern(0)).primary_concepts[0] == written[0]
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    memory.save()
    expected = len(written) + memory.rates.born
    say.send((expected, born(memory), memory.storage.verify()))
    memory.remember(pattern(5))
    memory.close()
    say.send((expected + 1, len(written) + 1))


#: Parameters with which births are many and what was remembered is never pruned.
TRAINED = {"novelty_birth_threshold": 2, "survival_threshold_relevance": 0.0}


#: Parameters with which the graph is reorganized all the time.
EVOLVING = {
    "novelty_birth_threshold": 2,
    "novelty_explanation_threshold": 0.9,
    "merge_similarity_threshold": 0.75,
    "split_density_threshold": 6,
    "coactivation_threshold_create": 3,
    "survival_threshold_relevance": 0.0,
    "prune_confidence_threshold": 0.25,
    "consolidation_epoch_interval": 1,
    "region_detection_interval": 3,
    "max_events": 2000,
}


def train_forever(
    say: Connection, directory: str, seed: int, parameters: dict[str, Any] = TRAINED
) -> None:
    """Train a bare memory, saying what is durable each time that it says so."""
    generator = torch.Generator().manual_seed(seed)
    memory = opened(directory, **parameters)
    kinds = torch.randn(40, 16, generator=generator)
    kinds[:20, 0] += 4  # two groups, in which some are like one another
    kinds[20:, 1] += 4
    for step in itertools.count():
        chosen = kinds[torch.randint(40, (6,), generator=generator)]
        memory.retrieve(chosen + 0.05 * torch.randn(6, 16, generator=generator))
        memory.update_topology()
        if step % 3 == 0:
            key = torch.randn(16, generator=generator)
            ids = memory.remember(key, [step], [[seed, step]])
            say.send(("remembered", int(ids[0]), [seed, step]))
        if step % 4 == 0:
            memory.save()
            say.send(("saved", born(memory), provisional(memory)))


def provisional(memory: AESGMemory) -> list[int]:
    """Return the ids of the provisional concepts, by the only way in."""
    return sorted(memory._state.shortterm.entries["id"].tolist())


def train_and_save(say: Connection, directory: str, path: str) -> None:
    """Train a small model a little and save it whole."""
    torch.manual_seed(0)
    model = AESGDecoderLM.small(vocab_size=8, storage_dir=directory)
    model.memory.remember(torch.randn(20, 64), list(range(8)) * 2 + [0, 1, 2, 3])
    torch.save(model, path)
    model.eval()
    model.memory.set_mode("INFERENCE")
    say.send(model(torch.arange(8).reshape(1, 8)).tolist())
    model.memory.close()


def write_elsewhere(say: Connection, directory: str) -> None:
    """Write to a directory without the right to."""
    os.setgid(65534)
    os.setuid(65534)
    for make in (lambda: opened(directory), lambda: AESGMemory(Path(directory, "x"), config())):
        try:
            make()
            say.send("opened")
        except AESGStorageError as error:
            say.send((error.subsystem, error.message))


def resolve(say: Connection, directory: str, ids: list[int]) -> None:
    """Say what stands for concepts, and its payloads, each time it is asked."""
    with AESGMemory.open(directory) as memory, contextlib.suppress(EOFError):
        while True:
            say.send((memory.resolve(ids).tolist(), memory.payloads(ids)))
            say.recv()
