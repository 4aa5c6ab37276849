"""Packs: export, describe, examine, compare, merge and sign them."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import click

from aesg import AESGError, AESGMemory, AESGStorageError
from aesg._tables import counted, printable
from aesg.packs import read_head, read_pack
from aesg.packs.diff import diff as compare
from aesg.packs.head import Head
from aesg.packs.merging import MergeReport
from aesg.packs.signature import read_private_key, read_public_key
from aesg.packs.signing import sign_pack
from storage_backends.errors import StoreError
from tools._command import (
    EXIT_STATUSES,
    FAILED,
    FINE,
    NOT_DONE,
    progress,
    run,
    say_json,
    size,
)
from tools._pack_rows import as_json_rows, as_table

#: From here on the environment may give the password of a private key.
PASSWORD_VARIABLE = "AESG_KEY_PASSWORD"

_MOST_LISTED = 20

_as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object instead of text."
)
_directory = click.argument("directory", type=click.Path(path_type=Path))
_pack_file = click.argument("pack", type=click.Path(path_type=Path))
_public_key = click.option(
    "--public-key",
    metavar="KEY",
    help="Accept a pack only if it was signed with the private key of this one: 64 hexadecimal "
    "digits, or a PEM file.",
)


@click.group()
def pack() -> None:
    """Make packs of a memory, examine them, and bring them into a memory."""


@pack.command(epilog=EXIT_STATUSES)
@_directory
@click.argument("pack", type=click.Path())  # as text: a Path would lose a slash at its end
@click.option("--region", "region_id", type=int, help="Concepts of this region only.")
@click.option("--min-relevance", type=float, help="Concepts of at least this relevance only.")
@click.option("--id", "ids", type=int, multiple=True, help="This concept only; may be repeated.")
@click.option(
    "--ids",
    "id_file",
    type=click.File(encoding="utf-8-sig"),
    help="Those of a file, one id a line.",
)
@click.option("--top", "top_n", type=int, metavar="N", help="Of all these the N best.")
@click.option(
    "--by",
    type=click.Choice(["relevance", "frequency"]),
    default="relevance",
    show_default=True,
    help="What is best.",
)
@click.option("--values/--no-values", default=True, help="Whether values go along. Default: yes.")
@click.option("--payloads/--no-payloads", default=True, help="The same of payloads.")
@click.option("--name", help="Name of the pack. Default: that of the file, wherever it lies.")
@click.option("--notes", default="", help="Free text that goes along.")
@click.option("--licence", default="", help="Under which others may use it.")
@_as_json
def export(
    directory: Path,
    pack: str,
    ids: tuple[int, ...],
    id_file: TextIO | None,
    as_json: bool,
    **criteria: Any,
) -> int:
    """Write concepts of the memory in DIRECTORY, and the edges between them, to PACK.

    The memory is read only, and a writer may be at work: the pack holds the last commit. A pack
    that is there is replaced. Criteria are combined: what fulfils all of them is exported.
    """
    chosen = _chosen(ids, id_file)
    with progress() as bars, AESGMemory.open(directory) as memory:
        report = memory.export_pack(pack, ids=chosen, progress=bars, **criteria)
    if as_json:
        say_json(report)
    else:
        click.echo(
            f"{printable(pack)}: {_graph(report.concepts, report.edges)}, {size(report.bytes)}"
        )
    return FINE


def _chosen(ids: Sequence[int], file: TextIO | None) -> list[int] | None:
    """Return the ids of both options, or None where neither is given."""
    if file is None:
        return list(ids) or None
    found = list(ids)
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                found.append(int(line))
            except ValueError:
                where = f"{printable(file.name)}: line {number}"
                reason = f"{where}: expected an id, got {line.strip()!r:.40}"
                raise click.UsageError(reason) from None
    return found


@pack.command(epilog=EXIT_STATUSES)
@_pack_file
@click.option(
    "--list",
    "listed",
    type=click.IntRange(min=1),
    metavar="N",
    help="Show the first N concepts, too. For this all of PACK is read and examined.",
)
@_as_json
def info(pack: Path, listed: int | None, as_json: bool) -> int:
    """Show what PACK says of itself. Nothing of it is confirmed: `verify` does that."""
    head = read_head(pack)
    shown = None
    if listed is not None:
        with progress() as bars:
            shown = read_pack(pack, progress=bars)
    if as_json:
        described = {"path": str(pack), **dataclasses.asdict(head)}
        if shown is not None and listed is not None:
            described["nodes"] = as_json_rows(shown, listed)
        click.echo(json.dumps(described, indent=2))
        return FINE
    rows = list(_rows(pack, head))
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        # Of several lines the others stand under the first.
        click.echo(f"{label:<{width}}  {text}".replace("\n", "\n" + " " * (width + 2)))
    if shown is not None and listed is not None:
        click.echo(as_table(shown, listed))
    return FINE


def _rows(path: Path, head: Head) -> Iterator[tuple[str, str]]:
    origin = head.provenance
    yield "pack", f"{printable(str(path))} (format {head.version})"
    yield "name", head.name or f"{printable(path.stem)} (of the file)"
    yield "concepts", f"{head.concepts:,} of {head.vector_dim} dimensions"
    yield "edges", f"{head.edges:,}"
    yield "payloads", size(head.payload_bytes)
    yield "memory", f"{origin.memory_uuid or 'unknown'}, generation {origin.generation:,}"
    yield "created", _moment(origin.created) if origin.created else "not told"
    yield "library", origin.library or "unknown"
    yield "licence", origin.licence or "not stated"
    if origin.notes:
        yield "notes", origin.notes
    yield "digest", head.digest
    yield "signed", "yes; `verify` checks it" if head.is_signed else "no"
    yield "on disk", size(head.file_bytes)
    yield "in memory", size(head.nbytes)


def _moment(microseconds: int) -> str:
    try:
        return datetime.fromtimestamp(microseconds // 1_000_000, timezone.utc).isoformat()
    except (ValueError, OverflowError, OSError):  # no date: whoever wrote it had none
        return f"microsecond {microseconds}"


@pack.command(epilog=EXIT_STATUSES)
@click.argument(
    "packs", metavar="PACK...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@_public_key
@_as_json
def verify(packs: tuple[Path, ...], public_key: str | None, as_json: bool) -> int:
    """Examine all of each PACK: hash, signature and every column."""
    key = None if public_key is None else read_public_key(public_key)
    found = []
    for path in packs:
        with progress() as bars:
            found.append(_examined(path, key, bars))
        if not as_json:
            click.echo(_verdict(found[-1]))
    if as_json:
        click.echo(json.dumps({"packs": found}, indent=2))
    return max(int(entry["status"]) for entry in found)


def _examined(path: Path, key: bytes | None, bars: Callable[..., None]) -> dict[str, Any]:
    """Return what was found: a pack that is not as it must be is a finding, not an error."""
    try:
        found = read_pack(path, public_key=key, progress=bars)
    except AESGStorageError as error:
        status = NOT_DONE if isinstance(error.__cause__, StoreError) else FAILED
        return {"path": str(path), "status": status, "problem": str(error)}
    return {
        "path": str(path),
        "status": FINE,
        "problem": None,
        "name": found.name,
        "version": found.version,
        "concepts": found.node_count,
        "edges": found.edge_count,
        "digest": found.digest,
        "signer": None if found.signer is None else found.signer.hex(),
    }


def _verdict(entry: dict[str, Any]) -> str:
    if entry["problem"] is not None:
        return printable(str(entry["problem"]))  # which names the file
    signer = entry["signer"]
    return (
        f"{printable(entry['path'])}: no problems in {_graph(entry['concepts'], entry['edges'])}; "
        f"{'not signed' if signer is None else f'signed by {signer}'}"
    )


@pack.command(epilog=EXIT_STATUSES)
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@_as_json
def diff(first: Path, second: Path, as_json: bool) -> int:
    """Say how the pack SECOND differs from FIRST; the exit status is 1 where it does.

    Names, notes and licences are not compared.
    """
    with progress() as bars:
        packs = [read_pack(path, progress=bars) for path in (first, second)]
    found = compare(*packs)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
    else:
        click.echo(str(found).rstrip())
    return NOT_DONE if found else FINE


@pack.command(epilog=EXIT_STATUSES)
@_pack_file
@_directory
@click.option(
    "--similarity",
    type=float,
    help="Cosine from which two keys are the same. Default: that of the memory.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@_public_key
@_as_json
def merge(
    pack: Path,
    directory: Path,
    similarity: float | None,
    dry_run: bool,
    public_key: str | None,
    as_json: bool,
) -> int:
    """Bring the concepts of PACK into the memory in DIRECTORY for good.

    What the memory knows already is merged; where the two disagree, it is reported. A crash at any
    instant leaves the memory as it was, or with all of the pack. A writer must have closed it. Its
    parameters stay.
    """
    with progress() as bars, AESGMemory.open(directory) as memory:
        if not dry_run:
            memory.set_mode("ONLINE")  # of this handle alone; it prunes nothing to make room
        found = memory.load_pack(pack, public_key=public_key, progress=bars)
        report = memory.merge_pack(found, similarity=similarity, dry_run=dry_run, progress=bars)
    if as_json:
        said = dataclasses.asdict(report) | {"ids": report.ids.tolist(), "dry_run": dry_run}
        said["conflicts"] = [conflict._asdict() for conflict in report.conflicts]
        click.echo(json.dumps(said, indent=2))
    else:
        _say_merged(directory, report, dry_run)
    return FINE


def _say_merged(directory: Path, report: MergeReport, dry_run: bool) -> None:
    click.echo(
        f"{printable(str(directory))}: {counted(report.added, 'concept')} added and "
        f"{report.merged:,} merged, "
        f"{counted(report.edges_added, 'edge')} added and {report.edges_merged:,} merged, "
        f"{counted(len(report.conflicts), 'conflict')}"
        f"{'; nothing was changed' if dry_run else ''}"
    )
    for conflict in report.conflicts[:_MOST_LISTED]:
        click.echo(
            f"  concept {conflict.id} has another {conflict.what} than concept "
            f"{conflict.position} of the pack"
        )
    if len(report.conflicts) > _MOST_LISTED:
        click.echo(f"  and {len(report.conflicts) - _MOST_LISTED:,} more; --json has all")


@pack.command(epilog=EXIT_STATUSES)
@_pack_file
@click.option(
    "--key",
    "key_file",
    required=True,
    type=click.Path(path_type=Path),
    help="Private key, as `openssl genpkey -algorithm ed25519` writes it.",
)
@_as_json
def sign(pack: Path, key_file: Path, as_json: bool) -> int:
    """Sign PACK, in its place. Its body, and so its digest, stays the same.

    The password of a key that has one is asked for, or taken from AESG_KEY_PASSWORD.
    """
    key = read_private_key(key_file, partial(_password, key_file))
    with progress() as bars:
        signer = sign_pack(pack, key, bars)
    if as_json:
        click.echo(json.dumps({"path": str(pack), "signer": signer.hex()}, indent=2))
    else:
        click.echo(f"{printable(str(pack))}: signed by {signer.hex()}")
    return FINE


def _password(key_file: Path) -> bytes:
    given = os.environ.get(PASSWORD_VARIABLE)
    if given is None:
        try:
            given = click.prompt(
                f"Password of {printable(str(key_file))}", hide_input=True, err=True
            )
        except click.Abort as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                raise
            reason = f"private key '{printable(str(key_file))}': expected its password, got none"
            raise click.ClickException(reason) from error
    return given.encode()


def _graph(concepts: int, edges: int) -> str:
    return f"{counted(concepts, 'concept')} and {counted(edges, 'edge')}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process where None.
    """
    return run(pack, argv, (AESGError,))


if __name__ == "__main__":
    sys.exit(main())
