"""A trainer and several readers at work on one memory, for a minute, with every answer checked.

After a third of the time the trainer is killed, the memory is compacted under the readers, and a
new trainer goes on. Exit status: 0 if nothing went wrong, 1 otherwise.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import click
from rich.console import Console

from examples.serving.editions import still_held
from examples.serving.load import Load
from examples.serving.processes import Program, run_module
from examples.serving.report import Acknowledged, Verdict, table_of, verdicts
from examples.serving.watch import Watch

_UVICORN = ("uvicorn", "examples.serving.app:app", "--port", "0", "--no-access-log")

#: Without markup: what tools print holds brackets of its own.
console = Console(highlight=False, markup=False)


class Stage:
    """What runs on one memory, and what went wrong with it.

    Parameters
    ----------
    folder : Path
        Where memory and output lie.
    facts : int
        Concepts to start with.
    running : ExitStack
        Ends the processes.
    """

    def __init__(self, folder: Path, facts: int, running: ExitStack) -> None:
        self.problems: list[str] = []
        self._folder, self._facts, self._running = folder, facts, running
        self._memory = folder / "memory"
        self._trainers: list[Program] = []
        self._readers: list[Program] = []

    def start_trainer(self) -> None:
        """Start a trainer; return when it has published its first edition."""
        name = f"trainer-{len(self._trainers) + 1}"
        options = ("--facts", str(self._facts), "--after", str(self.newest()))
        arguments = ("examples.serving.trainer", str(self._memory), *options)
        trainer = self._running.enter_context(Program(name, self._folder, *arguments))
        self._trainers.append(trainer)
        edition = trainer.wait_for(r"(\d+) .*\n", trainer.out)[1]
        console.print(f"{name} publishes from edition {edition} on")

    def kill_trainer(self) -> None:
        """Kill the trainer, whatever it is doing."""
        self._trainers[-1].kill()
        console.print(f"{self._trainers[-1].name} killed with SIGKILL")

    def start_readers(self, count: int) -> Sequence[str]:
        """Start readers, each a server of its own; return their addresses when all answer."""
        environment = {"AESG_DIRECTORY": str(self._memory)}
        for number in range(1, count + 1):
            reader = Program(f"reader-{number}", self._folder, *_UVICORN, environment=environment)
            self._readers.append(self._running.enter_context(reader))
        urls = [each.wait_for(r"running on (http://\S+)", each.log)[1] for each in self._readers]
        console.print(f"{count} readers answer at {', '.join(urls)}")
        return urls

    def run_tool(self, name: str) -> None:
        """Run a tool on the memory and print what it says."""
        status, printed = run_module(f"tools.{name}", str(self._memory))
        console.print(f"python -m tools.{name}: {printed}")
        if status:
            self.problems.append(f"tools.{name} exited with {status}")

    def end_all(self) -> None:
        """End trainer and readers, as an operator would; each must end well."""
        for program in (self._trainers[-1], *self._readers):
            status = program.end()
            if status not in (0, -signal.SIGTERM):  # uvicorn passes the signal on to itself
                text = program.log.read_text()
                self.problems.append(f"{program.name} exited with {status}\n{text}")

    def newest(self) -> int:
        """Return the newest edition that was acknowledged so far; 0 if none was."""
        return max((Acknowledged.last_in(each.out) for each in self._trainers), default=0)

    def load(self, urls: Sequence[str]) -> Load:
        """Return the clients of all readers."""
        return Load(urls, self.newest, still_held(self._facts))

    def watch(self) -> Watch:
        """Return what looks at the snapshots."""
        processes = {number: each.process_id for number, each in enumerate(self._readers, start=1)}
        return Watch(self._memory, processes)

    def acknowledged(self) -> Acknowledged:
        """Return what all trainers acknowledged."""
        return Acknowledged.read([trainer.out for trainer in self._trainers])


@click.command(context_settings={"show_default": True})
@click.option("--seconds", default=60, type=click.IntRange(2, 600), help="Time under load.")
@click.option("--readers", default=4, type=click.IntRange(1, 16), help="Reader processes.")
@click.option("--facts", default=30_000, type=click.IntRange(1), help="Concepts at the start.")
def main(seconds: int, readers: int, facts: int) -> None:
    """Serve a memory over HTTP while it is written, killed, compacted and written again."""
    with TemporaryDirectory(prefix="aesg-serving-") as folder, ExitStack() as running:
        stage = Stage(Path(folder), facts, running)
        judged, watch = _serve(stage, seconds, readers)
        stage.run_tool("verify")
    console.print(table_of(judged, watch.mapped))
    console.print(f"{len(watch.written)} snapshots of the index were written")
    for name, moment in watch.written.items():
        console.print(f"    {name} within {moment:.1f} s")
    problems = stage.problems + [
        f"reader {reader}: {complaint}"
        for reader, verdict in judged.items()
        for complaint in verdict.complaints
    ]
    if watch.written and not all(watch.mapped.values()):
        problems.append(f"snapshots were written, and readers mapped only {watch.mapped}")
    for problem in problems:
        console.print(f"PROBLEM: {problem}")
    sys.exit(1 if problems else 0)


def _serve(stage: Stage, seconds: int, readers: int) -> tuple[dict[int, Verdict], Watch]:
    stage.start_trainer()
    urls = stage.start_readers(readers)
    with stage.watch() as watch, stage.load(urls) as load:
        time.sleep(seconds / 3)
        stage.kill_trainer()
        stage.run_tool("compact")
        stage.start_trainer()
        time.sleep(seconds * 2 / 3)  # enough for the new trainer to build an index
    stage.end_all()
    known = stage.acknowledged()
    console.print(f"{len(known.editions)} editions acknowledged, the last {known.editions[-1]}")
    return verdicts(load.clients, known), watch


if __name__ == "__main__":
    main()
