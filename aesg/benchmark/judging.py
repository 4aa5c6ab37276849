"""How near coloured pictures come to the originals, picture by picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from aesg.benchmark.pictures import Pairs
from aesg.evaluation.images import MOST_PSNR, similarity

Painter = Callable[[Tensor], Tensor]

#: Pictures that are coloured at a time.
_BATCH = 32


@dataclass(frozen=True)
class Scores:
    """Marks of every picture, in their order.

    Parameters
    ----------
    psnr : list of float
        In dB; 100 where nothing differs.
    ssim : list of float
        In [-1, 1].
    """

    psnr: list[float]
    ssim: list[float]


def judged(paint: Painter, pairs: Pairs) -> Scores:
    """Let a model colour pictures, and compare them with the originals.

    Parameters
    ----------
    paint : callable
        Returns coloured pictures ``(B, 3, H, W)`` for gray ones ``(B, 1, H, W)``.
    pairs : Pairs
    """
    scores = Scores([], [])
    for gray, colours in pairs.batches(_BATCH):
        painted = paint(gray).detach().float().cpu()
        scores.psnr.extend(ratios(painted, colours).tolist())
        scores.ssim.extend(similarity(painted, colours).tolist())
    return scores


def ratios(painted: Tensor, colours: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each picture, in dB.

    Parameters
    ----------
    painted, colours : (B, 3, H, W) tensor
        In [0, 1].

    Returns
    -------
    (B,) tensor
        At most 100.
    """
    errors = (painted - colours).square().mean((1, 2, 3))
    return (-10 * errors.log10()).clamp(max=MOST_PSNR)
