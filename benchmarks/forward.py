"""What the memory costs a forward pass: ``AESGDecoderLM.small`` with it and without it.

Both run in one process, in turn, on the same input.
"""

from __future__ import annotations

from pathlib import Path

import torch

from aesg.models import AESGDecoderLM
from benchmarks.suite import Ratio, Result, Settings, benchmark, turns

CONCEPTS, CONCEPTS_QUICK = 20_000, 2_000
VOCABULARY = 10_000
SHAPE = (32, 64)  # sequences, positions


def filled_model(directory: Path, concepts: int) -> AESGDecoderLM:
    """Return a model whose memory holds concepts that its own queries made.

    Keys must lie where queries lie: random vectors would be found equally far from everything.
    """
    model = AESGDecoderLM.small(VOCABULARY, str(directory)).eval()
    held = 0
    while held < concepts:
        tokens = torch.randint(0, VOCABULARY, SHAPE)
        with torch.no_grad():
            keys = model.queries(tokens).flatten(0, 1)[: concepts - held]
        model.memory.remember(keys, torch.randint(0, VOCABULARY, (len(keys),)))
        held += len(keys)
    model.memory.set_mode("INFERENCE")
    return model


@benchmark("forward", "a forward pass with the memory and without", minutes=1, group="more")
@torch.no_grad()
def run(settings: Settings) -> Result:
    torch.manual_seed(0)
    concepts = CONCEPTS_QUICK if settings.quick else CONCEPTS
    model = filled_model(settings.scratch / "memory", concepts)
    tokens = torch.randint(0, VOCABULARY, SHAPE)

    def without(_: int) -> object:
        with model.without_memory():
            return model(tokens)

    with model.memory:
        calls = {"with": lambda _: model(tokens), "without": without}
        found = turns(calls, settings.turns)
    ours, theirs = (found.median(each) * 1e3 for each in calls)
    what = f"AESGDecoderLM.small, {VOCABULARY:,} word pieces, {concepts:,} concepts of random text"
    ratio = Ratio(None, what, *found.ratio("with", "without"), ours=ours, theirs=theirs, unit="ms")
    return Result("forward", "A forward pass", ratios=(ratio,))
