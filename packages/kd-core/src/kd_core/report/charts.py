"""Curves as SVG: lines with gaps where values are not finite, bands, and what the page's script reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kd_core.report.page import escape

WIDTH, HEIGHT = 440, 250
LEFT, RIGHT, TOP, BOTTOM = 54, WIDTH - 10, 10, HEIGHT - 34
"""Pixels: of a picture, and between which the curves are."""
POINTS = 600
"""Points of a curve that are drawn; of more, every so many."""
DOTTED = 20
"""Points of a curve up to which each has a dot."""
COLOURS = 8
"""Colours of lines in ``page.css``; further lines have them again, dashed."""
DASHES = ("", "6 3", "2 3", "8 3 2 3")

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Curve:
    """A line of points (x, y) called ``name``, y None or not finite in a gap; ``band`` has (x, low, high) around it.

    ``key`` is what a legend shows and hides; ``number`` decides its colour, and ``thin`` lines have no dots.
    """

    name: str
    points: Sequence[Point]
    number: int = 0
    key: str = ""
    band: Sequence[tuple[float, float, float]] = ()
    thin: bool = False

    @property
    def finite(self) -> list[tuple[float, float]]:
        """The points that are not in gaps."""
        return [(x, y) for x, y in self.points if y is not None and math.isfinite(y)]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers, a step of 1, 2 or 5 times a power of ten apart, within [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float) -> str:
    """A number at an axis, as short as can be: 12k, 0.05, 1e-05."""
    if abs(value) < 1e-12:
        return "0"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{value:.4g}"


def chart(title: str, curves: Sequence[Curve], *, axis: str = "step", legend: bool = False) -> str:
    """A figure of some curves over one x axis, called ``axis``; with a legend of its own where asked for."""
    drawn = [curve for curve in curves if curve.finite]
    lost = sum(len(curve.points) - len(curve.finite) for curve in curves)
    note = f"{lost} value{'s are' if lost > 1 else ' is'} not finite" if lost else ""
    head = f'<figure class="chart"><h4>{escape(title)}</h4>'
    tail = f"{_legend(curves) if legend else ''}{f'<figcaption>{note}</figcaption>' if note else ''}</figure>"
    if not drawn:
        return f'{head}<p class="soft">No finite value.</p>{tail}'
    scale = Scale.of(drawn)
    sizes = f'viewBox="0 0 {WIDTH} {HEIGHT}" data-box="{LEFT} {RIGHT} {TOP} {BOTTOM}" data-axis="{escape(axis)}"'
    ends = f'data-x0="{scale.x0:.10g}" data-x1="{scale.x1:.10g}" data-y0="{scale.y0:.10g}" data-y1="{scale.y1:.10g}"'
    lines = "".join(_curve(curve, scale) for curve in sorted(drawn, key=lambda curve: not curve.thin))
    cursor = f'<line class="cursor off" y1="{TOP}" y2="{BOTTOM}"/>'
    svg = f'<svg role="img" aria-label="{escape(title)}" {sizes} {ends}>{_grid(scale, axis)}{cursor}{lines}</svg>'
    return f"{head}{svg}{tail}"


@dataclass(frozen=True)
class Scale:
    """From values to pixels."""

    x0: float
    x1: float
    y0: float
    y1: float

    @classmethod
    def of(cls, curves: Iterable[Curve]) -> Scale:
        """One that all curves and their bands fit in, with some room above and below."""
        points = [point for curve in curves for point in curve.finite]
        xs = [x for x, _ in points]
        ys = [y for _, y in points] + [y for curve in curves for _, *ends in curve.band for y in ends]
        low, high = min(ys), max(ys)
        flat = high - low <= 1e-9 * max(abs(low), abs(high))
        room = (abs(high) * 0.05 or 1.0) if flat else (high - low) * 0.05
        bottom = 0.0 if low >= 0 and low - room < 0 else low - room
        first, last = min(xs), max(xs)
        return cls(0.0 if 0 < first < last / 4 else first, last, bottom, high + room)

    def across(self, x: float) -> float:
        """Pixels from the left; a single x is in the middle."""
        share = (x - self.x0) / (self.x1 - self.x0) if self.x1 > self.x0 else 0.5
        return LEFT + share * (RIGHT - LEFT)

    def down(self, y: float) -> float:
        """Pixels from the top."""
        return BOTTOM - (y - self.y0) / (self.y1 - self.y0) * (BOTTOM - TOP)


def _grid(scale: Scale, axis: str) -> str:
    """Lines across at round values, numbers beside both axes, and the name of the x axis."""
    parts = []
    for value in ticks(scale.y0, scale.y1):
        y = scale.down(value)
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{tick_text(value)}</text>')
    for value in filter(float.is_integer, map(float, ticks(scale.x0, scale.x1))):
        place = f'x="{scale.across(value):.1f}" y="{BOTTOM + 16}"'
        parts += [f'<text {place} text-anchor="middle">{tick_text(value)}</text>']
    parts.append(f'<text x="{RIGHT}" y="{HEIGHT - 3}" text-anchor="end">{escape(axis)}</text>')
    return "".join(parts)


def _curve(curve: Curve, scale: Scale) -> str:
    """A curve in pieces between its gaps; a point that stands alone is a dot."""
    parts = []
    if curve.band:
        upper = [f"{scale.across(x):.1f},{scale.down(high):.1f}" for x, _, high in curve.band]
        lower = [f"{scale.across(x):.1f},{scale.down(low):.1f}" for x, low, _ in reversed(curve.band)]
        parts.append(f'<polygon class="band" points="{" ".join([*upper, *lower])}"/>')
    dash = DASHES[curve.number // COLOURS % len(DASHES)]
    style = f' stroke-dasharray="{dash}"' if dash else ""
    for piece in pieces(thinned(curve.points)):
        values = " ".join(f"{x:.7g},{y:.6g}" for x, y in piece)
        places = " ".join(f"{scale.across(x):.1f},{scale.down(y):.1f}" for x, y in piece)
        thin = " thin" if curve.thin else ""
        parts.append(f'<polyline class="line{thin}" points="{places}" data-points="{values}"{style}/>')
        if len(piece) == 1 or (len(curve.points) <= DOTTED and not curve.thin and not curve.band):
            dots = (
                f'<circle class="dot" cx="{scale.across(x):.1f}" cy="{scale.down(y):.1f}" r="2.6"/>' for x, y in piece
            )
            parts.extend(dots)
    colour = curve.number % COLOURS
    name = f'data-key="{escape(curve.key or curve.name)}" data-name="{escape(curve.name)}"'
    return f'<g class="c{colour}" {name}>{"".join(parts)}</g>'


def pieces(points: Sequence[Point]) -> list[list[tuple[float, float]]]:
    """The stretches of points between values that are not finite."""
    stretches: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None or not math.isfinite(y):
            stretches.append([])
        else:
            stretches[-1].append((x, y))
    return [stretch for stretch in stretches if stretch]


def thinned(points: Sequence[Point]) -> Sequence[Point]:
    """At most about :data:`POINTS` of the points, the last of them always."""
    every = -(-len(points) // POINTS)
    return points if every <= 1 else [*points[:-1:every], points[-1]]


def _legend(curves: Sequence[Curve]) -> str:
    """A button for each key, in the order of the curves."""
    return legend([(curve.key or curve.name, curve.name, curve.number) for curve in curves if not curve.thin])


def legend(entries: Iterable[tuple[str, str, int]], style: str = "") -> str:
    """Buttons that show and hide curves, of (key, name, number); within a figure its own, elsewhere all of the page."""
    buttons = "".join(
        f'<button type="button" aria-pressed="true" class="c{number % COLOURS}" data-key="{escape(key)}"><i></i>'
        f"{escape(name)}</button>"
        for key, name, number in entries
    )
    return f'<div class="legend {style}">{buttons}</div>'
