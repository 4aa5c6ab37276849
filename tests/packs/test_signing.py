"""A pack is signed in its place, whole or not at all, and only who asks for a key gets refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="NOT TESTED: signatures, as cryptography is missing")

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from aesg import AESGConfig, AESGConfigError, AESGMemory, AESGStorageError
from aesg.packs import read_head, read_pack
from aesg.packs.head import HEADER_BYTES
from aesg.packs.signing import sign_pack
from tests.failing_calls import at_call, disk_broken, disk_full, interrupted
from tests.pack_build import write_tiny
from tests.packs.fuzz_version1 import sound

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "medical.aesgpack")


def test_the_body_and_the_digest_stay(path: Path) -> None:
    before, plain = path.read_bytes(), read_pack(path)
    assert sign_pack(path, KEY) == PUBLIC
    after, signed = path.read_bytes(), read_pack(path)
    assert after[HEADER_BYTES : len(before)] == before[HEADER_BYTES:]
    assert len(after) == len(before) + 96
    assert (plain.signer, signed.signer) == (None, PUBLIC)
    assert signed.digest == plain.digest
    assert read_head(path).is_signed


def test_to_sign_twice_gives_the_same_file_and_another_key_another(path: Path) -> None:
    sign_pack(path, KEY)
    once = path.read_bytes()
    sign_pack(path, KEY)
    assert path.read_bytes() == once
    sign_pack(path, OTHER)
    assert read_pack(path).signer == OTHER.public_key().public_bytes_raw()


def test_a_memory_loads_what_the_key_has_signed_and_nothing_else(path: Path) -> None:
    with AESGMemory("memory", AESGConfig(vector_dim=4)) as memory:
        for given in (PUBLIC, PUBLIC.hex()):
            with pytest.raises(AESGStorageError, match=r"medical.aesgpack.*not signed"):
                memory.load_pack(path, public_key=given)
        sign_pack(path, OTHER)
        with pytest.raises(AESGStorageError, match=f"signed by {PUBLIC.hex()}, got one signed"):
            memory.load_pack(path, public_key=PUBLIC)
        sign_pack(path, KEY)
        assert memory.load_pack(path, public_key=PUBLIC).signer == PUBLIC
        with pytest.raises(AESGConfigError, match="public key"):
            memory.load_pack(path, public_key=b"short")
        assert not memory.get_attached_packs()


def test_a_change_behind_the_signature_is_refused_before_anything_is_decoded(path: Path) -> None:
    sign_pack(path, KEY)
    content = bytearray(path.read_bytes())
    content[HEADER_BYTES + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(AESGStorageError, match="SHA-256"):
        read_pack(path, public_key=PUBLIC)
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(AESGStorageError, match="does not belong to this file"):
        read_pack(path)


def test_the_signature_of_another_pack_is_refused(path: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other.aesgpack", seed=1)
    sign_pack(path, KEY)
    sign_pack(other, KEY)
    path.write_bytes(path.read_bytes()[:-96] + other.read_bytes()[-96:])
    with pytest.raises(AESGStorageError, match="does not belong to this file"):
        read_pack(path, public_key=PUBLIC)


def test_what_is_no_sound_pack_of_this_release_is_not_signed(path: Path, tmp_path: Path) -> None:
    earlier, missing = tmp_path / "earlier.aesgpack", tmp_path / "missing.aesgpack"
    earlier.write_bytes(sound(4, 5, 7))
    path.write_bytes(path.read_bytes()[:-1])
    for file, message in (
        (earlier, r"version 2, got one of version 1: `python -m tools.migrate`"),
        (missing, "No such file"),
        (path, "expected a file of"),
    ):
        before = file.read_bytes() if file.exists() else None
        with pytest.raises(AESGStorageError, match=message) as refused:
            sign_pack(file, KEY)
        assert str(file) in str(refused.value)
        assert (file.read_bytes() if file.exists() else None) == before


def test_a_version_1_pack_is_refused_where_a_key_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "earlier.aesgpack").write_bytes(sound(4, 5, 7))
    with pytest.raises(AESGStorageError, match="version 1"):
        read_pack(tmp_path / "earlier.aesgpack", public_key=PUBLIC)


@pytest.mark.parametrize("act", [disk_full, disk_broken, interrupted])
def test_a_failure_leaves_the_old_file_or_the_new_one(
    path: Path, act: Callable[[], object]
) -> None:
    before = path.read_bytes()
    with at_call(None) as calls:
        sign_pack(path, KEY)
    after = path.read_bytes()
    assert {"write", "fsync", "replace"} < set(calls.names)
    for number, name in enumerate(calls.names):
        if name == "mkdir":  # of the folder, which is there
            continue
        path.write_bytes(before)
        with pytest.raises((AESGStorageError, KeyboardInterrupt)), at_call(number, act):
            sign_pack(path, KEY)
        assert path.read_bytes() in (before, after)
        assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_pack_that_changes_while_it_is_signed_is_refused(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_tiny(tmp_path / "other.aesgpack", seed=1).read_bytes()

    def replaced(step: str, done: int, total: int) -> None:
        path.write_bytes(other)

    with pytest.raises(AESGStorageError, match=r"got another|expected"):
        sign_pack(path, KEY, replaced)
    assert path.read_bytes() == other
