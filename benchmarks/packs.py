"""Packs against those of release 3.0.0, on the same concepts and edges, in one run.

That release is installed into an environment of its own and fills a memory, which comes over by
``aesg.migration``. Then both export and load a pack of all of it, in turn: medians of the seconds
of the processor, and the size of the file. Packs of 64 MiB and more are kept in the cache, mapped
from then on: they are loaded with an empty cache, and again.

    python benchmarks/packs.py [--concepts 100000] [--edges 1000000] [--dim 64] [--json FILE]
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import numpy as np
import zstandard
from _earlier import RELEASE, Earlier, NoReleaseError, earlier
from rich.console import Console
from rich.table import Table

from aesg import AESGMemory
from aesg.migration import migrate
from storage_backends.engine import Engine
from storage_backends.lmdb_store import LMDBStore

#: Of this release's figure to the other's, at most.
GOALS = {"size": 0.5, "export": 0.6, "import": 0.65, "import again": 0.65}


def used(call: Callable[[], object]) -> float:
    """Return the seconds of the processor that a call takes."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def prepare(side: Earlier, folder: Path, concepts: int, edges: int, dim: int) -> float:
    """Fill a memory of release 3.0.0, bring it over, and return the seconds that this took."""
    old, new = folder / "old", folder / "new"
    side("open_memory", str(old), dim, max(concepts, edges // 5))
    side("fill", concepts, edges)
    seconds = used(lambda: migrate(old, new))
    with closing(Engine(LMDBStore.open(new))) as engine:
        engine.rebuild()  # so that nothing is built while we measure
    return seconds


def measure(side: Earlier, folder: Path, repeats: int) -> dict[str, dict[str, list[float]]]:
    """Let both export and load in turn, and return the seconds of each."""
    old, new = folder / "old.aesgpack", folder / "new.aesgpack"
    found: dict[str, dict[str, list[float]]] = {what: {} for what in GOALS if what != "size"}
    with AESGMemory.open(folder / "new") as memory:
        for turn in range(repeats + 1):
            os.environ["AESG_CACHE"] = str(folder / f"cache-{turn}")
            times = {
                ("export", RELEASE): side("export", str(old)),
                ("export", "now"): used(lambda: memory.export_pack(new)),
            }
            for what in ("import", "import again"):
                times[what, RELEASE] = side("load", str(old))
                times[what, "now"] = used(lambda: memory.load_pack(new))
            shutil.rmtree(os.environ["AESG_CACHE"], ignore_errors=True)
            for (what, who), seconds in times.items():
                found[what].setdefault(who, []).extend([seconds] if turn else [])  # one to warm up
    return found


def summary(folder: Path, times: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Return each release's median or size, and their ratio."""
    rows = {
        "size": {
            RELEASE: (folder / "old.aesgpack").stat().st_size,
            "now": (folder / "new.aesgpack").stat().st_size,
        }
    }
    for what, sides in times.items():
        rows[what] = {who: statistics.median(seconds) for who, seconds in sides.items()}
    return {what: {**row, "ratio": row["now"] / row[RELEASE]} for what, row in rows.items()}


def shown(rows: dict[str, dict[str, float]]) -> Table:
    """Return the figures as a table."""
    table = Table("a pack", f"release {RELEASE}", "now", "ratio", "goal")
    for what, row in rows.items():
        scale, unit = (1e-6, "MB") if what == "size" else (1e3, "ms CPU")
        cells = [f"{row[who] * scale:,.1f} {unit}" for who in (RELEASE, "now")]
        table.add_row(what, *cells, f"{row['ratio']:.2f}", f"{GOALS[what]:.2f}")
    return table


@click.command()
@click.option("--concepts", default=100_000, show_default=True, type=click.IntRange(min=1))
@click.option("--edges", default=1_000_000, show_default=True, type=click.IntRange(min=0))
@click.option("--dim", default=64, show_default=True, type=click.IntRange(1, 8192))
@click.option("--repeats", default=9, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--environment",
    type=click.Path(path_type=Path),
    help=f"Keep the environment of release {RELEASE} here; used again.",
)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Also write figures here.")
def main(
    concepts: int,
    edges: int,
    dim: int,
    repeats: int,
    environment: Path | None,
    path: Path | None,
) -> None:
    """Compare packs with those of release 3.0.0."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["AESG_CACHE"] = str(folder)
        try:
            with earlier(environment or folder / "environment") as side:
                migration = prepare(side, folder, concepts, edges, dim)
                times = measure(side, folder, repeats)
        except NoReleaseError as error:
            raise click.ClickException(str(error)) from error
        rows = summary(folder, times)
    console = Console()
    console.print(f"{concepts:,} concepts, {dim} wide, {edges:,} edges; medians of {repeats}")
    console.print(shown(rows))
    console.print(f"brought over from release {RELEASE} in {migration:.1f} s CPU")
    if path is not None:
        path.write_text(
            json.dumps(described(rows, times, migration, concepts, edges, dim), indent=2)
        )


def described(
    rows: dict[str, dict[str, float]],
    times: dict[str, dict[str, list[float]]],
    migration: float,
    *sizes: int,
) -> dict[str, Any]:
    """Return all figures, with what they were taken on."""
    return {
        **dict(zip(("concepts", "edges", "dim"), sizes, strict=True)),
        "figures": rows,
        "seconds": times,
        "migration_seconds": migration,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "zstandard": zstandard.__version__,
    }


if __name__ == "__main__":
    main()
