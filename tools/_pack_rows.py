"""The concepts of a pack as `tools.pack info --list` shows them."""

from __future__ import annotations

import json
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from aesg._tables import as_text, printable
from aesg.packs import Pack
from storage_backends.types import ValueKind

#: Signs of a payload that a table shows.
_MOST_SIGNS = 48

_INDENT = 2


def as_table(pack: Pack, count: int) -> str:
    """Return the first concepts of a pack as a table, in which payloads are one line each."""
    table = Table(box=SIMPLE, pad_edge=False)
    for column in ("id", "value", "payload", "uses", "relevance", "region"):
        table.add_column(column, justify="left" if column == "payload" else "right", no_wrap=True)
    for row, payload in _rows(pack, count):
        table.add_row(
            str(row["id"]),
            str(row["value"]),
            "" if payload is None else _line(payload),
            f"{row['uses']:,}",
            f"{row['relevance']:.3f}",
            str(row["region"]),
        )
    return as_text(table).strip("\n")


def as_json_rows(pack: Pack, count: int) -> list[dict[str, Any]]:
    """Return the first concepts of a pack; payloads that JSON cannot hold are text."""
    return [{**row, "payload": _in_json(payload)} for row, payload in _rows(pack, count)]


def _rows(pack: Pack, count: int) -> list[tuple[dict[str, Any], Any]]:
    count = min(count, pack.node_count)
    rows = []
    for node, payload in zip(pack.nodes[:count], pack.payloads(slice(count)), strict=True):
        kind = ValueKind(int(node["value_kind"]))
        row = {
            "id": int(node["id"]),
            "value": int(node["value_id"]) if kind is ValueKind.INTEGER else kind.name.lower(),
            "uses": int(node["use_frequency"]),
            "relevance": float(node["relevance"]),
            "region": int(node["region_id"]),
        }
        rows.append((row, payload))
    return rows


def _line(payload: Any) -> str:
    """Return a payload as one short line that no terminal takes for a command."""
    text = payload if isinstance(payload, str) else _written(payload)
    text = " ".join(text[: 4 * _MOST_SIGNS].split())
    text = printable(text)
    return text if len(text) <= _MOST_SIGNS else f"{text[: _MOST_SIGNS - 3]}..."


def _written(payload: Any) -> str:
    try:
        return repr(payload)
    except RecursionError:
        return "nested too deeply to be shown"


def _in_json(payload: Any) -> Any:
    try:
        json.dumps([[[payload]]], indent=_INDENT, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return _written(payload)
    return payload
