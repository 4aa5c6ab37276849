"""Ed25519 signatures of packs, and the keys for them; what needs `cryptography` imports it late."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aesg.errors import AESGConfigError
from storage_backends.errors import StoreCorruptError, StoreError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

#: Bytes of a public key, of a signature, and of both at the end of a signed file.
KEY_BYTES, SIGNATURE_BYTES = 32, 64
TRAILER_BYTES = KEY_BYTES + SIGNATURE_BYTES

#: Comes before the header in what is signed, so that the signature stands for nothing else.
PREFIX = b"AESG pack signature 1\n"

#: More than any PEM file of one key has.
_LONGEST_PEM = 1 << 16

_HEX = re.compile(r"[0-9a-fA-F]{64}")
_PEM = b"-----BEGIN"
_PRIVATE = "private key"


def trailer_of(header: bytes, key: Ed25519PrivateKey) -> bytes:
    """Sign a pack.

    Parameters
    ----------
    header : bytes
        The fixed header of the file, which names the hash of all that follows it.
    key : Ed25519PrivateKey
        As of `read_private_key`.

    Returns
    -------
    bytes
        The 96 bytes that a signed file ends with: the public key, and the signature (Ed25519 of
        RFC 8032) of ``PREFIX + header``.
    """
    return key.public_key().public_bytes_raw() + key.sign(PREFIX + header)


def checked_signer(
    header: bytes, trailer: bytes | None, public_key: bytes | None = None
) -> bytes | None:
    """Check the signature of a pack.

    Parameters
    ----------
    header : bytes
        The fixed header, as in the file.
    trailer : bytes, optional
        The 96 bytes after the body; None where the pack is not signed.
    public_key : bytes, optional
        The 32 bytes of the key that must have signed it. Where None, any key may have.

    Returns
    -------
    bytes or None
        The public key of the signer, 32 bytes. None where the pack is not signed, and where nobody
        asks by whom and `cryptography` is not installed: no signer is named that was not checked.

    Raises
    ------
    StoreCorruptError
        If the signature does not belong to the header.
    StoreError
        If the pack is not signed by the given key, or that cannot be told without `cryptography`.
    """
    _demand(trailer, public_key)
    if trailer is None:
        return None
    try:
        library = _library("hazmat.primitives.asymmetric.ed25519")
    except StoreError:
        if public_key is None:
            return None
        raise
    signer, signature = trailer[:KEY_BYTES], trailer[KEY_BYTES:]
    try:
        library.Ed25519PublicKey.from_public_bytes(signer).verify(signature, PREFIX + header)
    except _library("exceptions").InvalidSignature as error:
        raise StoreCorruptError(
            f"expected a signature by {signer.hex()}, got one that does not belong to this file"
        ) from error
    return signer


def _demand(trailer: bytes | None, public_key: bytes | None) -> None:
    """Refuse a pack that does not even claim to be signed by a key."""
    if public_key is None:
        return
    if trailer is None:
        raise StoreError(
            f"expected a pack signed by {public_key.hex()}, got one that is not signed"
        )
    if trailer[:KEY_BYTES] != public_key:
        raise StoreError(
            f"expected a pack signed by {public_key.hex()}, got one signed by "
            f"{trailer[:KEY_BYTES].hex()}"
        )


def read_public_key(given: str | bytes | os.PathLike[str]) -> bytes:
    """Return the bytes of a public key.

    Parameters
    ----------
    given : str, bytes or path
        32 bytes, or their 64 hexadecimal digits, or what ``openssl pkey -in key.pem -pubout``
        writes: the content of that PEM file, or its path.

    Returns
    -------
    bytes
        32 of them.

    Raises
    ------
    AESGConfigError
        If it is none of these, or the file cannot be read.
    StoreError
        If `cryptography` is needed for it, and not installed.
    """
    if isinstance(given, bytes) and len(given) == KEY_BYTES:
        return given
    if isinstance(given, str) and _HEX.fullmatch(given.strip()):
        return bytes.fromhex(given)
    load = _library("hazmat.primitives.serialization").load_pem_public_key
    where, pem = _pem_of(given)
    key = _loaded(where, pem, load, "Ed25519PublicKey", "`openssl pkey -in PRIVATE -pubout`")
    raw: bytes = key.public_bytes_raw()
    return raw


def _pem_of(given: object) -> tuple[str, bytes]:
    """Return what a key is called in messages, and its PEM text, given or from a file."""
    what = "public key"
    if isinstance(given, str | bytes):
        text = given.encode(errors="replace") if isinstance(given, str) else given
        if _PEM in text:
            return what, text
    if isinstance(given, str | os.PathLike) and os.fspath(given):
        return f"{what} '{os.fspath(given)!s:.200}'", _content(
            given, what, f"{2 * KEY_BYTES} hexadecimal digits or "
        )
    got = f"{len(given)} bytes" if isinstance(given, bytes) else f"{given!r:.40}"
    raise AESGConfigError(
        f"{what}: expected {KEY_BYTES} bytes, {2 * KEY_BYTES} hexadecimal digits, or a PEM file as "
        f"its path or its content, got {got}"
    )


def read_private_key(
    path: str | os.PathLike[str], password: bytes | Callable[[], bytes] | None = None
) -> Ed25519PrivateKey:
    """Read a private key.

    Parameters
    ----------
    path : str or path
        A PEM file as ``openssl genpkey -algorithm ed25519`` writes it; read once.
    password : bytes or callable, optional
        Of a file that is encrypted. A callable is asked only where the file is.

    Raises
    ------
    AESGConfigError
        If the file holds none or cannot be read, or the password is not right, missing or not
        asked for.
    StoreError
        If `cryptography` is not installed.
    """
    reader = _library("hazmat.primitives.serialization").load_pem_private_key

    def load(pem: bytes) -> Any:
        given = password
        if callable(given):
            given = given() if b"ENCRYPTED" in pem else None
        return reader(pem, given)

    where, pem = f"{_PRIVATE} '{os.fspath(path)}'", _content(path, _PRIVATE)
    key: Ed25519PrivateKey = _loaded(
        where, pem, load, "Ed25519PrivateKey", "`openssl genpkey -algorithm ed25519`"
    )
    return key


def _loaded(where: str, pem: bytes, load: Callable[[bytes], Any], kind: str, made: str) -> Any:
    """Return the key in a PEM file; anything but one of that kind is refused."""
    unsupported = _library("exceptions").UnsupportedAlgorithm
    expected = f"{where}: expected a PEM file of an {kind}, as {made} writes"
    try:
        key = load(pem)
    except (ValueError, TypeError, unsupported) as error:
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise AESGConfigError(f"{expected}, got: {reason}") from error
    if not isinstance(key, getattr(_library("hazmat.primitives.asymmetric.ed25519"), kind)):
        raise AESGConfigError(f"{expected}, got {type(key).__name__}")
    return key


def _content(path: str | os.PathLike[str], what: str, others: str = "") -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_LONGEST_PEM)
    except (OSError, ValueError) as error:  # a null byte is in no path
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise AESGConfigError(
            f"{what}: expected {others}the path of its PEM file, got "
            f"'{os.fspath(path)!s:.200}' ({reason})"
        ) from error


def _library(part: str) -> Any:
    """Return a module of `cryptography`, which is an extra."""
    try:
        return import_module(f"cryptography.{part}")
    except ImportError as error:
        raise StoreError(
            f"expected the package cryptography for signatures, got: {error}; "
            "pip install 'aesg[sign]' installs it"
        ) from error
