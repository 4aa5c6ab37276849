"""What the tests of checkpoints are made of: tiny models, their data, and pictures of the whole."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aesg import (
    AESGCNNClassifier,
    AESGColorizationNet,
    AESGDecoderLM,
    AESGGRUText,
    AESGMemory,
    AESGTrainer,
)
from storage_backends.lmdb_store import LMDBStore
from storage_backends.types import EVENT, STATS
from tests.image_models import painter, pictures

#: What a checkpoint has beside the memory.
FILES = [
    "config.json",
    "manifest.json",
    "model_weights.pt",
    "optimizer_state.pt",
    "trainer_state.pt",
    "training_state.json",
]
VOCABULARY = 20
DIM = 8

Picture = dict[str, Any]
Sample = tuple[Tensor, Tensor]


def language_model(directory: Path | str, **options: Any) -> AESGDecoderLM:
    sizes = {"hidden_size": 8, "num_layers": 1, "nhead": 2, "vector_dim": DIM}
    return AESGDecoderLM.sized(VOCABULARY, directory, **{**sizes, **options})


def _recurrent(directory: Path | str, **options: Any) -> nn.Module:
    sizes = {"hidden_size": 8, "num_layers": 1, "vector_dim": DIM}
    return AESGGRUText.sized(VOCABULARY, directory, **{**sizes, **options})


def _classifier(directory: Path | str, **options: Any) -> nn.Module:
    sizes = {"num_classes": 3, "channels": 1, "base_filters": 4, "blocks": 2, "vector_dim": DIM}
    return AESGCNNClassifier.sized(directory, **{**sizes, **options})


def _colorization(directory: Path | str, **options: Any) -> nn.Module:
    return painter(AESGColorizationNet, directory, memory_dropout=0.3, **options)


def sentences(count: int = 12, length: int = 6) -> list[Sample]:
    """Return token rows in which each token says much of the next."""
    dice = torch.Generator().manual_seed(1)
    starts = torch.randint(VOCABULARY, (count, 1), generator=dice)
    rows = (starts + 3 * torch.arange(length + 1)) % VOCABULARY
    return [(row[:-1], row[1:]) for row in rows]


def _labelled() -> list[Sample]:
    labels = torch.arange(12) % 3
    images = pictures(12, 1, 8) + labels.view(-1, 1, 1, 1)
    return list(zip(images, labels, strict=True))


def _coloured() -> list[Sample]:
    images = pictures(8, 3)
    return list(zip(images.mean(1, keepdim=True), images, strict=True))


KINDS: dict[str, tuple[Callable[..., nn.Module], Callable[[], list[Sample]]]] = {
    "transformer": (language_model, sentences),
    "recurrent": (_recurrent, sentences),
    "classifier": (_classifier, _labelled),
    "colorization": (_colorization, _coloured),
}


def trainer_of(kind: str, directory: Path | str, **options: Any) -> AESGTrainer:
    """Return a trainer of a tiny model; the same weights each time."""
    torch.manual_seed(0)
    make, _ = KINDS[kind]
    return AESGTrainer(make(directory), **{"batch_size": 4, "learning_rate": 0.01, **options})


def data_of(kind: str) -> list[Sample]:
    return KINDS[kind][1]()


@functools.cache
def _original() -> tuple[tempfile.TemporaryDirectory[str], Picture]:
    """Write the checkpoint that `saved` copies, once."""
    folder = tempfile.TemporaryDirectory()
    trainer = trainer_of("transformer", f"{folder.name}/memory")
    trainer.fit(sentences(), epochs=2)
    trainer.save(f"{folder.name}/checkpoint")
    whole = picture(trainer)
    close(trainer)
    return folder, whole


def saved() -> Picture:
    """Put a checkpoint of two epochs into the present folder; return a picture of what is in it."""
    folder, whole = _original()
    shutil.copytree(f"{folder.name}/checkpoint", "checkpoint")
    return whole


def trained(directory: str = "memory", **options: Any) -> AESGTrainer:
    """Return a trainer that has trained for two epochs."""
    folder, _ = _original()
    trainer = trainer_of("transformer", directory, **options)
    trainer.load(f"{folder.name}/checkpoint")
    return trainer


def neural(**options: Any) -> AESGTrainer:
    """Return a trainer of a model without a memory: three inputs, four classes."""
    with pytest.warns(UserWarning, match="neural-only"):
        return AESGTrainer(nn.Linear(3, 4), **options)


def pairs() -> list[Sample]:
    """Return data for `neural`."""
    dice = torch.Generator().manual_seed(2)
    return [(torch.randn(3, generator=dice), torch.tensor(k % 4)) for k in range(12)]


def picture(trainer: AESGTrainer, *, by_rank: bool = False) -> Picture:
    """Return all that training has made, as values that compare: weights, moments, memory, logs.

    Parameters
    ----------
    by_rank : bool
        Whether concepts are named by their rank among all, and not by their id: where ids were
        given to concepts that were then lost, the next ones are higher.
    """
    timed = ("seconds", "retrieval_ms")
    assert isinstance(trainer.memory, AESGMemory)
    return {
        "weights": _plain(trainer.model.state_dict()),
        "optimizer": _plain(trainer.optimizer.state_dict()),
        "epochs": (trainer.epoch, trainer.global_step, trainer.best_loss),
        "history": [{k: v for k, v in each.items() if k not in timed} for each in trainer.history],
        "chance": torch.get_rng_state().tolist(),
        **memory_picture(trainer.memory, by_rank=by_rank),
    }


def memory_picture(memory: AESGMemory, *, by_rank: bool = False) -> Picture:
    """Return what a memory holds, but for times, identity and numbers of commits."""
    folder = Path(tempfile.mkdtemp(dir="."))
    try:
        memory.copy(folder / "copy")
        with closing(LMDBStore.open(folder / "copy", read_only=True, create=False)) as store:
            return _store_picture(store, by_rank)
    finally:
        shutil.rmtree(folder)


def _store_picture(store: LMDBStore, by_rank: bool) -> Picture:
    from aesg.graph.edges import _PAIR
    from aesg.graph.shortterm import ENTRY

    held = store.load()
    table = store.shortterm()
    ring = np.frombuffer(table.get("entries", b""), ENTRY).copy()
    pairs = np.frombuffer(table.get("pairs", b""), _PAIR).copy()
    edges, stats, events = held.edges.copy(), held.concepts.stats.copy(), store.events().copy()
    stats["created"] = stats["modified"] = 0
    events["timestamp"] = 0
    assert stats.dtype == STATS and events.dtype == EVENT
    ids, sources = held.concepts.ids, held.edge_sources
    if by_rank:
        known = np.unique(np.concatenate([np.zeros(1, np.uint64), ids, ring["id"]]))
        ids = np.searchsorted(known, ids).astype(np.uint64)
        sources = np.searchsorted(known, sources).astype(np.uint64)
        edges["target"] = np.searchsorted(known, edges["target"])
        for name in ("id", "previous", "next"):
            ring[name] = np.where(
                np.isin(ring[name], known), np.searchsorted(known, ring[name]), 2**32
            )
        pairs = pairs[:0]
        events["id1"] = events["id2"] = 0
    vectors = held.concepts.value_vectors
    settings = {name: held.settings.get(name) for name in ("epoch", "tick", "edge_epochs")}
    return {
        "ids": ids.tolist(),
        "keys": held.concepts.keys.tobytes(),
        "values": (held.concepts.value_kinds.tolist(), held.concepts.value_ids.tolist()),
        "vectors": None if vectors is None else vectors.tobytes(),
        "stats": stats.tolist(),
        "edges": (sources.tolist(), held.edge_counts.tolist(), edges.tolist()),
        "events": events.tolist(),
        "payloads": store.payloads(held.concepts.ids),
        "ring": (ring.tolist(), table.get("keys") or b"", table.get("vectors") or b""),
        "pairs": pairs.tolist(),
        "clock": settings | ({} if by_rank else {"next_id": held.settings.get("next_id")}),
    }


def differences(one: Picture, other: Picture) -> list[str]:
    """Return what two pictures differ in."""
    return [name for name in one if one[name] != other[name]]


def _plain(state: Any) -> Any:
    if isinstance(state, Tensor):
        return (state.dtype, tuple(state.shape), state.cpu().numpy().tobytes())
    if isinstance(state, dict):
        return {key: _plain(each) for key, each in state.items()}
    return [_plain(each) for each in state] if isinstance(state, list) else state


def close(trainer: AESGTrainer) -> None:
    """Let go of the memory, as the end of a process does."""
    memory_of(trainer).close()


def memory_of(trainer: AESGTrainer) -> AESGMemory:
    assert isinstance(trainer.memory, AESGMemory)
    return trainer.memory


def mark(trainer: AESGTrainer, number: int) -> None:
    """Write a number into all that a checkpoint holds; it is as many concepts too."""
    memory = memory_of(trainer)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.fill_(number)
    trainer.optimizer.param_groups[0]["lr"] = float(number)
    trainer.epoch = trainer.global_step = number
    dice = torch.Generator().manual_seed(number)
    missing = number - memory.storage.node_count
    memory.remember(torch.randn(missing, DIM, generator=dice), list(range(missing)))


def marked(trainer: AESGTrainer) -> int:
    """Return the number that everything holds."""
    weights = [each.detach() for each in trainer.model.parameters()]
    found = {bound.item() for each in weights for bound in (each.min(), each.max())}
    found |= {trainer.learning_rate, trainer.epoch, trainer.global_step}
    found.add(memory_of(trainer).storage.node_count)
    assert len(found) == 1, f"expected one number in all parts, got {found}"
    return int(found.pop())
