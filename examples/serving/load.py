"""Clients that ask the readers for the newest editions, all the time, and note what they get."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import TracebackType

import httpx

from examples.serving.editions import ROWS, keys_of, rows_shown

CLIENTS_PER_READER = 2
#: Editions that may be the newest: the last that was acknowledged, and two that may be on the way.
NEWEST = 3
_TIMEOUT_SECONDS = 10.0
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Reply:
    """What became of one request.

    Parameters
    ----------
    sent, received : float
        Moments on the monotonic clock, in seconds.
    shown : mapping
        For each edition that was asked for the rows that were found. The last `NEWEST` may be the
        newest; what is before them is long acknowledged. Empty where the request failed.
    error : str
        Why it failed; empty where it did not.
    again : Reply or None
        What the same question led to right after, where a part of an edition was found.
    """

    sent: float
    received: float
    shown: Mapping[int, frozenset[int]] = field(default_factory=dict)
    error: str = ""
    again: Reply | None = None

    @property
    def newest(self) -> int:
        """The newest edition of which anything was found; 0 if nothing was."""
        return max((edition for edition, rows in self.shown.items() if rows), default=0)

    @property
    def partial(self) -> list[int]:
        """Editions of which some rows were found and others not."""
        return [edition for edition, rows in self.shown.items() if 0 < len(rows) < ROWS]


class Client(threading.Thread):
    """Asks one reader, one request after the other, until told to stop.

    Parameters
    ----------
    reader : int
        Number of the reader.
    url : str
        Where it listens.
    newest : callable
        Returns the newest edition that is known to be acknowledged.
    held : int
        Editions before that one which are not pruned.
    stop : threading.Event
    """

    def __init__(
        self, reader: int, url: str, newest: Callable[[], int], held: int, stop: threading.Event
    ) -> None:
        super().__init__(name=f"client-{reader}", daemon=True)
        self.reader = reader
        self.replies: list[Reply] = []
        self._url, self._newest, self._held = url, newest, held
        self._stop_asking = stop

    def run(self) -> None:
        """Ask until told to stop."""
        chance = random.Random(self.reader)
        with httpx.Client(base_url=self._url, timeout=_TIMEOUT_SECONDS) as http:
            while not self._stop_asking.wait(_PAUSE_SECONDS):
                self.replies.append(ask(http, chosen(self._newest(), self._held, chance)))


class Load:
    """All clients of all readers, at work while the block runs.

    Parameters
    ----------
    urls : sequence of str
        Of the readers.
    newest, held
        As for `Client`.
    """

    def __init__(self, urls: Sequence[str], newest: Callable[[], int], held: int) -> None:
        self._stop = threading.Event()
        self.clients = [
            Client(reader, url, newest, held, self._stop)
            for reader, url in enumerate(urls, start=1)
            for _ in range(CLIENTS_PER_READER)
        ]

    def __enter__(self) -> Load:
        for client in self.clients:
            client.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for client in self.clients:
            client.join()


def chosen(newest: int, held: int, chance: random.Random) -> list[int]:
    """Return the editions to ask for: an older one, if there is one, and the newest."""
    older = range(max(1, newest - held), newest)
    return [*chance.sample(older, min(1, len(older))), *range(newest, newest + NEWEST)]


def ask(http: httpx.Client, editions: Sequence[int]) -> Reply:
    """Ask for editions in one request, and once more where a part of one is found."""
    first = _ask_once(http, editions)
    return replace(first, again=_ask_once(http, editions)) if first.partial else first


def _ask_once(http: httpx.Client, editions: Sequence[int]) -> Reply:
    question = f'{{"queries": [{", ".join(map(_queries, editions))}], "top_k": 1}}'
    headers = {"Content-Type": "application/json"}
    sent = time.monotonic()
    try:
        response = http.post("/retrieve", content=question, headers=headers)
        received = time.monotonic()
        response.raise_for_status()
        found = response.json()["concepts"]
        parts = {
            edition: rows_shown(edition, found[ROWS * place : ROWS * (place + 1)])
            for place, edition in enumerate(editions)
        }
        return Reply(sent, received, parts)
    except (httpx.HTTPError, ValueError) as error:
        return Reply(sent, time.monotonic(), error=f"{type(error).__name__}: {error}")


@lru_cache(maxsize=4_096)
def _queries(edition: int) -> str:
    """Return the keys of an edition as they stand in a list of JSON, which takes a while."""
    return json.dumps(keys_of(edition).tolist())[1:-1]
