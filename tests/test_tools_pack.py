"""Packs on the command line: export, info, verify, diff, merge and sign."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pytest

from aesg import AESGMemory
from aesg.binding import settings_of
from aesg.packs import read_pack
from storage_backends.lmdb_store import LMDBStore
from tests.memory_build import opened, pattern, patterns
from tests.pack_build import write_tiny
from tests.packs.fuzz_version1 import sound
from tests.tool_runs import command
from tools.pack import main

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with opened(tmp_path / "memory") as memory:
        memory.remember(patterns(0, 1, 2), payloads=[{"n": number} for number in range(3)])
    return tmp_path / "memory"


@pytest.fixture
def file(directory: Path, tmp_path: Path, capsys: Captured) -> Path:
    assert main(["export", str(directory), str(tmp_path / "medical.aesgpack")]) == 0
    capsys.readouterr()
    return tmp_path / "medical.aesgpack"


def said(capsys: Captured) -> str:
    out, err = capsys.readouterr()
    assert err == ""
    return out


def failed(capsys: Captured) -> str:
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("Error: ")
    return err


def test_a_memory_is_exported_beside_its_writer(
    directory: Path, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "medical.aesgpack"
    with AESGMemory.open(directory, mode="TRAIN"):
        assert main(["export", str(directory), str(path)]) == 0
    assert said(capsys).startswith(f"{path}: 3 concepts and 0 edges, 1.")
    pack = read_pack(path)
    assert (pack.name, pack.node_count) == ("medical", 3)
    assert pack.payload(0) is not None


def test_criteria_and_texts_are_handed_on(
    directory: Path, tmp_path: Path, capsys: Captured
) -> None:
    path, ids = tmp_path / "some.aesgpack", tmp_path / "ids.txt"
    with AESGMemory.open(directory) as memory:
        known = [int(each) for each in memory.recall(pattern(0), top_k=3).concept_ids]
    ids.write_text(f"{known[1]}\n\n{known[2]}\n")
    options = ["--id", str(known[0]), "--ids", str(ids), "--top", "2", "--by", "frequency"]
    options += ["--min-relevance", "0.1", "--region", "0", "--no-values", "--no-payloads"]
    options += ["--name", "chosen", "--notes", "first\nsecond", "--licence", "MIT", "--json"]
    assert main(["export", str(directory), str(path), *options]) == 0
    assert json.loads(said(capsys))["concepts"] == 2
    pack = read_pack(path)
    assert (pack.name, pack.provenance.notes, pack.provenance.licence) == (
        "chosen",
        "first\nsecond",
        "MIT",
    )
    assert pack.payload(0) is None
    assert set(pack.columns["ids"].tolist()) < set(known)
    ids.write_text("1\nx\n")
    assert main(["export", str(directory), str(path), "--ids", str(ids)]) == 2
    assert "line 2: expected an id, got 'x'" in capsys.readouterr().err


def test_what_cannot_be_exported_is_one_line(
    directory: Path, tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "none.aesgpack"
    for source, options in ((directory, ["--region", "7"]), (tmp_path / "nowhere", [])):
        assert main(["export", str(source), str(path), *options]) == 2
        failed(capsys)
        assert not path.exists()
    (tmp_path / "letter.txt").write_text("Dear all")
    assert main(["export", str(directory), str(tmp_path / "letter.txt")]) == 2
    assert "letter.txt" in failed(capsys)
    assert (tmp_path / "letter.txt").read_text() == "Dear all"


def test_info_shows_what_a_pack_says(directory: Path, tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "some.aesgpack"
    options = ["--notes", "first\nsecond", "--licence", "MIT"]
    assert main(["export", str(directory), str(path), *options]) == 0
    said(capsys)
    assert main(["info", str(path)]) == 0
    lines = said(capsys).splitlines()
    assert lines[0] == f"pack       {path} (format 2)"
    assert "name       some (of the file)" in lines
    assert "concepts   3 of 16 dimensions" in lines
    assert "licence    MIT" in lines
    assert lines[lines.index("notes      first") + 1] == "           second"
    assert "signed     no" in lines
    assert main(["info", str(path), "--json"]) == 0
    found = json.loads(said(capsys))
    assert (found["path"], found["provenance"]["notes"]) == (str(path), "first\nsecond")
    assert found["digest"] == read_pack(path).digest


def test_info_knows_packs_of_release_3(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "earlier.aesgpack"
    path.write_bytes(sound(4, 5, 7))
    assert main(["info", str(path)]) == 0
    lines = said(capsys).splitlines()
    assert lines[0].endswith("(format 1)")
    assert "concepts   5 of 4 dimensions" in lines
    assert "created    not told" in lines


def test_verify_examines_all_and_says_what_is_wrong_with_each(
    file: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["verify", str(file)]) == 0
    assert said(capsys) == f"{file}: no problems in 3 concepts and 0 edges; not signed\n"
    damaged = tmp_path / "damaged.aesgpack"
    damaged.write_bytes(file.read_bytes()[:-1] + b"x")
    assert main(["verify", str(damaged), str(file)]) == 1
    first, second = said(capsys).splitlines()
    assert str(damaged) in first and "SHA-256" in first
    assert second.startswith(f"{file}: no problems")
    assert main(["verify", str(file), str(tmp_path / "nowhere"), str(damaged), "--json"]) == 2
    found = json.loads(said(capsys))["packs"]
    assert [entry["status"] for entry in found] == [0, 2, 1]
    assert found[0]["digest"] == read_pack(file).digest
    assert main(["verify"]) == 2
    assert "PACK" in capsys.readouterr().err


def test_diff_says_how_packs_differ(
    directory: Path, file: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["diff", str(file), str(file)]) == 0
    assert "hold the same: 3 concepts" in said(capsys)
    with AESGMemory.open(directory, mode="TRAIN") as memory:
        memory.remember(pattern(5)[None])
    more = tmp_path / "more.aesgpack"
    assert main(["export", str(directory), str(more)]) == 0
    said(capsys)
    assert main(["diff", str(file), str(more)]) == 1
    assert "added" in said(capsys)
    assert main(["diff", str(file), str(more), "--json"]) == 1
    found = json.loads(said(capsys))
    assert (found["differ"], found["matched_by"], len(found["added"])) == (True, "id", 1)
    other = write_tiny(tmp_path / "other.aesgpack")
    assert main(["diff", str(file), str(other)]) == 2
    assert "vector_dim" in failed(capsys)


def test_merge_brings_a_pack_into_a_memory(file: Path, tmp_path: Path, capsys: Captured) -> None:
    other = tmp_path / "other"
    with opened(other) as memory:
        memory.remember(patterns(0, 9), payloads=["mine", "too"])
        stored = memory.config
    assert main(["merge", str(file), str(other), "--dry-run"]) == 0
    assert "2 concepts added and 1 merged" in (tried := said(capsys))
    assert "; nothing was changed" in tried
    with AESGMemory.open(other) as memory:
        assert memory.storage.node_count == 2
    assert main(["merge", str(file), str(other)]) == 0
    first, second = said(capsys).splitlines()
    assert (
        first == f"{other}: 2 concepts added and 1 merged, 0 edges added and 0 merged, 1 conflict"
    )
    assert "another payload" in second
    assert main(["merge", str(file), str(other), "--json"]) == 0
    found = json.loads(said(capsys))
    assert (found["added"], found["merged"], len(found["ids"])) == (0, 3, 3)
    with AESGMemory.open(other) as memory:
        assert memory.storage.node_count == 4
        assert not memory.get_attached_packs()
        assert memory.config.memory_mode == "INFERENCE"
    with opened(other) as memory:
        assert memory.config == stored


@pytest.mark.parametrize("mode", ["TRAIN", "FINETUNE", "INFERENCE"])
def test_merge_changes_no_parameter(file: Path, tmp_path: Path, mode: str) -> None:
    other = tmp_path / "other"
    with opened(other, memory_mode="TRAIN", max_events=777) as memory:
        memory.remember(patterns(9))
    opened(other, memory_mode=mode, max_events=777).close()

    def stored() -> bytes:
        with LMDBStore.open(other, read_only=True) as store:
            return settings_of(store)["config"]

    before = stored()
    assert main(["merge", str(file), str(other), "--dry-run"]) == 0
    assert main(["merge", str(file), str(other)]) == 0
    assert stored() == before
    with AESGMemory.open(other) as memory:
        assert memory.storage.node_count == 4
    assert main(["merge", str(file), str(tmp_path / "nowhere")]) == 2
    assert not (tmp_path / "nowhere").exists()


def test_info_lists_concepts_one_a_line(tmp_path: Path, capsys: Captured) -> None:
    path, nested = tmp_path / "some.aesgpack", [1]
    for _ in range(400):
        nested = [nested]  # type: ignore[list-item]
    payloads = ["\x1b[2Jfirst\nsecond \u202e\u00e9", {3: b"\xff"}, nested, "x" * 500, None]
    with opened(tmp_path / "memory") as memory:
        memory.remember(patterns(0, 1, 2, 3, 4), [7, 8, 9, 10, 11], payloads)
        memory.remember(patterns(5))
        memory.remember(patterns(6), patterns(7))
        memory.export_pack(path)
    assert main(["info", str(path), "--list", "99"]) == 0
    lines = said(capsys).splitlines()
    start = next(place for place, line in enumerate(lines) if line.split()[:1] == ["id"])
    assert lines[start].split() == ["id", "value", "payload", "uses", "relevance", "region"]
    rows = lines[start + 2 :]
    assert len(rows) == 7
    assert all(line.isprintable() and len(line) < 120 for line in rows)
    assert rows[0].split()[:4] == ["1", "7", r"\x1b[2Jfirst", "second"]
    assert rows[0].split()[4:] == [r"\u202eé", "1", "1.000", "0"]
    assert rows[1].split()[2:4] == ["{3:", r"b'\xff'}"]
    assert "x..." in rows[3]
    assert [row.split()[1] for row in rows] == ["7", "8", "9", "10", "11", "key", "vector"]
    assert main(["info", str(path), "--list", "4", "--json"]) == 0
    nodes = json.loads(said(capsys))["nodes"]
    assert [node["payload"] for node in nodes[::3]] == payloads[:4:3]
    assert nodes[1]["payload"] == r"{3: b'\xff'}"
    assert (nodes[0]["id"], nodes[0]["value"], nodes[0]["uses"]) == (1, 7, 1)
    assert main(["info", str(path), "--list", "0"]) == 2
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    capsys.readouterr()
    assert main(["info", str(path)]) == 0
    said(capsys)
    assert main(["info", str(path), "--list", "1"]) == 2
    assert "SHA-256" in failed(capsys)


def test_a_terminal_is_told_nothing_by_the_name_of_a_file(
    directory: Path, tmp_path: Path, capsys: Captured
) -> None:
    path = str(tmp_path / "ev\x1b[2J\nil.aesgpack")
    key = str(tmp_path / "no\x1bkey.pem")
    for arguments in (
        ["export", str(directory), path],
        ["info", path],
        ["verify", path, path + "x"],
        ["diff", path, path],
        ["merge", path, path + "x"],
        ["sign", path, "--key", key],
    ):
        main(arguments)
        out, err = capsys.readouterr()
        assert out or err
        assert all(line.isprintable() for line in (out + err).splitlines())
        assert "ev" in out + err or "no" in err


def test_a_folder_is_no_file_to_export_to(
    directory: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert main(["export", str(directory), f"{tmp_path}/folder/"]) == 2
    assert "expected the path of a file, got one of a folder" in failed(capsys)
    assert not (tmp_path / "folder").exists()


def test_ids_of_a_file_may_begin_with_a_byte_order_mark(
    directory: Path, tmp_path: Path, capsys: Captured
) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_bytes(b"\xef\xbb\xbf2\r\n")
    path = tmp_path / "one.aesgpack"
    assert main(["export", str(directory), str(path), "--ids", str(ids)]) == 0
    assert said(capsys).startswith(f"{path}: 1 concept and 0 edges, ")
    assert read_pack(path).columns["ids"].tolist() == [2]


def test_a_full_disk_under_the_output_is_one_line(file: Path) -> None:
    for option in ([], ["--json"]):
        with open("/dev/full", "w") as full:
            process = command("pack", "info", file, *option, stdout=full.fileno())
        assert process.returncode == 2
        assert process.stderr == "Error: disk full: [Errno 28] No space left on device\n"


def test_a_key_is_read_once_and_without_a_password_it_is_said(
    file: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    signatures = pytest.importorskip("tests.packs.test_signature", reason="NOT TESTED: no library")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        pem = signatures.pem_of(signatures.KEY, b"secret")
        pool.submit(pipe.write_bytes, pem)
        monkeypatch.setenv("AESG_KEY_PASSWORD", "secret")
        assert main(["sign", str(file), "--key", str(pipe)]) == 0
    said(capsys)
    monkeypatch.delenv("AESG_KEY_PASSWORD")
    (tmp_path / "key.pem").write_bytes(pem)
    with patch("click.termui.hidden_prompt_func", side_effect=EOFError):
        assert main(["sign", str(file), "--key", str(tmp_path / "key.pem")]) == 2
    assert capsys.readouterr().err.endswith("key.pem': expected its password, got none\n")
    with patch("click.termui.hidden_prompt_func", side_effect=KeyboardInterrupt):
        assert main(["sign", str(file), "--key", str(tmp_path / "key.pem")]) == 130


def test_merge_waits_for_no_writer_and_takes_no_stranger(
    file: Path, directory: Path, capsys: Captured
) -> None:
    process = command("pack", "merge", file, directory, "--public-key", "00" * 32)
    assert (process.returncode, process.stdout) == (2, "")
    assert "not signed" in process.stderr
    with AESGMemory.open(directory, mode="TRAIN"):
        assert main(["merge", str(file), str(directory), "--dry-run"]) == 0
        process = command("pack", "merge", file, directory)
    assert process.returncode == 1, process.stderr
    assert process.stderr.count("\n") == 1
    assert "process" in process.stderr


def test_a_pack_of_another_width_is_not_merged(
    directory: Path, tmp_path: Path, capsys: Captured
) -> None:
    other = write_tiny(tmp_path / "other.aesgpack")
    assert main(["merge", str(other), str(directory)]) == 2
    assert "vector_dim" in failed(capsys)


def test_sign_and_verify_with_keys_in_files(
    file: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    signatures = pytest.importorskip("tests.packs.test_signature", reason="NOT TESTED: no library")
    key, public = tmp_path / "key.pem", tmp_path / "public.pem"
    public.write_bytes(signatures.public_pem_of(signatures.KEY))
    assert main(["verify", str(file), "--public-key", str(public)]) == 1
    assert "not signed" in said(capsys)
    for password in (b"", b"secret"):
        key.write_bytes(signatures.pem_of(signatures.KEY, password))
        monkeypatch.setenv("AESG_KEY_PASSWORD", "secret")
        assert main(["sign", str(file), "--key", str(key)]) == 0
        assert said(capsys) == f"{file}: signed by {signatures.PUBLIC.hex()}\n"
        assert main(["verify", str(file), "--public-key", str(public)]) == 0
        assert said(capsys).endswith(f"signed by {signatures.PUBLIC.hex()}\n")
    monkeypatch.setenv("AESG_KEY_PASSWORD", "wrong")
    assert main(["sign", str(file), "--key", str(key)]) == 2
    assert "key.pem" in failed(capsys)
    assert main(["sign", str(file), "--key", str(tmp_path / "nowhere.pem")]) == 2
    assert "nowhere.pem" in failed(capsys)
    assert main(["verify", str(file), "--public-key", "11" * 32, "--json"]) == 1
    assert "signed by 1111" in json.loads(said(capsys))["packs"][0]["problem"]


def test_a_failure_in_json_is_an_object(tmp_path: Path, capsys: Captured) -> None:
    assert main(["info", str(tmp_path / "nowhere.aesgpack"), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["done"], found["error"]) == (False, "AESGStorageError")
    assert "nowhere.aesgpack" in found["reason"]


def test_the_group_names_its_commands(capsys: Captured) -> None:
    assert main(["--help"]) == 0
    out = said(capsys)
    for name in ("export", "info", "verify", "diff", "merge", "sign"):
        assert f"\n  {name} " in out
