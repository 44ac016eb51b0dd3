"""Curves of precision over recall, as SVG."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kd_core.report.page import escape
from kd_vision.detection.matching import Curves

COLOURS = ("#1b7837", "#2166ac", "#b2182b")
SIZE, LEFT, TOP, BOTTOM = (560, 360), 56, 16, 44
"""Pixels of a picture, and what is left free beside, above and below the curves."""
THRESHOLDS, SHOWN = np.linspace(0.5, 0.95, 10), (0, 5)
"""COCO's thresholds of the overlap, and the places of those that have a curve of their own."""
STEP = 20
"""Percent between two lines of the grid."""


def precision_recall(curves: Curves) -> dict[str, NDArray[np.float64]]:
    """Percent of precision at COCO's 101 recalls, the mean over the classes that have truth.

    Of IoU (or OKS) 0.5, 0.75, and the mean over 0.5 to 0.95; nothing where no class has any.
    """
    precision = curves.precision[..., 0]  # thresholds, recalls, labels
    precision = 100 * precision[:, :, (precision > -1).any((0, 1))]
    if not precision.size:
        return {}
    single = {f"{THRESHOLDS[place]:g}": precision[place].mean(-1) for place in SHOWN}
    return {**single, f"{THRESHOLDS[0]:g}:{THRESHOLDS[-1]:g}": precision.mean((0, 2))}


def svg(curves: Mapping[str, NDArray[np.float64]], title: str) -> str:
    """Curves of percent at recalls from 0 to 100, drawn, with a legend that has the area below each."""
    recalls = np.linspace(0, 100, len(next(iter(curves.values()))))
    lines, legend = [], []
    for number, (name, values) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in zip(recalls, values, strict=True))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        left, top = across(100) + 16, down(100) + 24 * number + 12
        legend.append(f'<line x1="{left}" y1="{top}" x2="{left + 24}" y2="{top}" stroke="{colour}" stroke-width="3"/>')
        legend.append(f'<text x="{left + 32}" y="{top + 4}">{escape(name)} ({values.mean():.1f})</text>')
    view = f'viewBox="0 0 {SIZE[0]} {SIZE[1]}" width="{SIZE[0]}" height="{SIZE[1]}"'
    return f'<svg role="img" aria-label="{escape(title)}" {view}>{grid()}{"".join([*lines, *legend])}</svg>'


def grid() -> str:
    """Lines at every 20 percent with their numbers, and the names of the axes."""
    parts = []
    for percent in range(0, 101, STEP):
        x, y = across(percent), down(percent)
        parts.append(f'<line x1="{x}" y1="{down(0)}" x2="{x}" y2="{down(100)}" stroke="#ddd"/>')
        parts.append(f'<line x1="{across(0)}" y1="{y}" x2="{across(100)}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="{down(0) + 18}" text-anchor="middle">{percent}</text>')
        parts.append(f'<text x="{across(0) - 8}" y="{y + 4}" text-anchor="end">{percent}</text>')
    middle = (across(50), down(50))
    parts.append(f'<text x="{middle[0]}" y="{SIZE[1] - 6}" text-anchor="middle">recall, %</text>')
    turn = f'transform="rotate(-90 14 {middle[1]})"'
    parts.append(f'<text x="14" y="{middle[1]}" text-anchor="middle" {turn}>precision, %</text>')
    return "".join(parts)


def across(percent: float) -> float:
    """Where a recall is, in pixels from the left: the curves are as wide as high."""
    return LEFT + percent * (SIZE[1] - TOP - BOTTOM) / 100


def down(percent: float) -> float:
    """Where a precision is, in pixels from the top."""
    return TOP + (100 - percent) * (SIZE[1] - TOP - BOTTOM) / 100
