"""``python -m aesg.benchmark``: colours with memory and without, on the command line."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from aesg.benchmark.colorization import ColorizationBenchmark
from aesg.benchmark.report import TITLES
from aesg.benchmark.results import ModelResult
from aesg.errors import AESGError

_FOLDER = click.Path(file_okay=False, path_type=Path)
_IMAGES = click.Path(exists=True, file_okay=False, path_type=Path)
_POSITIVE = click.IntRange(min=1)
#: What a shell expects of a program that Ctrl-C has ended.
_INTERRUPTED = 130
_ANEW = "Do not go on with a run; what is there moves to runs.1 in the output."
_SEEDS = (
    "How many trainings of both models: 3 are those of the seeds 0, 1 and 2. In Python, seeds= "
    "takes the list itself."
)


@click.command(context_settings={"show_default": True})
@click.option("--dataset", default="cifar10", type=click.Choice(["cifar10", "generated"]))
@click.option("--image-dir", type=_IMAGES, help="Images of one's own, in place of a data set.")
@click.option("--data-dir", default="data", type=_FOLDER, help="Where CIFAR-10 is, or is put.")
@click.option("--output", default="benchmark_results", type=_FOLDER, help="For report and results.")
@click.option("--images", default=2000, type=click.IntRange(min=5), help="At the most.")
@click.option("--size", default=128, type=click.IntRange(min=16), help="Pixels along a side.")
@click.option("--epochs", default=3, type=_POSITIVE)
@click.option("--seeds", default=1, type=_POSITIVE, help=_SEEDS)
@click.option("--batch-size", default=32, type=_POSITIVE)
@click.option("--device", default="cpu")
@click.option("--quick", is_flag=True, help="A small form, of under a minute.")
@click.option("--anew", is_flag=True, help=_ANEW)
def main(
    dataset: str,
    image_dir: Path | None,
    data_dir: Path,
    output: Path,
    images: int,
    size: int,
    epochs: int,
    seeds: int,
    batch_size: int,
    device: str,
    quick: bool,
    anew: bool,
) -> None:
    """Compare a colorization network with memory and the same one without.

    Exits with 1 if the run failed, with 2 for a mistake in the call, and with 130 after Ctrl-C; the
    same call then goes on.
    """
    try:
        benchmark = ColorizationBenchmark(
            dataset,
            images,
            size,
            epochs,
            output,
            image_dir=image_dir,
            data_dir=data_dir,
            seeds=range(seeds),
            batch_size=batch_size,
            device=device,
            quick=quick,
            resume=not anew,
        )
        with _heard():
            results = benchmark.run()
    except AESGError as error:
        raise click.ClickException(f"[{error.subsystem}] {error.message}") from error
    except KeyboardInterrupt:
        click.echo(f"stopped; the same call goes on with what is in {output}", err=True)
        raise SystemExit(_INTERRUPTED) from None
    console = Console()
    console.print(_table(results))
    console.print(
        f"The report is {output / 'benchmark_report.md'}", highlight=False, soft_wrap=True
    )


@contextmanager
def _heard() -> Iterator[None]:
    """Let the benchmark's own log, and no other, go to stderr for a block."""
    log, handler = logging.getLogger("aesg.benchmark"), logging.StreamHandler()
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _table(results: Mapping[str, ModelResult]) -> Table:
    table = Table("", title="Colorization", caption="seen: other views, after the memory was shown")
    for head in ("PSNR, dB", "SSIM", "seen: PSNR, dB", "concepts"):
        table.add_column(head, justify="right")
    for name, each in results.items():
        table.add_row(
            TITLES[name],
            f"{each.psnr:.2f}",
            f"{each.ssim:.4f}",
            f"{each.seen_psnr:.2f}",
            f"{each.memory_nodes:,}" if name == "aesg" else "",
        )
    return table


if __name__ == "__main__":
    main()
