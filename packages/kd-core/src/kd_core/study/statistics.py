"""Means, spreads and intervals of differences by seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

Interval = Literal["t", "bootstrap"]
LEVEL = 0.95
"""The probability of an interval."""
RESAMPLES = 10_000
FEW = 5
"""Seeds under which a bootstrap interval is too narrow."""


class Spread(NamedTuple):
    """The mean and the standard deviation (n - 1 in the denominator, None of one value) of ``seeds`` values."""

    mean: float
    deviation: float | None
    seeds: int


class Difference(NamedTuple):
    """The mean of differences by seed, and its interval: None where there are not two seeds."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and standard deviation; None of no values."""
    if not values:
        return None
    return Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def difference(
    values: Mapping[int, float], reference: Mapping[int, float], interval: Interval = "t"
) -> Difference | None:
    """Values minus those of a reference, by seed, over the seeds that both have; None where there is none.

    ``t``: Student's t of the differences. ``bootstrap``: percentiles of the means of resampled differences (Efron and
    Tibshirani, *An Introduction to the Bootstrap*, 1993, section 13.3), with random numbers that are always the same.
    """
    differences = [values[seed] - reference[seed] for seed in sorted(values.keys() & reference.keys())]
    if not differences:
        return None
    mean, count = statistics.mean(differences), len(differences)
    if count < 2:
        return Difference(mean, None, None, count)
    if interval == "bootstrap":
        drawn = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
        means = np.asarray(differences)[drawn].mean(axis=1)
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Difference(mean, float(low), float(high), count)
    half = t_quantile(count - 1) * statistics.stdev(differences) / math.sqrt(count)
    return Difference(mean, mean - half, mean + half, count)


def t_quantile(degrees: int, level: float = LEVEL) -> float:
    """The t that Student's distribution exceeds in size with probability ``1 - level``."""
    low, high = 0.0, 2.0
    while _within(high, degrees) < level:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < level else (low, middle)
    return (low + high) / 2


def _within(t: float, degrees: int) -> float:
    """P(|T| < t) for a whole number of degrees of freedom: Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = total = (cosine if odd else 1.0) if degrees > 1 else 0.0
    for number in range(2 if odd else 1, degrees - 1, 2):
        term *= cosine**2 * number / (number + 1)
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
