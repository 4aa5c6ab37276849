"""Colours of scenes that were seen once, before a restart."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from torchmetrics.functional.image import structural_similarity_index_measure

from aesg.memory import AESGMemory
from aesg.models import AESGColorizationNet
from aesg.models._patches import PatchCodes, window_keys
from aesg.modes import MemoryMode
from aesg.trainer import AESGTrainer
from benchmarks.usefulness.data import Data
from benchmarks.usefulness.harness import MEMORY, Goal, Measure, Task, Values
from benchmarks.usefulness.photos import SIDE, TURNS, Cutter, gray, read_photos
from benchmarks.usefulness.process import elsewhere

_TWIN = "ablated"
#: Photos to train on; the others are the scenes of the test.
_TRAINED = 8
#: Training pictures of each scene, that is, of a photo turned and recoloured in one way; and
#: pictures of scenes that never come again.
_RECURRING, _STRANGERS = 14, 224
#: Pictures of a test scene at each of its two meetings.
_MET = 12
_EPOCHS, _EPOCHS_QUICK = 3, 1
_FILTERS, _BLOCKS, _DIM = 16, 3, 64
_STRIDE = 2**_BLOCKS
_BATCH, _RATE = 16, 1e-3
#: Of the baseline without a network.
_NEAREST, _SCALE = 8, 20.0
_PSNR, _SSIM = "PSNR dB", "SSIM"
_WEIGHTS, _ASKED = "weights.pt", "asked.pt"
#: What is explained less well than this is kept: colours that differ little count too.
_NOVEL = 0.95
_MEMORY_DROPOUT, _EVERY = 0.5, 2


@dataclass(frozen=True)
class Pictures:
    """Coloured pictures, ``(N, 3, 64, 64)`` each.

    Parameters
    ----------
    train : tensor
    met : tensor
        Of the test scenes, for the memory to see.
    asked : tensor
        Of the same scenes, other places in other light.
    """

    train: Tensor
    met: Tensor
    asked: Tensor


def run(seed: int, quick: bool, scratch: Path, data: Data) -> Values:
    """Train on some photos, see the others once, restart, and colour them elsewhere."""
    pictures = _pictures(data, seed)
    epochs = _EPOCHS_QUICK if quick else _EPOCHS
    twin = _model(scratch / _TWIN, seed)
    with twin.without_memory():
        _trainer(twin).fit(_pairs(pictures.train), epochs)
        values = {_TWIN: _judged(_coloured(twin, pictures.asked), pictures.asked)}
    model = _model(scratch / MEMORY, seed)
    _trainer(model).fit(_pairs(pictures.train), epochs)
    shutil.copytree(scratch / MEMORY, scratch / "irrelevant")  # it holds the training scenes
    _trainer(model).evaluate(_pairs(pictures.met), mode=MemoryMode.ONLINE)
    torch.save(model.state_dict(), scratch / _WEIGHTS)
    torch.save(pictures.asked, scratch / _ASKED)
    keys, colours = _contents(model.memory)
    model.memory.close()
    _new_memory(scratch / "emptied", keys[:0], colours[:0])
    _new_memory(scratch / "shuffled", keys, colours[torch.randperm(len(colours))])
    for arm in (MEMORY, "emptied", "shuffled", "irrelevant"):
        values[arm] = elsewhere(judge, scratch, arm)
    asked = pictures.asked
    values["baseline: nearest gray window"] = _judged(_by_windows(pictures), asked)
    values["baseline: gray"] = _judged(gray(asked).expand(-1, 3, -1, -1), asked)
    return values


def judge(scratch: Path, arm: str) -> dict[str, float]:
    """Colour the pictures of the second meeting with what a memory on disk holds."""
    torch.set_num_threads(1)
    with AESGMemory.open(scratch / arm) as memory:
        model = AESGColorizationNet(
            memory, base_filters=_FILTERS, blocks=_BLOCKS, query_every=_EVERY
        )
        model.load_state_dict(torch.load(scratch / _WEIGHTS))
        asked = torch.load(scratch / _ASKED)
        return _judged(_coloured(model, asked), asked)


def _pictures(data: Data, seed: int) -> Pictures:
    photos = read_photos(data)
    cutter = Cutter(torch.Generator().manual_seed(seed))
    order = torch.randperm(len(photos), generator=cutter.dice).tolist()
    known = [photos[place] for place in order[:_TRAINED]]
    scenes = [photos[place] for place in order[_TRAINED:]]
    recurring = [cutter.recoloured(photo, turn) for turn in range(TURNS) for photo in known]
    strangers = [
        cutter.cut(cutter.stranger(known[cutter.draw(_TRAINED)])) for _ in range(_STRANGERS)
    ]
    return Pictures(
        train=torch.cat([cutter.cuts(recurring, _RECURRING), torch.stack(strangers)]),
        met=cutter.cuts(scenes, _MET, 1.0, 1.0),
        asked=cutter.cuts(scenes, _MET),
    )


def _model(folder: Path, seed: int) -> AESGColorizationNet:
    torch.manual_seed(seed)
    return AESGColorizationNet.sized(
        folder,
        base_filters=_FILTERS,
        blocks=_BLOCKS,
        vector_dim=_DIM,
        batch_size=_BATCH,
        query_every=_EVERY,
        memory_dropout=_MEMORY_DROPOUT,
        novelty_explanation_threshold=_NOVEL,
    )


def _trainer(model: AESGColorizationNet) -> AESGTrainer:
    torch.manual_seed(0)  # the same order for every arm
    return AESGTrainer(model, criterion=nn.MSELoss(), learning_rate=_RATE, progress=False)


def _pairs(pictures: Tensor) -> TensorDataset:
    return TensorDataset(gray(pictures), pictures)


def _coloured(model: AESGColorizationNet, pictures: Tensor) -> Tensor:
    batches = torch.split(gray(pictures), _BATCH)
    return torch.cat(_trainer(model).predict(batches))


def _judged(coloured: Tensor, pictures: Tensor) -> dict[str, float]:
    errors = (coloured - pictures).square().mean((1, 2, 3))
    alike = structural_similarity_index_measure(coloured, pictures, data_range=1.0)
    return {_PSNR: float((-10 * errors.log10()).mean()), _SSIM: float(alike)}  # type: ignore[arg-type]


@torch.no_grad()
def _contents(memory: AESGMemory) -> tuple[Tensor, Tensor]:
    """Return keys and values, ``(N, D)`` each, of all that a memory holds."""
    held = memory.storage.node_count + memory.provisional_count
    found = memory.recall(torch.ones(memory.vector_dim), top_k=max(held, 1))
    return found.keys, found.vectors


def _new_memory(folder: Path, keys: Tensor, values: Tensor) -> None:
    with _model(folder, 0).memory as memory:
        memory.remember(keys, values)


def _by_windows(pictures: Pictures) -> Tensor:
    """Colour pictures without a network, by the most similar windows of those met before."""
    grays = gray(pictures.asked)
    cells = SIDE // _STRIDE
    codes = PatchCodes(3, _DIM)
    held = codes.encode(pictures.met - gray(pictures.met), cells, cells).flatten(0, 2)
    keys, asked = (
        F.normalize(window_keys(each, _STRIDE, (_STRIDE, _STRIDE), _DIM).flatten(0, 2), dim=-1)
        for each in (gray(pictures.met), grays)
    )
    near = (asked @ keys.T).topk(_NEAREST)
    weights = (_SCALE * near.values).softmax(-1).unsqueeze(-1)
    colours = (weights * held[near.indices]).sum(1).view(-1, cells, cells, _DIM)
    return (grays + codes.decode(colours, SIDE, SIDE)).clamp(0, 1)


TASK = Task(
    name="colorization",
    title="Colours of scenes seen once, before a restart",
    measures=(Measure(_PSNR, digits=2), Measure(_SSIM)),
    goals=(
        Goal(MEMORY, _PSNR, at_least=0.3, against=_TWIN),
        Goal("emptied", _PSNR, at_least=-0.2, against=_TWIN),
    ),
    needs=("photos",),
    run=run,
    notes=(
        "Fifteen photographs. Eight train the network: turned and mirrored copies with exchanged "
        "colours, so that a colour cannot be known by the look of a scene, only from having seen "
        "it; among them scenes that never come again. The other seven are seen once, as twelve "
        "coloured pictures each, read ONLINE; another process then colours other places of the "
        "same photos in other light. Irrelevant: the memory as training left it. Shuffled: all "
        "its values in random order. The nearest gray window has the same keys and values as the "
        "memory, of the first meeting alone, and no network. Gray: no colour at all."
    ),
)
