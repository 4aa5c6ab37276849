"""What the benchmarks of training steps are made of."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import torch

from aesg import AESGConfig, AESGMemory
from aesg.models import AESGGRUText
from benchmarks._large import CLUSTER, vectors
from benchmarks._memories import queries_near
from benchmarks._sampling import REST, Sampler
from benchmarks._steps import TURN, WARM_UP, Steps, asked, filled, paired_steps

_V, _T, _DIM = 20, 3, 8


def _model(memory: AESGMemory) -> AESGGRUText:
    torch.manual_seed(0)
    return AESGGRUText(_V, memory, hidden_size=8)


def _steps(memory: list[float], twin: list[float]) -> Steps:
    return Steps(np.array(memory), np.array(twin), novel=0.25)


def test_a_ratio_is_that_of_all_steps_together_and_its_quartiles_are_of_turns() -> None:
    steps = _steps([2.0] * TURN + [4.0] * TURN, [1.0] * TURN + [3.0] * TURN)
    assert steps.ratio == 60 / 40
    low, high = steps.quartiles
    assert 4 / 3 < low < high < 2
    ratio = steps.as_ratio(5, "a step", 1.3)
    assert (ratio.value, ratio.met) == (1.5, False)
    assert "25%" in ratio.note


def test_a_row_tells_steps_that_ask_from_those_that_rest() -> None:
    turn = [1.0 if number in (2, 5, 8) else 3.0 for number in range(TURN)]
    row = _steps(turn, [1.0] * TURN).as_row("a way")
    assert row == ("a way", "3000.0", "1000.0", "2400.0", "1000.0", "2.40", "25%")


def test_a_filled_memory_finds_what_it_was_given_and_leads_to_what_came_next(
    tmp_path: Path,
) -> None:
    keys, values = torch.randn(40, _DIM), torch.arange(40)
    with filled(tmp_path / "memory", keys, values) as memory:
        found = memory.retrieve(keys[7], top_k=1)
        assert memory.storage.node_count == 40
        assert memory.storage.edge_count > 40 * 8
        first = int(found.concept_ids[0])
        targets = [edge.target for edge in memory.edges(first)]
    assert len(set(targets)) == len(targets)
    assert first + 1 in targets
    assert first not in targets


def test_model_and_twin_make_the_same_steps_and_three_of_ten_run_without_the_memory(
    tmp_path: Path,
) -> None:
    config = AESGConfig(vector_dim=_DIM)
    batches = [
        (torch.randint(_V, (2, _T)), torch.randint(_V, (2, _T))) for _ in range(WARM_UP + TURN)
    ]
    with AESGMemory(tmp_path / "empty", config) as empty:
        twin = _model(empty)
        keys = asked(twin.eval().queries, [inputs for inputs, _ in batches[:3]])
        with filled(tmp_path / "memory", keys, torch.zeros(len(keys), dtype=torch.long)) as memory:
            model = _model(memory)
            before = memory.rates.queries
            steps = paired_steps(model, twin, batches)
            asking = memory.rates.queries - before
        assert empty.storage.node_count == 0
    assert len(steps.memory) == len(steps.twin) == TURN
    assert (steps.memory > 0).all() and (steps.twin > 0).all()
    assert asking == 2 * _T * (WARM_UP + TURN - 5)  # two of the five in the warm-up
    assert 0 <= steps.novel <= 1


def test_queries_lie_near_concepts_of_the_memory() -> None:
    queries = queries_near(3 * CLUSTER, 50, seed=1)
    keys = torch.from_numpy(vectors(0, 3 * CLUSTER, queries.shape[1]))
    cosines = torch.nn.functional.normalize(queries) @ torch.nn.functional.normalize(keys).T
    assert float(cosines.amax(1).min()) > 0.9


def _busy(seconds: float) -> None:
    begin = time.process_time()
    while time.process_time() - begin < seconds:
        pass


def _outer(seconds: float) -> None:
    _busy(seconds)


def test_time_belongs_to_the_innermost_part() -> None:
    sampler = Sampler({":_busy": "inner", ":_outer": "outer"})
    with sampler.running():
        _outer(0.05)
    assert set(sampler.seconds) <= {"inner", "outer", REST}
    assert sampler.seconds["inner"] > 0.5 * sum(sampler.seconds.values())


def test_time_of_what_has_no_part_belongs_to_who_calls() -> None:
    sampler = Sampler({":_busy": None, ":_outer": "outer"})
    with sampler.running():
        _outer(0.05)
    assert sampler.seconds["outer"] > 0.5 * sum(sampler.seconds.values())


def test_only_what_runs_within_a_function_counts() -> None:
    sampler = Sampler({":_busy": "busy"}, within="_outer")
    with sampler.running():
        _busy(0.05)
        apart = sum(sampler.seconds.values())
        _outer(0.05)
    assert apart == 0
    assert sampler.seconds["busy"] > 0


def test_a_sampler_puts_back_what_was_called_before() -> None:
    before = signal.getsignal(signal.SIGPROF)
    with Sampler({}).running():
        assert signal.getsignal(signal.SIGPROF) != before
    assert signal.getsignal(signal.SIGPROF) == before
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
