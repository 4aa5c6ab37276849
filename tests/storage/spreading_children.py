"""Programs that fork and are interrupted while activation spreads."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings

import faiss

from storage_backends.spreading import Spread, use
from storage_backends.spreading.dispatch import Name
from tests.storage.spreading_worlds import laid, random_queries, random_world

_FORKS = 20


def fork_while_spreading(name: Name) -> None:
    """Fork again and again while another thread spreads in several threads; spread in the child."""
    warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of just this
    faiss.omp_set_num_threads(3)
    graph = laid(random_world(300, 8), "in memory")
    asked, how = random_queries(graph.world, 300), Spread(3, 0.9, 1e-6)
    expected = graph.spread(asked, how, 5).slots.tolist()
    stop = threading.Event()

    def busy() -> None:
        with use(name):
            while not stop.is_set():
                graph.spread(asked, how, 5)

    thread = threading.Thread(target=busy)
    thread.start()
    statuses = []
    for _ in range(_FORKS):
        pid = os.fork()
        if not pid:
            signal.alarm(20)
            with use(name):
                os._exit(int(graph.spread(asked, how, 5).slots.tolist() != expected))
        statuses.append(os.waitpid(pid, 0)[1])
    stop.set()
    thread.join()
    assert statuses == [0] * _FORKS, statuses
    print("fine")


def interrupt_while_spreading() -> None:
    """Interrupt calls of the kernel at several moments, and let go of what it works on."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    faiss.omp_set_num_threads(3)
    interrupted = 0
    for attempt in range(12):
        graph = laid(random_world(300, 20, attempt), "in memory")
        asked, how = random_queries(graph.world, 2_000), Spread(12, 1.0, 1e-9)
        timer = threading.Timer(0.01 * attempt, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            with use("C"):
                graph.spread(asked, how, 5)
            timer.join()
        except KeyboardInterrupt:
            interrupted += 1
        del graph
    print("interrupted" if interrupted else "never interrupted")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
