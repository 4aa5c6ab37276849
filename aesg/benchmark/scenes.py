"""Generated pictures: little coloured scenes, each of its own and the same at every call.

Some colours can be told from the shape (sky, grass, sea), others only guessed (walls, petals,
sails), as in photographs.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]

_BYTE = 255
_GREEN, _BARK, _STONE = (0.25, 0.5, 0.2), (0.35, 0.22, 0.12), (0.55, 0.52, 0.5)
#: Above and below, by the time of the day.
_SKIES = (
    ((0.25, 0.5, 0.85), (0.75, 0.88, 0.97)),
    ((0.25, 0.25, 0.5), (0.98, 0.6, 0.35)),
    ((0.45, 0.55, 0.7), (0.9, 0.82, 0.7)),
    ((0.6, 0.66, 0.72), (0.85, 0.87, 0.88)),
)
_FIELDS = ((0.3, 0.55, 0.2), (0.62, 0.62, 0.25), (0.2, 0.42, 0.25), (0.75, 0.65, 0.35))
_FRUITS = ((0.95, 0.55, 0.1), (0.85, 0.12, 0.12), (0.95, 0.85, 0.2), (0.4, 0.15, 0.4))


class _Canvas:
    """A square picture with x to the right and y downwards, both in [0, 1].

    Parameters
    ----------
    side : int
        Pixels along a side.
    dice : numpy.random.Generator
    """

    def __init__(self, side: int, dice: np.random.Generator) -> None:
        self.side = side
        self.dice = dice
        steps = ((np.arange(side) + 0.5) / side).astype(np.float32)
        self.x, self.y = steps[None, :], steps[:, None]
        self.pixels: Floats = np.zeros((side, side, 3), np.float32)
        self.grain = self.noise(side // 4) - np.float32(0.5)

    def paint(self, distance: Floats, colour: object, grain: float = 0.1) -> None:
        """Paint where a signed distance is below 0, with a soft edge and some grain."""
        cover = np.clip(0.5 - distance * self.side, 0, 1)
        rows, columns = np.flatnonzero(cover.any(1)), np.flatnonzero(cover.any(0))
        if not len(rows):
            return
        part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        rough = np.asarray(colour, np.float32) * (1 + grain * self.grain[part][..., None])
        self.pixels[part] += cover[part][..., None] * (rough - self.pixels[part])

    def sky(self, horizon: float = 1.0) -> None:
        """Fill the picture with a sky that is palest at the horizon."""
        top, bottom = np.asarray(_SKIES[self.dice.integers(len(_SKIES))], np.float32)
        share = np.clip(self.y / horizon, 0, 1)[..., None]
        clouds = np.clip(2 * self.noise(5) - 1.1, 0, 1)[..., None]
        self.pixels[:] = top + share * (bottom - top)
        self.pixels += clouds * (0.95 - self.pixels)

    def disc(self, x: float, y: float, radius: float) -> Floats:
        """Return the distance from a disc."""
        away: Floats = np.sqrt((self.x - x) ** 2 + (self.y - y) ** 2)  # hypot is ten times slower
        return away - np.float32(radius)

    def box(self, left: float, top: float, right: float, bottom: float) -> Floats:
        """Return the distance from a rectangle."""
        across = np.maximum(left - self.x, self.x - right)
        away: Floats = np.maximum(across, np.maximum(top - self.y, self.y - bottom))
        return away

    def roof(self, left: float, right: float, bottom: float, height: float) -> Floats:
        """Return the distance from an upright triangle."""
        middle, half = (left + right) / 2, (right - left) / 2
        slope = np.abs(self.x - middle) * height / half - (self.y - bottom + height)
        away: Floats = np.maximum(slope / np.hypot(1, height / half), self.y - bottom)
        return away

    def ridge(self, level: float, height: float) -> Floats:
        """Return the distance from what lies under a wavy line."""
        waves = np.arange(1, 6)
        phases = self.dice.uniform(0, 2 * np.pi, 5)
        heights = height * self.dice.uniform(0.3, 1, 5) / waves
        line = (heights[:, None] * np.sin(4 * waves[:, None] * self.x + phases[:, None])).sum(0)
        away: Floats = (level + line - self.y).astype(np.float32)
        return away

    def noise(self, cells: int) -> Floats:
        """Return smooth noise in [0, 1] with some bumps along a side."""
        cells = max(cells, 2)
        places = np.linspace(0, cells, self.side)[:, None]
        near = np.maximum(0, 1 - np.abs(places - np.arange(cells + 1)))
        weights = near**2 * (3 - 2 * near)  # without creases
        bumps = self.dice.random((cells + 1, cells + 1))
        smooth: Floats = (weights @ bumps @ weights.T).astype(np.float32)
        return smooth

    def bright(self) -> tuple[float, float, float]:
        """Return a vivid colour that nothing tells of beforehand."""
        hue, strong, light = self.dice.uniform((0, 0.35, 0.5), (1, 0.85, 0.95))
        return colorsys.hsv_to_rgb(hue, strong, light)

    def between(self, low: float, high: float) -> float:
        """Return a random number."""
        return float(self.dice.uniform(low, high))

    def many(self, least: int, most: int) -> range:
        """Return a range of a random length."""
        return range(int(self.dice.integers(least, most + 1)))


def generated_scene(index: int, side: int) -> NDArray[np.uint8]:
    """Draw a scene.

    Parameters
    ----------
    index : int
        Which one, from 0 on. Its kind follows by turns.
    side : int
        Pixels along a side, at least 8.

    Returns
    -------
    (side, side, 3) uint8 array
        Red, green and blue.
    """
    canvas = _Canvas(side, np.random.default_rng(index))
    _KINDS[index % len(_KINDS)](canvas)
    light = canvas.between(0.85, 1.1)
    lit = np.clip(canvas.pixels * light, 0, 1)
    bytes_: NDArray[np.uint8] = (lit * _BYTE).round().astype(np.uint8)
    return bytes_


def _landscape(canvas: _Canvas) -> None:
    canvas.sky(0.6)
    canvas.paint(
        canvas.disc(canvas.between(0.1, 0.9), canvas.between(0.08, 0.3), 0.06), (1, 0.95, 0.7)
    )
    canvas.paint(canvas.ridge(canvas.between(0.4, 0.55), 0.12), (0.5, 0.58, 0.7))
    ground = _FIELDS[canvas.dice.integers(len(_FIELDS))]
    level = canvas.between(0.6, 0.7)
    canvas.paint(canvas.ridge(level, 0.04), ground, 0.4)
    _house(canvas, canvas.between(0.1, 0.6), level + 0.12, canvas.between(0.15, 0.3))
    for _ in canvas.many(2, 6):
        _tree(canvas, canvas.between(0, 1), canvas.between(level + 0.08, 0.95))


def _coast(canvas: _Canvas) -> None:
    horizon = canvas.between(0.4, 0.6)
    canvas.sky(horizon)
    water = np.asarray((0.1, canvas.between(0.3, 0.5), canvas.between(0.45, 0.65)), np.float32)
    waves = 0.3 * np.sin(90 * canvas.y**2 + 6 * canvas.noise(6))
    canvas.paint(canvas.box(-1, horizon, 2, 2), water)
    canvas.pixels *= np.where(canvas.y > horizon, 1 + waves, 1)[..., None]
    canvas.paint(canvas.ridge(canvas.between(0.85, 1.0), 0.04), (0.88, 0.78, 0.55), 0.2)
    for _ in canvas.many(1, 3):
        x, y, size = (
            canvas.between(0.1, 0.9),
            canvas.between(horizon, 0.8),
            canvas.between(0.1, 0.25),
        )
        canvas.paint(canvas.roof(x - 0.4 * size, x + 0.4 * size, y, size), canvas.bright())
        canvas.paint(canvas.box(x - size / 2, y, x + size / 2, y + size / 5), _BARK)


def _street(canvas: _Canvas) -> None:
    canvas.sky()
    left, ground = -canvas.between(0, 0.15), canvas.between(0.78, 0.88)
    while left < 1:
        right, top = left + canvas.between(0.18, 0.35), canvas.between(0.15, 0.5)
        canvas.paint(canvas.box(left, top, right, ground), canvas.bright(), 0.2)
        glass = canvas.between(0.2, 0.5)
        for row in np.arange(top + 0.06, ground - 0.12, 0.13):
            for column in np.arange(left + 0.04, right - 0.05, 0.09):
                window = canvas.box(column, row, column + 0.045, row + 0.07)
                canvas.paint(window, (glass, glass + 0.05, glass + 0.15))
        left = right
    canvas.paint(canvas.box(-1, ground, 2, 2), _STONE, 0.3)
    for _ in canvas.many(0, 3):
        _tree(canvas, canvas.between(0, 1), canvas.between(ground, 0.95))


def _flowers(canvas: _Canvas) -> None:
    canvas.pixels[:] = np.asarray(_GREEN, np.float32) * canvas.between(0.6, 1.2)
    canvas.pixels *= 0.6 + 0.8 * canvas.noise(9)[..., None]
    kinds = [canvas.bright() for _ in canvas.many(1, 3)]
    for _ in canvas.many(5, 14):
        x, y, size = *canvas.dice.random(2), canvas.between(0.04, 0.11)
        petals, turn = canvas.dice.integers(5, 9), canvas.between(0, 6)
        colour = kinds[canvas.dice.integers(len(kinds))]
        canvas.paint(canvas.box(x - 0.008, y, x + 0.008, y + 3 * size), (0.2, 0.4, 0.12))
        for angle in turn + np.arange(petals) * 2 * np.pi / petals:
            place = x + size * np.cos(angle), y + size * np.sin(angle)
            canvas.paint(canvas.disc(*place, 0.55 * size), colour, 0.3)
        canvas.paint(canvas.disc(x, y, 0.45 * size), (0.95, 0.8, 0.2))


def _still_life(canvas: _Canvas) -> None:
    wall = 0.6 + 0.4 * np.asarray(canvas.bright(), np.float32)
    canvas.pixels[:] = wall * (0.8 + 0.3 * canvas.noise(3)[..., None])
    edge = canvas.between(0.55, 0.7)
    canvas.paint(canvas.box(-1, edge, 2, 2), (0.55, 0.36, 0.2), 0.5)
    x, width = canvas.between(0.2, 0.8), canvas.between(0.08, 0.15)
    vase, foot = canvas.bright(), edge + 0.1
    canvas.paint(canvas.box(x - width / 2, foot - 0.4, x + width / 2, foot), vase)
    canvas.paint(canvas.disc(x, foot - 0.12, 0.9 * width), vase, 0.3)
    for _ in canvas.many(2, 6):
        radius = canvas.between(0.05, 0.1)
        colour = _FRUITS[canvas.dice.integers(len(_FRUITS))]
        x, y = canvas.between(0, 1), canvas.between(edge + 0.05, 0.92)
        canvas.paint(canvas.disc(x + 0.01, y + 0.02, radius), (0.25, 0.16, 0.1))
        canvas.paint(canvas.disc(x, y, radius), colour, 0.2)
        shine = canvas.disc(x - radius / 3, y - radius / 3, radius / 5)
        canvas.paint(shine, np.minimum(np.asarray(colour) + 0.4, 1))


def _tree(canvas: _Canvas, x: float, foot: float) -> None:
    size = canvas.between(0.08, 0.2)
    leaves = np.asarray(_GREEN) * canvas.between(0.5, 1.1)
    canvas.paint(canvas.box(x - size / 9, foot - size, x + size / 9, foot), _BARK)
    if canvas.dice.random() < 0.5:
        canvas.paint(canvas.roof(x - size / 2, x + size / 2, foot - size / 3, 1.6 * size), leaves)
        return
    for _ in range(4):
        away = canvas.dice.uniform(-0.3, 0.3, 2) * size
        place = x + away[0], foot - 1.3 * size + away[1]
        canvas.paint(canvas.disc(*place, 0.4 * size), leaves, 0.5)


def _house(canvas: _Canvas, left: float, foot: float, width: float) -> None:
    height, right = canvas.between(0.6, 0.9) * width, left + width
    canvas.paint(canvas.box(left, foot - height, right, foot), canvas.bright(), 0.2)
    roof = canvas.roof(left - 0.02, right + 0.02, foot - height, 0.5 * width)
    canvas.paint(roof, (canvas.between(0.45, 0.75), 0.25, 0.2))
    canvas.paint(
        canvas.box(left + 0.15 * width, foot - 0.4 * width, left + 0.35 * width, foot), _BARK
    )
    pane = canvas.box(
        left + 0.55 * width, foot - 0.45 * width, left + 0.8 * width, foot - 0.22 * width
    )
    canvas.paint(pane, (0.95, 0.9, 0.6))


_KINDS: tuple[Callable[[_Canvas], None], ...] = (
    _landscape,
    _coast,
    _street,
    _flowers,
    _still_life,
)
