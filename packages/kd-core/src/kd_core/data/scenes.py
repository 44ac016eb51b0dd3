"""Generated scenes: shapes on a textured ground, each scene a pure function of its number.

Segmentation and detection share them: which class each pixel has, and which shape is seen there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_core.data.rng import derive_key, random_u64
from kd_core.notes import Note

VERSION = 2
"""Of what :func:`scene` draws: part of every fingerprint, raised with every change of a pixel."""
VOID = -100
"""In a mask: the pixel has no class."""
CLASSES = ("background", "disc", "square", "triangle", "ring", "cross")
TRAIN, VAL = 400, 100
"""Scenes to train on, the first ones, and to validate."""
SHORTEST, LONGEST = 64, 96
"""Pixels of a side; each side is drawn by itself."""
SHAPES = 5
"""At most so many in a scene, later ones over earlier ones, at least two."""
BORDER = 0.75
"""Pixels on each side of a shape's edge that are void."""
GROUND, SHAPE = (20, 120), (100, 235)
"""Shades between which the colour of the ground, and of a shape, lies."""
TINTS = ((0.9, 0.2, 0.2), (0.2, 0.9, 0.2), (0.2, 0.2, 0.9), (0.9, 0.9, 0.2), (0.8, 0.2, 0.9))
"""Red, green and blue, from 0 to 1, that half of a shape's colour is: of a disc, a square, and so on."""
NUMBERS = 12
"""Random numbers for one shape, or for the ground."""

Field = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Scene:
    """An image (H, W, 3) uint8, its mask (H, W) int16 with :data:`CLASSES` and, along edges, :data:`VOID`; its shapes.

    ``kinds`` are the classes of the shapes in the order they were drawn, and ``owners`` (H, W) uint8 says which of them
    is seen at a pixel, from 1 on, 0 where it is the ground. A shape has its pixels up to its edge, without those that
    later ones cover.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.int16]
    kinds: tuple[int, ...]
    owners: NDArray[np.uint8]


def scene(number: int) -> Scene:
    """Scene ``number``.

    Shapes are brighter than most of the ground, and each kind leans to a tint of its own, which does not tell them
    apart for certain. Textures, sizes, angles and overlaps vary; noise lies over all.
    """
    key = derive_key("scene", VERSION, number)
    draws = (random_u64(key, np.arange((SHAPES + 1) * NUMBERS)) >> np.uint64(11)).reshape(
        SHAPES + 1, NUMBERS
    ) * 2.0**-53
    ground = draws[0]
    height, width = (SHORTEST + int(value * (LONGEST - SHORTEST + 1)) for value in ground[:2])
    y, x = (np.arange(side, dtype=np.float32) for side in (height, width))
    image = texture(y[:, None], x, ground[2:9], *GROUND)
    mask, owners = np.zeros((height, width), np.int16), np.zeros((height, width), np.uint8)
    kinds: list[int] = []
    for position, shape in enumerate(draws[1:]):
        if position < 2 or shape[0] < 0.5:
            kinds.append(draw(image, mask, owners, shape, len(kinds) + 1))
    size = image.size
    noise = random_u64(key ^ 1, np.arange(-(-2 * size // 8))).view(np.uint8)[: 2 * size].reshape(2, *image.shape)
    strength = 0.02 + 0.08 * float(ground[9])
    image += (noise.astype(np.float32).sum(0) - 255) * np.float32(strength)
    return Scene(np.clip(image, 0, 255).astype(np.uint8), mask, tuple(kinds), owners)


def texture(y: Field, x: Field, draws: NDArray[np.float64], darkest: int, brightest: int) -> Field:
    """Waves about a colour between two shades, (H, W, 3): ``draws`` (7,) are angle, length and six tones."""
    angle, wave = draws[0] * np.pi, 4 + 20 * draws[1]
    phase = (np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y) * np.float32(2 * np.pi / wave)
    colour = (darkest + (brightest - darkest) * draws[2:5]).astype(np.float32)
    change = (np.array([draws[5], draws[6], draws[2]]) * 60 - 30).astype(np.float32)
    return np.clip(colour + change * np.sin(phase)[..., None], 20, 235)


def draw(
    image: Field, mask: NDArray[np.int16], owners: NDArray[np.uint8], draws: NDArray[np.float64], number: int
) -> int:
    """One shape, ``number``, into an image, its mask and ``owners``, in place; its class.

    ``draws`` (12,) are its random numbers.
    """
    height, width = mask.shape
    kind = 1 + int(draws[1] * (len(CLASSES) - 1))
    radius = 10 + 14 * float(draws[2])
    top, left = float(draws[3]) * height, float(draws[4]) * width
    reach = 1.5 * radius + 2
    rows = slice(max(int(top - reach), 0), int(top + reach) + 1)
    columns = slice(max(int(left - reach), 0), int(left + reach) + 1)
    y = np.arange(height, dtype=np.float32)[rows, None] - np.float32(top)
    x = np.arange(width, dtype=np.float32)[columns] - np.float32(left)
    turn = float(draws[5]) * 2 * np.pi
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    outside = distance(CLASSES[kind], cos * x + sin * y, cos * y - sin * x, radius)
    inside = outside < 0
    pattern = draws[[5, 6, 7, 8, 9, 10, 11]]
    pattern[2:5] = (pattern[2:5] + TINTS[kind - 1]) / 2
    image[rows, columns][inside] = texture(y, x, pattern, *SHAPE)[inside]
    part = mask[rows, columns]
    part[inside] = kind
    part[np.abs(outside) < BORDER] = VOID
    owners[rows, columns][inside] = number
    return kind


def distance(kind: str, u: Field, v: Field, radius: float) -> Field:
    """How far outside a shape's edge the points (u, v) from its centre are, in pixels; negative inside."""
    if kind == "disc":
        return np.hypot(u, v) - radius
    if kind == "ring":
        return np.abs(np.hypot(u, v) - 0.75 * radius) - 0.25 * radius
    across, along = np.abs(u), np.abs(v)
    if kind == "square":
        return np.maximum(across, along) - 0.85 * radius
    if kind == "triangle":
        return np.maximum(np.float32(0.75**0.5) * across + 0.5 * v, -v) - 0.6 * radius
    longer, shorter = np.maximum(across, along), np.minimum(across, along)  # a cross of two bars
    return np.maximum(longer - radius, shorter - 0.3 * radius)


class SceneRows:
    """Scenes ``first`` to ``first + count - 1``, which no file holds."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def name(self, row: int) -> str:
        """``scene_0007``."""
        return f"scene_{self.first + row:04}"

    def paths(self, row: int) -> tuple[()]:
        """No file."""
        return ()

    def notes(self, rows: NDArray[np.int64]) -> list[Note]:
        """Nothing."""
        return []
