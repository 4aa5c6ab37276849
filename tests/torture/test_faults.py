"""A system call that fails, or in which the process dies, costs at most what it was doing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.faults import FAULTS, Sweep, spread_out
from tests.torture.figures import keep
from tests.torture.workers import Workers

_JOBS = {
    "begin_commit": "commits",
    "begin_snapshot": "snapshots",
    "begin_compact": "compaction",
    "begin_restore": "restoring",
}
_MOST_POSITIONS = 100
#: Of which the tests of restoring have a quick form.
_SLOW = {"begin_restore": pytest.mark.long}


@pytest.mark.parametrize(
    "program", [pytest.param(each, marks=_SLOW.get(each, ())) for each in _JOBS]
)
def test_a_fault_in_a_system_call_leaves_a_sound_memory(
    forks: Workers, tmp_path: Path, program: str
) -> None:
    sweep = _sweep(forks, tmp_path, program)
    tally = sweep.run(spread_out(sweep.positions(), 5), list(FAULTS.values()))
    assert tally.notes == []
    assert tally.trials >= 4


@pytest.mark.torture
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("program", _JOBS)
def test_a_fault_in_any_system_call_leaves_a_sound_memory(
    forks: Workers, tmp_path: Path, program: str, fault: str
) -> None:
    sweep = _sweep(forks, tmp_path, program)
    positions = spread_out(sweep.positions(), _MOST_POSITIONS)
    tally = sweep.run(positions, [FAULTS[fault]])
    keep(f"{fault} in a system call of {_JOBS[program]}", tally)
    assert tally.notes == []
    assert tally.trials > 0.8 * len(positions) > 15


def _sweep(forks: Workers, folder: Path, program: str) -> Sweep:
    memory = folder / "memory"
    forks.begin("keep_house", memory, "full", 1).rest()
    if program == "begin_restore":
        forks.begin("make_source", memory).rest()
    return Sweep(forks, folder, memory, program)
