"""Describe a memory: what it holds, how large it is, who uses it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

import click

from storage_backends.description import Description, describe
from tools._command import EXIT_STATUSES, FINE, run, say_json, size

#: Of the stored parameters, those that an operator asks for; `--json` has all.
_HIGHLIGHTS = (
    "memory_mode",
    "max_concepts",
    "max_edges_per_node",
    "novelty_birth_threshold",
    "survival_threshold_relevance",
)
_DURABILITY = {
    "full": "full: the last commit survives a power cut",
    "normal": "normal: a power cut may undo the last commits until the writer has closed",
    "unknown": "unknown",
}
_HASH = re.compile("[0-9a-f]{64}")
_COUNTERS = ("epoch", "tick", "next_id")


@click.command(epilog=EXIT_STATUSES)
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def stats(directory: Path, as_json: bool) -> int:
    """Describe the memory in DIRECTORY; nothing is changed, and everybody may go on."""
    found = describe(directory)
    if as_json:
        say_json(found)
        return FINE
    rows = list(_rows(found))
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        click.echo(f"{label:<{width}}  {text}")
    return FINE


def _rows(found: Description) -> Iterator[tuple[str, str]]:
    sizes = found.sizes
    yield "directory", f"{found.directory} ({found.folder}, schema {found.schema})"
    yield "uuid", found.uuid
    yield "generation", f"{sizes.generation:,}"
    yield "concepts", f"{sizes.concepts:,} of {found.vector_dim} dimensions"
    yield "provisional", f"{found.provisional:,}"
    yield "edges", f"{sizes.edges:,}"
    yield "payloads", f"{sizes.payloads:,}"
    yield "aliases", f"{sizes.aliases:,}"
    yield "regions", f"{found.regions:,}"
    yield "events", _events(found)
    yield "log", f"{sizes.log_entries:,} entries"
    yield from _stored(found)
    yield from _on_disk(found)
    yield "durability", _DURABILITY[found.durability]
    yield from _users(found)


def _events(found: Description) -> str:
    sizes, times = found.sizes, found.event_times
    gone = f", {sizes.first_event:,} older ones gone" if sizes.first_event else ""
    if times is None:
        return f"{sizes.events:,}{gone}"
    first, last = map(_moment, times)
    return f"{sizes.events:,} from {first} to {last}{gone}"


def _moment(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).isoformat()
    except (ValueError, OverflowError, OSError):  # no date: a clock that was wrong
        return f"second {seconds}"


def _stored(found: Description) -> Iterator[tuple[str, str]]:
    config = _config_of(found)
    chosen = [f"{name} {config[name]}" for name in _HIGHLIGHTS if name in config]
    yield "config", ", ".join(chosen) or "none stored"
    counted = [f"{name} {found.settings[name]}" for name in _COUNTERS if name in found.settings]
    yield "counters", ", ".join(counted) or "none stored"


def _config_of(found: Description) -> dict[str, object]:
    try:
        config = json.loads(found.settings.get("config", "{}"))
    except ValueError:
        config = {}
    return config if isinstance(config, dict) else {}


def _on_disk(found: Description) -> Iterator[tuple[str, str]]:
    yield "total on disk", size(sum(found.files.values()))
    for name, count in found.files.items():
        yield f"  {_short(name)}", size(count)
    pages = found.pages
    share = pages.free / max(pages.total, 1)
    yield "free pages", f"{pages.free:,} of {pages.total:,} ({share:.0%}) of {pages.size} bytes"
    snapshot = found.snapshot
    if snapshot is None:
        yield "snapshot", "none"
    else:
        yield (
            "snapshot",
            f"generation {snapshot.generation:,} ({snapshot.behind:,} behind), graph over "
            f"{snapshot.graph_size:,} concepts, {size(snapshot.bytes)}, "
            f"{_age(snapshot.age_seconds)} old",
        )
    for pack in found.packs:
        state = "its file is missing" if pack.bytes is None else size(pack.bytes)
        yield "pack", f"{pack.name}, priority {pack.priority}, {state} ({_short(pack.file)})"


def _short(name: str) -> str:
    """Return the path of a file, with a hash in it shortened."""
    return _HASH.sub(lambda found: found[0][:12] + "...", name)


def _users(found: Description) -> Iterator[tuple[str, str]]:
    yield "writer", found.writer or "none"
    readers = [
        f"process {reader.pid}"
        + ("" if reader.transaction is None else f" (reading transaction {reader.transaction})")
        for reader in found.readers
    ]
    yield "readers", ", ".join(readers) or "none"


def _age(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process where None.
    """
    return run(stats, argv)


if __name__ == "__main__":
    sys.exit(main())
