"""Signs pack files."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from aesg._seam import storage_errors
from aesg.packs.head import HEADER_BYTES, SIGNED, VERSION, Header, decode_header
from aesg.packs.reading import read_pack
from aesg.packs.signature import KEY_BYTES, trailer_of
from aesg.packs.writing import appearing, target_of, write_all
from storage_backends.errors import StoreCorruptError, StoreError
from storage_backends.progress import Progress, silent

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_CHUNK = 1 << 20


def sign_pack(
    path: str | os.PathLike[str], key: Ed25519PrivateKey, progress: Progress = silent
) -> bytes:
    """Sign a pack; a signature that it has is replaced.

    All of the pack is examined first. The file is written anew beside the old one and takes its
    place when it is whole; the body, and so the digest of the pack, stay as they are.

    Parameters
    ----------
    path : str or path
    key : Ed25519PrivateKey
        As of `aesg.packs.signature.read_private_key`.
    progress : callable
        Told of each step.

    Returns
    -------
    bytes
        The public key, 32 bytes: what `load_pack` takes as ``public_key``.

    Raises
    ------
    AESGStorageError
        If the file is no sound pack of version 2, or cannot be written; it is as it was.
    """
    pack = read_pack(path, progress=progress)
    with storage_errors(f"sign pack file '{os.fspath(path)}'"):
        if pack.version != VERSION:
            raise StoreError(
                f"expected a pack of version {VERSION}, got one of version {pack.version}: "
                "`python -m tools.migrate` rewrites it"
            )
        target = target_of(path)
        with open(target, "rb") as file, appearing(target) as descriptor:
            header = replace(decode_header(file.read(HEADER_BYTES)), flags=SIGNED)
            if header.sha256.hex() != pack.digest:
                raise StoreCorruptError("expected the pack that was examined, got another")
            trailer = trailer_of(header.encode(), key)
            write_all(descriptor, header.encode())
            _copy_body(file.fileno(), descriptor, header)
            write_all(descriptor, trailer)
            os.fsync(descriptor)
    return trailer[:KEY_BYTES]


def _copy_body(source: int, destination: int, header: Header) -> None:
    """Copy the body; one that was changed since the pack was examined is refused."""
    found, place = hashlib.sha256(), HEADER_BYTES
    end = HEADER_BYTES + header.body_bytes
    while place < end and (piece := os.pread(source, min(_CHUNK, end - place), place)):
        found.update(piece)
        write_all(destination, piece)
        place += len(piece)
    if found.digest() != header.sha256:
        raise StoreCorruptError("expected the pack that was examined, got another")
