"""The web application, and the demonstration that checks every answer of it."""

from __future__ import annotations

import json
import mmap
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from aesg import AESGConfig, AESGMemory, AESGStorageError

pytest.importorskip("fastapi", reason="needs the packages of aesg[serve]")
pytest.importorskip("httpx", reason="needs the packages of aesg[serve]")
pytest.importorskip("uvicorn", reason="needs the packages of aesg[serve]")

import httpx
import uvicorn

from examples.serving import editions, run
from examples.serving.app import app
from examples.serving.load import NEWEST, Reply, ask, chosen
from examples.serving.report import MOST_MISSED, Acknowledged, judge, table_of
from examples.serving.run import Stage
from examples.serving.watch import Watch

ROOT = Path(__file__).parents[1]

WHOLE = frozenset(range(editions.ROWS))
NONE: frozenset[int] = frozenset()
HALF = frozenset({0, 1, 2, 3})
MOST = WHOLE - {5}


@pytest.fixture
def trainer() -> Iterator[AESGMemory]:
    with AESGMemory("served", AESGConfig(vector_dim=editions.WIDTH)) as memory:
        publish(memory, 1)
        yield memory


@pytest.fixture
def client(trainer: AESGMemory, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.setenv("AESG_DIRECTORY", str(trainer.directory))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as asking:
        yield asking
    server.should_exit = True
    thread.join()


def publish(memory: AESGMemory, edition: int) -> list[int]:
    payloads = [editions.payload_of(edition, row) for row in range(editions.ROWS)]
    values = [edition] * editions.ROWS
    return [int(i) for i in memory.remember(editions.keys_of(edition), values, payloads)]


def found(client: httpx.Client, edition: int, top_k: int = 1) -> list[list[dict[str, Any]]]:
    question = {"queries": editions.keys_of(edition).tolist(), "top_k": top_k}
    response = client.post("/retrieve", json=question)
    assert response.status_code == 200, response.text
    concepts: list[list[dict[str, Any]]] = response.json()["concepts"]
    return concepts


def refused(client: httpx.Client, queries: Sequence[Sequence[float]], **fields: int) -> str:
    response = client.post("/retrieve", json={"queries": queries, **fields})
    assert response.status_code == 422
    return str(response.json()["detail"])


def test_an_answer_holds_the_concepts_of_each_query_best_first(client: httpx.Client) -> None:
    rows = found(client, 1, top_k=3)
    assert [len(row) for row in rows] == [3] * editions.ROWS
    for number, (first, *others) in enumerate(rows):
        assert (first["value"], first["payload"]) == (1, {"edition": 1, "row": number})
        assert first["similarity"] == pytest.approx(1, abs=1e-5)
        assert all(0 < other["weight"] < first["weight"] < 1 for other in others)
        assert all(other["similarity"] < 0.99 for other in others)


def test_the_next_answer_shows_what_was_remembered(
    client: httpx.Client, trainer: AESGMemory
) -> None:
    assert ask(client, [1, 2, 3]).shown == {1: WHOLE, 2: NONE, 3: NONE}
    ids = publish(trainer, 2)
    reply = ask(client, [1, 2, 3])
    assert (reply.shown, reply.newest, reply.error) == ({1: WHOLE, 2: WHOLE, 3: NONE}, 2, "")
    assert [row[0]["concept_id"] for row in found(client, 2)] == ids


def test_what_json_lacks_comes_as_null_or_as_base64(
    client: httpx.Client, trainer: AESGMemory
) -> None:
    keys = editions.facts(5, 2)
    trainer.remember(keys, payloads=[None, {"raw": b"\xff\x00"}])
    response = client.post("/retrieve", json={"queries": keys.tolist(), "top_k": 1})
    shown = [(row[0]["value"], row[0]["payload"]) for row in response.json()["concepts"]]
    assert shown == [(None, None), (None, {"raw": "/wA="})]


def test_a_server_does_not_learn_from_what_it_is_asked(
    client: httpx.Client, trainer: AESGMemory
) -> None:
    keys = editions.facts(6, 4).tolist()
    for _ in range(4):
        assert client.post("/retrieve", json={"queries": keys}).status_code == 200
    assert (trainer.provisional_count, trainer.rates.queries) == (0, 0)


def test_a_query_of_another_width_is_refused_with_both_widths(client: httpx.Client) -> None:
    message = refused(client, [[0.5] * 9])
    assert "64" in message
    assert "9" in message


@pytest.mark.parametrize(
    ("queries", "top_k", "expected"),
    [
        ([[1.0] * 64, [1.0] * 63], 1, "expected queries of one width, got widths [63, 64]"),
        ([], 1, "at least 1 item"),
        ([[1.0] * 64] * 257, 1, "at most 256 items"),
        ([[1.0] * 64], 0, "greater than or equal to 1"),
        ([[1e300] * 64], 1, "infinity"),
    ],
)
def test_a_question_out_of_bounds_is_refused_and_says_why(
    client: httpx.Client, queries: list[list[float]], top_k: int, expected: str
) -> None:
    assert expected in refused(client, queries, top_k=top_k)


def test_a_memory_that_fails_is_not_the_fault_of_the_question(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AESGStorageError("the disk is gone")

    monkeypatch.setattr(AESGMemory, "refresh", fail)
    for response in (
        client.get("/health"),
        client.post("/retrieve", json={"queries": [[1.0] * editions.WIDTH]}),
    ):
        assert (response.status_code, response.json()) == (503, {"detail": "the disk is gone"})


def test_health_says_what_the_memory_holds(client: httpx.Client, trainer: AESGMemory) -> None:
    assert client.get("/health").json() == {"concepts": 8, "edges": 0, "vector_dim": 64}
    publish(trainer, 2)
    assert client.get("/health").json()["concepts"] == 16


def test_a_concept_of_an_edition_is_told_by_key_and_value_and_payload(
    client: httpx.Client,
) -> None:
    rows = found(client, 1)
    assert editions.rows_shown(1, rows) == WHOLE
    rows[3][0]["payload"] = None  # pruned in between
    rows[4][0]["similarity"] = 0.9  # another concept
    rows[5].clear()
    assert editions.rows_shown(1, rows) == WHOLE - {4, 5}
    rows[6][0]["payload"] = {"edition": 1, "row": 5}
    with pytest.raises(ValueError, match=r"expected value 1 and payload .*'row': 6"):
        editions.rows_shown(1, rows)
    rows[6][0].update(payload=editions.payload_of(1, 6), value=2)
    with pytest.raises(ValueError, match=r"expected value 1 .* got 2 and"):
        editions.rows_shown(1, rows)


def test_editions_and_facts_have_keys_of_their_own() -> None:
    keys = [editions.facts(0, 50), editions.facts(1, 50)]
    keys += [editions.keys_of(edition) for edition in range(50)]
    every = np.concatenate(keys)
    unit = every / np.linalg.norm(every, axis=1, keepdims=True)
    cosines = unit @ unit.T - np.eye(len(unit))
    assert 0.7 < cosines.max() < 0.95  # clusters, and no two alike
    np.testing.assert_array_equal(editions.keys_of(7), keys[2 + 7])


def test_asked_for_are_the_newest_editions_and_one_of_those_still_held() -> None:
    chance = random.Random(0)
    assert chosen(1, 100, chance) == [1, 2, 3]
    asked = [chosen(90, 30, chance) for _ in range(1_000)]
    assert all(newest == [90, 91, 92] for _, *newest in asked)
    assert {older for older, *_ in asked} == set(range(60, 90))


def answers(*shown: frozenset[int]) -> httpx.Client:
    """Return a client of a server whose answers find these rows of edition 1 in turn."""
    waiting = iter(shown)

    def answer(request: httpx.Request) -> httpx.Response:
        assert np.shape(json.loads(request.content)["queries"]) == (editions.ROWS, editions.WIDTH)
        rows = next(waiting)
        concept = [
            {"similarity": float(row in rows), "value": 1, "payload": None} for row in sorted(WHOLE)
        ]
        return httpx.Response(200, json={"concepts": [[each] for each in concept]})

    return httpx.Client(base_url="http://served", transport=httpx.MockTransport(answer))


def test_where_part_of_an_edition_is_found_the_question_is_asked_again() -> None:
    with answers(WHOLE, NONE, HALF, WHOLE) as http:
        whole, none, half = (ask(http, [1]) for _ in range(3))
    assert (whole.again, whole.partial, none.again, none.partial) == (None, [], None, [])
    assert (half.partial, half.shown) == ([1], {1: HALF})
    assert half.again is not None
    assert half.again.shown == {1: WHOLE}


#: Edition 1 at second 10, and so on; 4 was never acknowledged.
KNOWN = Acknowledged([1, 2, 3, 5], [10.0, 11.0, 12.0, 20.0])


def reply(
    sent: float,
    shown: int | dict[int, frozenset[int]] = 0,
    error: str = "",
    again: Reply | None = None,
) -> Reply:
    """Return a reply that shows an edition and those before it whole, or what is given."""
    if isinstance(shown, int):
        last = range(max(shown - 1, 1), shown + 2)
        shown = {edition: WHOLE if edition <= shown else NONE for edition in last}
    return Reply(sent, sent + 0.5, {} if error else shown, error, again)


def twice(first: dict[int, frozenset[int]], second: dict[int, frozenset[int]]) -> Reply:
    """Return a reply that was found partial, and asked for again."""
    return reply(11.2, first, again=reply(11.8, second))


def test_answers_that_show_the_newest_edition_are_flawless() -> None:
    verdict = judge([[reply(10.0, 1), reply(11.2, 2)], [reply(19.0, 4), reply(20.0, 5)]], KNOWN)
    assert verdict.complaints == []
    assert (verdict.requests, verdict.latency) == (4, [0.5] * 4)
    assert (verdict.checked, verdict.missed) == (7 * editions.ROWS, 0)
    assert verdict.staleness == [0.0] * 4


def test_an_edition_acknowledged_on_the_way_makes_an_answer_stale_and_not_late() -> None:
    verdict = judge([[reply(10.75, 1), reply(19.75, 3), reply(19.9, 4)]], KNOWN)
    assert verdict.complaints == []
    assert verdict.staleness == pytest.approx([0.25, 0.25, 0.4])


@pytest.mark.parametrize(
    ("replies", "complaint"),
    [
        ([twice({2: WHOLE, 3: HALF}, {2: WHOLE, 3: WHOLE})], "1 answers torn, first edition 3"),
        ([twice({2: WHOLE, 3: MOST}, {2: WHOLE, 3: WHOLE})], "1 answers torn, first edition 3"),
        ([twice({2: WHOLE, 3: HALF}, {2: WHOLE, 3: HALF})], "1 answers torn, first edition 3"),
        ([twice({2: WHOLE, 3: HALF}, {2: WHOLE, 3: NONE})], "1 answers torn, first edition 3"),
        ([reply(10.2, {1: WHOLE, 2: NONE, 3: WHOLE})], "1 answers torn, first edition 3 without 2"),
        ([reply(11.2, 1)], "1 answers late, first without edition 2"),
        ([reply(11.2, {1: NONE, 2: WHOLE, 3: NONE})], "1 answers late, first without edition 1"),
        ([reply(12.0, 4), reply(12.6, 3)], "1 answers older than the last"),
        ([reply(11.2, error="ReadError: gone")], "1 errors, first ReadError: gone"),
        (
            [reply(11.2, {2: MOST}, again=reply(11.8, error="ReadError: gone"))]
            + [reply(12, 3)] * 99,
            "1 errors, first ReadError: gone",
        ),
        ([], "no requests"),
    ],
)
def test_each_fault_is_named(replies: list[Reply], complaint: str) -> None:
    (found,) = judge([replies], KNOWN).complaints
    assert found.startswith(complaint)


def test_rows_that_stay_missing_are_missed_by_the_index_and_wrong_only_if_they_are_many() -> None:
    missing = twice({2: MOST, 3: NONE}, {2: MOST, 3: NONE})
    rarely = judge([[missing, *[reply(12.2, 3)] * 20]], KNOWN)
    assert (rarely.complaints, rarely.missed) == ([], 1)
    assert rarely.missed < MOST_MISSED * rarely.checked
    often = judge([[missing, reply(12.2, 3)]], KNOWN)
    assert often.complaints == [f"1 of {3 * editions.ROWS} keys not found"]


def test_an_older_edition_may_be_found_whole_when_the_index_was_replaced() -> None:
    newest = dict.fromkeys(range(2, 2 + NEWEST), WHOLE)
    changed = twice({1: MOST, **newest}, {1: WHOLE, **newest})
    assert judge([[changed]], KNOWN).torn == []
    assert judge([[changed]], KNOWN).missed == 1


def test_staleness_counts_from_the_first_edition_that_is_missing() -> None:
    verdict = judge([[reply(12.25, 1)]], KNOWN)
    assert verdict.staleness == [1.75]
    assert len(verdict.late) == 1


def test_what_a_trainer_is_just_printing_is_not_acknowledged_yet(tmp_path: Path) -> None:
    file = tmp_path / "trainer.out"
    for printed, last in [("", 0), ("1", 0), ("1 10.5\n", 1), ("1 10.5\n12 11.5\n13", 12)]:
        file.write_text(printed)
        assert Acknowledged.last_in(file) == last


def test_readers_are_told_apart_in_the_table() -> None:
    judged = {1: judge([[reply(10.0, 1)]], KNOWN), 2: judge([[]], KNOWN)}
    table = table_of(judged, {1: 3, 2: 0})
    names, first, second = (list(column.cells) for column in table.columns)
    assert [column.header for column in table.columns[1:]] == ["reader 1", "reader 2"]
    assert dict(zip(names, first, strict=True))["snapshots mapped"] == "3"
    assert second[-6:] == ["-"] * 6


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux tells")
def test_the_watch_sees_the_snapshots_and_who_maps_them(tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    for name in ("gen-000001/index-000002.faiss", "gen-000001/index-000003.faiss"):
        (memory / name).parent.mkdir(parents=True, exist_ok=True)
        (memory / name).write_bytes(b"links")
    with Watch(memory, {1: os.getpid(), 2: 2**30}) as watch:
        file = (memory / "gen-000001/index-000003.faiss").open("rb")
        with file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
            (memory / "gen-000001/index-000002.faiss").unlink()
            watch.look()
    assert watch.mapped == {1: 1, 2: 0}
    assert "gen-000001/index-000003.faiss" in watch.written


@pytest.mark.parametrize(
    ("mapped", "problem"),
    [({2: 1}, "reader 2: 1 answers torn"), ({1: 1, 2: 0}, "snapshots were written, and readers")],
)
def test_the_command_fails_where_something_was_wrong(
    monkeypatch: pytest.MonkeyPatch, mapped: dict[int, int], problem: str
) -> None:
    torn = {2: judge([[twice({2: HALF}, {2: WHOLE})]], KNOWN)}

    def serve(*_: object) -> tuple[object, object]:
        return torn, SimpleNamespace(written={"gen-000001/index-000001.faiss": 0.5}, mapped=mapped)

    monkeypatch.setattr(run, "_serve", serve)
    monkeypatch.setattr(Stage, "run_tool", lambda *_: None)
    result = CliRunner().invoke(run.main, [])
    assert result.exit_code == 1
    assert f"PROBLEM: {problem}" in result.output


def test_a_reader_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    with ExitStack() as running:
        stage = Stage(tmp_path, 1, running)
        with pytest.raises(click.ClickException, match=r"(?s)reader-1 ended.*AESGStorageError"):
            stage.start_readers(1)
    assert not (tmp_path / "memory").exists()


@pytest.mark.parametrize(
    ("facts", "snapshots"),
    [
        pytest.param(300, 0, id="a small memory, read from its records"),
        pytest.param(
            21_000, 1, id="a large one, with snapshots of its index", marks=pytest.mark.long
        ),
    ],
)
def test_readers_stay_right_while_their_trainer_is_killed_and_their_memory_compacted(
    facts: int, snapshots: int
) -> None:
    arguments = ["--seconds", "3", "--readers", "2", "--facts", str(facts)]
    result = subprocess.run(
        [sys.executable, "-m", "examples.serving.run", *arguments],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"trainer-2 publishes from edition ([2-9]|\d\d)", result.stdout)
    rows = re.findall(r"│ (\w[^│]*?) +│ (\d+)[^│]*│ (\d+)[^│]*│", result.stdout)
    figures = {name: [int(first), int(second)] for name, first, second in rows}
    for name in ("errors", "torn", "late", "backwards"):
        assert figures[name] == [0, 0]
    assert min(figures["requests"]) > 10
    assert min(figures["keys checked"]) > 100
    assert min(figures["snapshots mapped"]) >= snapshots
