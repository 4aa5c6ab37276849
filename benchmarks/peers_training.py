"""A training step with a memory against the same step without: ours, and another's.

memorizing-transformers-pytorch keeps keys and values of earlier batches and attends to those that
its indices find; they last as long as the process. Models of a like size, each against its own
twin, on the same program text; both memories begin empty. Batch, memories and what is retrieved are
those of its README.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aesg import AESGTransformer
from benchmarks._program_text import word_pieces
from benchmarks._steps import HEADER, TURN, WARM_UP, paired_steps
from benchmarks.suite import (
    NoPeerError,
    Peer,
    Ratio,
    Result,
    Settings,
    Spent,
    TableOf,
    benchmark,
    turns,
)

PEER = "memorizing-transformers"
_PIECES, _HIDDEN, _LAYERS, _HEADS = 10_000, 128, 2, 4
_SHAPE, _QUICK_SHAPE = (2, 1024), (2, 64)  # sequences, and their length
_STEPS = 2 * TURN

Tokens = NDArray[np.int64]


def batches_of(shape: tuple[int, int], count: int) -> list[Tensor]:
    """Return batches of ``(B, T + 1)`` word pieces, one after the other in the text."""
    sequences, length = shape
    text = torch.as_tensor(word_pieces(_PIECES, count * sequences * (length + 1)))
    return list(text.view(sequences, count, length + 1).transpose(0, 1).contiguous().long())


def of_ours(folder: Path, batches: list[Tensor]) -> tuple[list[Ratio], TableOf]:
    """Train our Transformer, position by position and with one query for eight."""
    pairs = [(batch[:, :-1], batch[:, 1:]) for batch in batches]
    ratios, rows = [], []
    for every in (1, 8):
        model, twin = (
            AESGTransformer.sized(
                _PIECES,
                folder / f"{name}-{every}",
                hidden_size=_HIDDEN,
                num_layers=_LAYERS,
                nhead=_HEADS,
                vector_dim=_HIDDEN // _HEADS,
                query_every=every,
                causal=True,
            )
            for name in ("ours", "twin")
        )
        steps = paired_steps(model, twin, pairs)
        what = "AESGTransformer, " + ("every position" if every == 1 else f"one query for {every}")
        rows.append(steps.as_row(what))
        ratios.append(steps.as_ratio(None, f"training step with and without memory: {what}", None))
    return ratios, TableOf("our Transformer beside its twin", HEADER, rows)


def of_theirs(peer: Peer, folder: Path, batches: list[Tensor]) -> Ratio:
    """Train theirs, with its memory and without."""
    folder.mkdir()
    peer("begin", folder, _PIECES, _HIDDEN, _LAYERS, len(batches[0]))
    tokens = [batch.numpy().astype(np.int64) for batch in batches]
    for batch in tokens[:WARM_UP]:
        peer("step", "with", batch)
    behind = tokens[WARM_UP:]
    timings = turns(
        {name: partial(_step, peer, name, behind) for name in ("with", "without")},
        len(behind) - 1,
    )
    return Ratio(
        None,
        f"training step with and without memory: {PEER} {peer('version')}",
        *timings.ratio("with", "without"),
        note="its memory grows with each step",
        ours=timings.median("with") * 1e3,
        theirs=timings.median("without") * 1e3,
        unit="ms",
    )


def _step(peer: Peer, name: str, batches: list[Tokens], turn: int) -> Spent:
    return peer.timed("step", name, batches[turn])


@benchmark(
    "peers-training",
    "a training step with a memory, beside memorizing-transformers",
    minutes=4,
    group="more",
    peers=(PEER,),
)
def run(settings: Settings) -> Result:
    """Measure our Transformer's step and theirs, each against its twin."""
    torch.set_num_threads(1)
    settings.say("reading program text")
    batches = batches_of(_QUICK_SHAPE if settings.quick else _SHAPE, WARM_UP + _STEPS)
    ratios, table = of_ours(settings.scratch, batches)
    skipped = []
    if settings.peers is not None:
        try:
            ratios.append(of_theirs(settings.peers.get(PEER), settings.scratch / PEER, batches))
        except NoPeerError as error:
            skipped.append(str(error))
    title = "A training step with a memory, beside memorizing-transformers"
    return Result("peers-training", title, ratios, [table], skipped=skipped)
