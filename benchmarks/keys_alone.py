"""What a concept has to hold for a memory to help, on held-out text, for a finished demo.

Each row starts from the demo's network, frozen, and trains anew the way in which it uses a memory,
on the same text in the same order; then it reads the held-out text and learns while it reads. All
store the same. What differs is what they read: the query itself, so that the layers learn and no
memory is there; the keys, near copies of it; or the values, what came next; and whether the values
reach the hidden states, the output, or both.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aesg.context import RetrievedContext
from aesg.demo.plan import Workspace
from aesg.demo.train import heldout_batches, loader, memory_batches
from aesg.models import AESGDecoderLM
from aesg.nn import MemoryAttention, MemoryMixture
from aesg.nn.mixture import log_probabilities
from aesg.trainer import AESGTrainer
from benchmarks._demo import finished_demo, trained_weights, without_demo
from benchmarks.suite import Result, Settings, TableOf, benchmark


class KeysOnly(MemoryAttention):
    """Adds the keys that were attended to, instead of what their values stand for."""

    def __init__(self, like: MemoryAttention, vector_dim: int, hidden_size: int) -> None:
        nn.Module.__init__(self)
        self.top_k, self.query = like.top_k, like.query
        self.inject = nn.Linear(vector_dim, hidden_size, bias=False)
        nn.init.zeros_(self.inject.weight)

    def forward(self, hidden: Tensor, context: RetrievedContext, values: Tensor) -> Tensor:
        """Ignore the values."""
        read = (context.weights.unsqueeze(-1) * context.keys).sum(-2)
        read = read + context.abstract_weight.unsqueeze(-1) * context.abstract
        update: Tensor = self.inject(read)
        return hidden + update


class QueryOnly(KeysOnly):
    """Adds the query itself, in place of anything remembered."""

    def forward(self, hidden: Tensor, context: RetrievedContext, values: Tensor) -> Tensor:
        """Ignore the memory."""
        update: Tensor = self.inject(F.normalize(self.query.project(hidden), dim=-1))
        return hidden + update


class NothingRead(KeysOnly):
    """Leaves the hidden states alone."""

    def forward(self, hidden: Tensor, context: RetrievedContext, values: Tensor) -> Tensor:
        """Return the hidden states."""
        return hidden + 0 * super().forward(hidden, context, values)


class NothingMixed(MemoryMixture):
    """Leaves the output to the network."""

    def forward(self, logits: Tensor, hidden: Tensor, context: RetrievedContext) -> Tensor:
        """Return its log-probabilities."""
        return log_probabilities(logits) + 0 * self.gate.bias  # trainable while nothing is read


#: What reads into the hidden states, None for the values as usual, and whether the output is mixed.
WAYS: dict[str, tuple[type[KeysOnly] | None, bool]] = {
    "the query, into the hidden states": (QueryOnly, False),
    "keys, into the hidden states": (KeysOnly, False),
    "values, into the hidden states": (None, False),
    "values, into the output": (NothingRead, True),
    "values, into both": (None, True),
}


def fresh_model(workspace: Workspace, folder: Path, way: str) -> AESGDecoderLM:
    """Return the demo's network, frozen, with an untrained way of using a new memory."""
    model = AESGDecoderLM.small(workspace.plan.vocab_size, str(folder))
    spoken = {id(each) for each in model.memory_parameters()}
    trunk = {name for name, each in model.named_parameters() if id(each) not in spoken}
    weights = trained_weights(workspace)
    model.load_state_dict({name: weights[name] for name in trunk}, strict=False)
    reads, mixes = WAYS[way]
    if reads is not None:
        model.memory_attention = reads(
            model.memory_attention, model.memory.vector_dim, model.embedding.embedding_dim
        )
    if not mixes:
        model.mixture = NothingMixed(model.embedding.embedding_dim)
    model.freeze_trunk()
    return model


def perplexities(workspace: Workspace, way: str, seed: int) -> tuple[float, float]:
    """Return the perplexity of the held-out text without the memory and with it."""
    plan = replace(workspace.plan, seed=seed)
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        model = fresh_model(workspace, Path(folder), way)
        with model.memory:
            optimizer = torch.optim.Adam(model.memory_parameters(), lr=plan.learning_rate)
            trainer = AESGTrainer(model, optimizer=optimizer)
            trainer.fit(loader(memory_batches(workspace.tokens("train"), plan)))
            text = loader(heldout_batches(workspace))
            with model.without_memory():
                alone = trainer.evaluate(text)["loss"]
            return math.exp(alone), math.exp(trainer.evaluate(text, mode="ONLINE")["loss"])


@benchmark("keys-alone", "what a concept has to hold to help", minutes=15, group="more")
def run(settings: Settings) -> Result:
    name, title = "keys-alone", "What a concept has to hold"
    workspace = finished_demo()
    if workspace is None:
        return without_demo(name, title)
    rows: list[tuple[str, str, str]] = []
    for way in WAYS:
        settings.say(way)
        alone, read = perplexities(workspace, way, seed=0)
        if not rows:
            rows.append(("nothing", f"{alone:.2f}", ""))
        rows.append((way, f"{read:.2f}", f"{read / alone - 1:+.1%}"))
    table = TableOf("held-out text", ("what is read", "perplexity", "against none"), rows)
    return Result(name, title, tables=(table,))
