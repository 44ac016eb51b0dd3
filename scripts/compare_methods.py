"""The table of a sweep over methods, as Markdown: mean and spread over seeds, and what each method adds to the first.

    python scripts/compare_methods.py SWEEP_FOLDER... [--metric top1]

Several folders, of one seed each, say, make one table. The difference of a method from the first one is taken seed by
seed, and its interval is Student's t of these differences (95 %). A sweep that is not finished gives the rows that it
has, and names the methods that miss seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

T_95 = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""The two-sided 95 % quantile of Student's t by its degrees of freedom."""


class Score(NamedTuple):
    """What one run scored: the best validation, and the test split once at the end."""

    validation: float
    test: float


def scores_of(folder: Path, metric: str, scores: dict[str, dict[int, Score]]) -> None:
    """Add the scores of the finished runs of a sweep, by method and seed, in the order of the sweep."""
    points = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))["points"]
    for number, point in enumerate(points):
        seeds = scores.setdefault(name_of(point), {})
        result = folder / f"{number:03d}" / "result.json"
        if result.is_file():
            told = json.loads(result.read_text(encoding="utf-8"))
            seeds[point["seed"]] = Score(told["best"]["metrics"][metric], told["metrics"][metric])


def name_of(point: Mapping[str, Any]) -> str:
    """A run's values without its seed: a method's name, and its parameters where it is given some."""
    values = [value for key, value in point.items() if key != "seed"]
    return ", ".join(
        value["method"] if isinstance(value, dict) and "method" in value else str(value) for value in values
    )


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval, NaN for a single one."""
    if len(differences) < 2:
        return statistics.mean(differences), math.nan
    quantile = T_95[min(len(differences) - 1, len(T_95) - 1)]
    return statistics.mean(differences), quantile * statistics.stdev(differences) / math.sqrt(len(differences))


def rows(scores: Mapping[str, Mapping[int, Score]], metric: str) -> Iterator[tuple[str, ...]]:
    """The lines of the table, the best method on the validation split first."""
    (first, reference), *_ = scores.items()
    yield "method", "seeds", f"validation {metric}", f"test {metric}", f"test, more than {first}"
    finished = {name: seeds for name, seeds in scores.items() if seeds}
    for name in sorted(
        finished, key=lambda name: -statistics.mean(score.validation for score in finished[name].values())
    ):
        seeds = finished[name]
        both = sorted(set(seeds) & set(reference))
        gain = ""
        if name != first and both:
            mean, half = interval([seeds[seed].test - reference[seed].test for seed in both])
            gain = f"{mean:+.2f}" if math.isnan(half) else f"{mean:+.2f} ± {half:.2f}"
        yield name, str(len(seeds)), *(spread([score[part] for score in seeds.values()]) for part in (0, 1)), gain


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="SWEEP_FOLDER")
    parser.add_argument("--metric", default="top1")
    options = parser.parse_args()
    scores: dict[str, dict[int, Score]] = {}
    for folder in options.folders:
        try:
            scores_of(folder, options.metric, scores)
        except (OSError, ValueError, KeyError) as error:
            sys.exit(f"{folder} is not the folder of a sweep: {error}")
    if not any(scores.values()):
        sys.exit(f"{', '.join(map(str, options.folders))}: no run is finished yet")
    header, *lines = rows(scores, options.metric)
    for line in (header, tuple("---" for _ in header), *lines):
        print(f"| {' | '.join(line)} |")
    most = max(map(len, scores.values()))
    if missing := [f"{name} ({len(seeds)} of {most} seeds)" for name, seeds in scores.items() if len(seeds) < most]:
        print(f"\nNot finished: {', '.join(missing)}.")


if __name__ == "__main__":
    main()
