"""A signature belongs to one header and one key; keys come from files as openssl writes them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="NOT TESTED: signatures, as cryptography is missing")

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from aesg.errors import AESGConfigError
from aesg.packs.signature import (
    PREFIX,
    TRAILER_BYTES,
    checked_signer,
    read_private_key,
    read_public_key,
    trailer_of,
)
from storage_backends.errors import StoreCorruptError, StoreError

HEADER = bytes(range(56))
# The first key of RFC 8032, section 7.1.
SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
KEY = Ed25519PrivateKey.from_private_bytes(SECRET)
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))


def pem_of(key: Ed25519PrivateKey, password: bytes = b"") -> bytes:
    protection: KeySerializationEncryption = NoEncryption()
    if password:
        protection = BestAvailableEncryption(password)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)


def public_pem_of(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_the_trailer_is_the_key_and_a_signature_of_prefix_and_header() -> None:
    trailer = trailer_of(HEADER, KEY)
    assert len(trailer) == TRAILER_BYTES
    assert trailer == PUBLIC + KEY.sign(b"AESG pack signature 1\n" + HEADER)
    assert PREFIX == b"AESG pack signature 1\n"


def test_the_signer_of_a_sound_signature_is_named() -> None:
    trailer = trailer_of(HEADER, KEY)
    assert checked_signer(HEADER, trailer) == PUBLIC
    assert checked_signer(HEADER, trailer, PUBLIC) == PUBLIC
    assert checked_signer(HEADER, None) is None


@pytest.mark.parametrize("place", [0, 31, 32, 63, 64, 95])
def test_a_changed_trailer_is_refused(place: int) -> None:
    trailer = bytearray(trailer_of(HEADER, KEY))
    trailer[place] ^= 1
    with pytest.raises(StoreCorruptError, match="does not belong to this file"):
        checked_signer(HEADER, bytes(trailer))


@pytest.mark.parametrize("place", [0, 12, 16, 55])
def test_a_changed_header_is_refused(place: int) -> None:
    header = bytearray(HEADER)
    header[place] ^= 1
    with pytest.raises(StoreCorruptError, match=PUBLIC.hex()):
        checked_signer(bytes(header), trailer_of(HEADER, KEY), PUBLIC)


def test_a_signature_without_the_prefix_is_none() -> None:
    with pytest.raises(StoreCorruptError):
        checked_signer(HEADER, PUBLIC + KEY.sign(HEADER))


def test_whoever_asks_for_a_signer_gets_no_other_and_no_unsigned_pack() -> None:
    with pytest.raises(StoreError, match=f"signed by {PUBLIC.hex()}, got one signed by 3b6a27bc"):
        checked_signer(HEADER, trailer_of(HEADER, OTHER), PUBLIC)
    with pytest.raises(StoreError, match=f"signed by {PUBLIC.hex()}, got one that is not signed"):
        checked_signer(HEADER, None, PUBLIC)


def test_the_key_of_somebody_else_under_a_signature_is_refused() -> None:
    forged = PUBLIC + trailer_of(HEADER, OTHER)[32:]
    with pytest.raises(StoreCorruptError):
        checked_signer(HEADER, forged, PUBLIC)


def test_without_the_library_nobody_is_named_and_who_asks_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trailer = trailer_of(HEADER, KEY)
    (tmp_path / "key.pem").write_bytes(pem_of(KEY))
    for part in ("hazmat.primitives.asymmetric.ed25519", "hazmat.primitives.serialization"):
        monkeypatch.setitem(sys.modules, f"cryptography.{part}", None)
    assert checked_signer(HEADER, trailer) is None
    with pytest.raises(StoreError, match=r"pip install 'aesg\[sign\]'"):
        checked_signer(HEADER, trailer, PUBLIC)
    with pytest.raises(StoreError, match=r"pip install 'aesg\[sign\]'"):
        read_private_key(tmp_path / "key.pem")
    with pytest.raises(StoreError, match="signed by"):  # which needs no library
        checked_signer(HEADER, None, PUBLIC)


def test_a_public_key_is_given_as_bytes_digits_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "public.pem"
    pem = public_pem_of(KEY)
    path.write_bytes(pem)
    digits = PUBLIC.hex()
    for given in (
        PUBLIC,
        digits,
        digits.upper(),
        f"{digits}\n",
        path,
        str(path),
        pem,
        pem.decode(),
    ):
        assert read_public_key(given) == PUBLIC


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a PEM file of an Ed25519PublicKey"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "Ed25519PublicKey"),
        (pem_of(KEY), "Ed25519PublicKey"),
        (b"\xff" * 100_000, "Ed25519PublicKey"),
        (
            generate_private_key(SECP256R1())
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "got ECPublicKey",
        ),
    ],
    ids=["empty", "no key", "private", "no text", "another kind"],
)
def test_a_file_of_no_public_key_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "public.pem"
    path.write_bytes(content)
    with pytest.raises(AESGConfigError, match=message) as refused:
        read_public_key(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("given", ["", b"", b"short", bytes(33), 7, None, "no\0path"])
def test_what_is_no_public_key_at_all_is_refused(given: bytes) -> None:
    with pytest.raises(AESGConfigError, match="public key: expected "):
        read_public_key(given)


@pytest.mark.parametrize("given", ["nowhere.pem", "zz" * 32, Path("nowhere.pem"), "."])
def test_of_a_missing_file_it_is_said_that_it_is_the_key(given: str | Path) -> None:
    with pytest.raises(AESGConfigError, match=f"public key: expected 64 hex.*got '{given}'"):
        read_public_key(given)
    with pytest.raises(AESGConfigError, match=f"private key: expected the path .*got '{given}'"):
        read_private_key(given)


def test_a_private_key_that_is_given_for_a_public_one_is_not_shown() -> None:
    pem = pem_of(KEY)
    for given in (pem, pem.decode()):
        with pytest.raises(AESGConfigError, match="public key: expected a PEM file") as refused:
            read_public_key(given)
        assert pem.splitlines()[1].decode() not in str(refused.value)


def test_a_private_key_is_read_with_and_without_a_password(tmp_path: Path) -> None:
    open_, closed = tmp_path / "open.pem", tmp_path / "closed.pem"
    open_.write_bytes(pem_of(KEY))
    closed.write_bytes(pem_of(KEY, b"secret"))
    asked: list[bytes] = []

    def ask() -> bytes:
        asked.append(b"secret")
        return b"secret"

    assert read_private_key(open_, ask).private_bytes_raw() == SECRET
    assert not asked
    assert read_private_key(closed, ask).private_bytes_raw() == SECRET
    assert asked == [b"secret"]
    for key in (read_private_key(open_), read_private_key(closed, b"secret")):
        assert key.private_bytes_raw() == SECRET
    for path, password in ((closed, None), (closed, b"wrong"), (open_, b"secret")):
        with pytest.raises(AESGConfigError, match=path.name):
            read_private_key(path, password)


def test_the_key_in_an_error_is_never_the_private_one(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(pem_of(KEY).replace(b"-----END", b"-----EN"))
    with pytest.raises(AESGConfigError) as refused:
        read_private_key(path)
    assert pem_of(KEY).splitlines()[1].decode() not in str(refused.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="NOT TESTED: openssl is not here")
def test_keys_that_openssl_writes_are_read(tmp_path: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=tmp_path, check=True, capture_output=True)

    openssl("genpkey", "-algorithm", "ed25519", "-out", "key.pem")
    openssl("pkey", "-in", "key.pem", "-pubout", "-out", "public.pem")
    openssl("pkcs8", "-topk8", "-in", "key.pem", "-out", "closed.pem", "-passout", "pass:secret")
    key = read_private_key(tmp_path / "key.pem")
    public = read_public_key(tmp_path / "public.pem")
    assert key.public_key().public_bytes_raw() == public
    assert read_private_key(tmp_path / "closed.pem", b"secret").public_key() == key.public_key()
    assert checked_signer(HEADER, trailer_of(HEADER, key), public) == public
