"""The picture of a comparison: a dot for each seed, the mean and the interval of each row, as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from kd_core.escapes import for_terminal
from kd_core.study.statistics import Difference
from kd_core.study.table import Comparison, Row, decimals_of, scores

ROW, TOP, BOTTOM = 26, 62, 40
"""Pixels of a row, above the first one and below the last one."""
PANEL, GAP, MARGIN = 360, 36, 16
"""Pixels of a panel's width, between two panels, and around all."""
LETTER = 7.2
"""Pixels that a letter of a row's name takes."""
LONGEST = 40
"""Letters of a row's name that are shown."""
INK, FAINT, LINE, MEAN = "#1b1f24", "#8b949e", "#d8dee4", "#0b62c4"
TICKS = 5
"""About how many ticks an axis has."""


@dataclass(frozen=True)
class Axis:
    """A horizontal axis: its values from ``low`` to ``high``, its first pixel, and the distance of its ticks."""

    low: float
    high: float
    left: float
    step: float

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self.left + (value - self.low) / (self.high - self.low) * PANEL

    @property
    def ticks(self) -> list[float]:
        """The values of the ticks."""
        first = math.ceil(self.low / self.step - 1e-9)
        return [number * self.step for number in range(first, math.floor(self.high / self.step + 1e-9) + 1)]


def axis(values: Sequence[float], left: float) -> Axis:
    """The axis that shows some values, at ticks of one, two or five times a power of ten."""
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    low, high = low - margin, high + margin
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return Axis(low, high, left, step)


def picture(comparison: Comparison) -> str:
    """An SVG file: scores of each row, and beside them the differences from the baseline with their intervals."""
    rows = [row for row in comparison.rows if row.seeds]
    part = "final" if any(row.final for row in rows) else "validation"
    name = comparison.split or "validation"
    left = MARGIN + min(max(len(_label(row.name)) for row in rows), LONGEST) * LETTER + 12
    height = TOP + ROW * len(rows) + BOTTOM
    gaps = {row.name: gap for row in rows if (gap := getattr(row, f"{part}_difference")) is not None}
    parts = [_names(rows, comparison.baseline, left)]
    parts.append(_scores(rows, part, comparison.metric.name, f"{name} {comparison.metric.name}", left))
    if gaps:
        parts.append(_differences(rows, gaps, comparison.baseline, left + PANEL + GAP))
    width = left + PANEL + (GAP + PANEL if gaps else 0) + MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="Helvetica, Arial, sans-serif" font-size="13" fill="{INK}">'
    )
    title = f"<title>{escape(name)} {escape(comparison.metric.name)} of {len(rows)} rows</title>"
    ground = f'<rect width="{width:.0f}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, title, ground, *parts, "</svg>"]) + "\n"


def _label(name: str) -> str:
    name = for_terminal(name)
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _middle(number: int) -> float:
    """The height of the middle of a row."""
    return TOP + ROW * (number + 0.5)


def _text(x: float, y: float, text: str, *, anchor: str = "middle", fill: str = INK, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}"{more}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.0) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _dot(x: float, y: float, radius: float, fill: str, more: str = "") -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}"{more}/>'


def _names(rows: Sequence[Row], baseline: str, left: float) -> str:
    """The names of the rows, that of the baseline in bold letters."""
    bold = ' font-weight="bold"'
    return "\n".join(
        _text(left - 12, _middle(number) + 4.5, _label(row.name), anchor="end", more=bold * (row.name == baseline))
        for number, row in enumerate(rows)
    )


def _frame(axis: Axis, count: int, title: str, note: str) -> list[str]:
    """A panel's title, its lines at the ticks, and their values."""
    bottom = TOP + ROW * count
    decimals = max(-math.floor(math.log10(axis.step) + 1e-9), 0)
    drawn = [
        _text(axis.left, 24, title, anchor="start", more=' font-weight="bold"'),
        _text(axis.left, 43, note, anchor="start", fill=FAINT, more=' font-size="11.5"'),
        _line(axis.left, bottom, axis.left + PANEL, bottom, FAINT),
    ]
    for value in axis.ticks:
        x = axis.at(value)
        drawn.append(_line(x, TOP, x, bottom, LINE))
        shown = f"{value:.{decimals}f}".replace("-0", "-0" if value else "0") if value else "0"
        drawn.append(_text(x, bottom + 18, shown, fill=FAINT, more=' font-size="11.5"'))
    return drawn


def _scores(rows: Sequence[Row], part: str, metric: str, title: str, left: float) -> str:
    """The panel of scores: a pale dot for each seed, a dark one for the mean, a line as long as the deviation twice."""
    known = {row.name: list(scores(row.runs, part, metric).values()) for row in rows}
    ends = [
        end
        for row in rows
        if (score := getattr(row, part)) is not None
        for end in (score.mean - (score.deviation or 0), score.mean + (score.deviation or 0))
    ]
    scale = axis([*ends, *(value for values in known.values() for value in values)], left)
    drawn = _frame(scale, len(rows), title, "pale: each seed; dark: mean ± standard deviation")
    for number, row in enumerate(rows):
        y, score = _middle(number), getattr(row, part)
        if score is None:
            continue
        if score.deviation:
            drawn.append(
                _line(scale.at(score.mean - score.deviation), y, scale.at(score.mean + score.deviation), y, MEAN, 2)
            )
        drawn += [_dot(scale.at(value), y, 3, MEAN, ' fill-opacity="0.3"') for value in known[row.name]]
        drawn.append(_dot(scale.at(score.mean), y, 4.5, MEAN))
    return "\n".join(drawn)


def _differences(rows: Sequence[Row], gaps: dict[str, Difference], baseline: str, left: float) -> str:
    """The panel of differences: the mean and its interval, beside a line at zero. Wide intervals are cut."""
    means = [gap.mean for gap in gaps.values()]
    room = max(max(means) - min(means), *map(abs, means), 1e-6) * 1.5
    low, high = min(0.0, *means) - room, max(0.0, *means) + room
    ends = [min(max(end, low), high) for gap in gaps.values() for end in (gap.low, gap.high) if end is not None]
    scale = axis([0.0, *means, *ends], left)
    digits = decimals_of(means)
    cut = any(end is not None and not low <= end <= high for gap in gaps.values() for end in (gap.low, gap.high))
    note = f"by seed, with its 95 % interval{'; wide ones are cut' if cut else ''}"
    drawn = _frame(scale, len(rows), f"difference from {_label(baseline)}", note)
    drawn.append(_line(scale.at(0), TOP, scale.at(0), TOP + ROW * len(rows), INK, 1.5))
    for number, row in enumerate(rows):
        if (gap := gaps.get(row.name)) is None:
            continue
        y = _middle(number)
        if gap.low is not None and gap.high is not None:
            first, last = max(gap.low, scale.low), min(gap.high, scale.high)
            drawn.append(_line(scale.at(first), y, scale.at(last), y, MEAN, 2))
            ends_shown = [end for end in (gap.low, gap.high) if scale.low <= end <= scale.high]
            drawn += [_line(scale.at(end), y - 5, scale.at(end), y + 5, MEAN, 2) for end in ends_shown]
        told = f"<title>{escape(row.name)}: {gap.mean:+.{digits}f}</title>"
        drawn.append(_dot(scale.at(gap.mean), y, 4.5, MEAN).replace("/>", f">{told}</circle>"))
    return "\n".join(drawn)
