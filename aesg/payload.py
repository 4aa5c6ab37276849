"""Payloads: small msgpack values that a concept carries for its user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np

from aesg.errors import AESGMemoryError

#: A payload is a label or a text, not a file.
MAX_BYTES = 65_536


def pack_payloads(payloads: Sequence[Any] | None, count: int) -> list[bytes | None]:
    """Encode one payload for each of ``count`` concepts; None stays None.

    Raises
    ------
    AESGMemoryError
        If the number differs, or a payload cannot be encoded, or not be decoded again, or is
        longer than `MAX_BYTES`.
    """
    if payloads is None:
        return [None] * count
    listed = isinstance(payloads, Sequence | np.ndarray) and not isinstance(payloads, str | bytes)
    listed = listed and getattr(payloads, "shape", None) != ()
    if not listed or len(payloads) != count:
        got = len(payloads) if listed else type(payloads).__name__
        raise AESGMemoryError(f"payloads: expected a sequence of {count}, got {got}")
    return [None if item is None else _packed(item, place) for place, item in enumerate(payloads)]


def unpack_payload(packed: bytes | None) -> Any:
    """Decode one payload.

    Raises
    ------
    AESGMemoryError
        If there is no room for what it holds, which may be many times its length.
    """
    try:
        return None if packed is None else msgpack.unpackb(packed, strict_map_key=False)
    except MemoryError as error:
        raise AESGMemoryError(
            f"Payload of {len(packed or b'')} bytes: expected room for what it holds, got none"
        ) from error


def _packed(payload: Any, place: int) -> bytes:
    try:
        packed: bytes = msgpack.packb(payload)
        unpack_payload(packed)  # a map may have keys that can be written and not be read
    except (TypeError, ValueError, OverflowError) as error:
        raise AESGMemoryError(
            f"payloads[{place}]: expected what msgpack can encode, "
            f"got {type(payload).__name__} ({error})"
        ) from error
    if len(packed) > MAX_BYTES:
        raise AESGMemoryError(
            f"payloads[{place}]: expected at most {MAX_BYTES} bytes, got {len(packed)}"
        )
    return packed
