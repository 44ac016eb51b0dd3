"""The table of a comparison: a row for each config, over its seeds, and its difference from the baseline by seed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kd_core.errors import KDError, did_you_mean
from kd_core.files import json_text
from kd_core.study.figures import Figures
from kd_core.study.spec import shown
from kd_core.study.statistics import FEW, Difference, Interval, Spread, difference, spread
from kd_core.study.study import Metric

LOWER = ("loss", "ece")
"""Metrics of which a smaller value is better, where another than the choosing one is asked for."""


@dataclass(frozen=True)
class Row:
    """A row: its cells, and over its finished runs the scores, the differences from the baseline, size and time."""

    name: str
    cells: dict[str, str]
    runs: list[Figures]
    seeds: list[int]
    validation: Spread | None
    final: Spread | None
    validation_difference: Difference | None = None
    final_difference: Difference | None = None
    parameters: int | None = None
    epoch_seconds: float | None = None
    seconds: float | None = None

    @property
    def missing(self) -> list[Figures]:
        """The runs that have not ended."""
        return [run for run in self.runs if run.state != "finished"]


@dataclass(frozen=True)
class Comparison:
    """A table, the best row on the validation split first, rows without a finished run last."""

    metric: Metric
    baseline: str
    interval: Interval
    split: str
    rows: list[Row]
    notes: list[str]
    """What is to be said below the table: runs that are missing, intervals that are too narrow."""


def compare(
    figures: Sequence[Figures], metric: Metric, *, baseline: str | None = None, interval: Interval = "t"
) -> Comparison:
    """The comparison of some runs by one metric; KDError where no run has ended, or has no such metric."""
    finished = [run for run in figures if run.state == "finished"]
    if not finished:
        raise KDError("no run has ended yet: there is nothing to compare")
    _refuse_unknown(metric.name, finished)
    rows = [_row(cells, runs, metric.name) for cells, runs in _grouped(figures)]
    reference = _baseline(rows, baseline)
    rows = [_against(row, reference, metric.name, interval) for row in rows]
    split = next((run.split for run in finished if run.split), "")
    return Comparison(metric, reference.name, interval, split, _ordered(rows, metric), _notes(rows, interval))


def _refuse_unknown(name: str, finished: Sequence[Figures]) -> None:
    known = dict.fromkeys(key for run in finished for key in (*run.validation, *run.final))
    if name not in known:
        raise KDError(f"the runs have no metric {name!r}", hint=did_you_mean(name, list(known)))


def _grouped(figures: Sequence[Figures]) -> list[tuple[dict[str, str], list[Figures]]]:
    """The runs of each row, and the cells of the columns that vary, whose names are as short as they may be."""
    groups: dict[str, list[Figures]] = {}
    for run in figures:
        groups.setdefault(json.dumps(run.columns), []).append(run)
    every = list(dict.fromkeys(key for run in figures for key in run.columns))
    varying = [key for key in every if len({json.dumps(run.columns.get(key)) for run in figures}) > 1]
    names = _short(varying or every[:1] or ["row"])
    told = []
    for runs in groups.values():
        columns = runs[0].columns
        cells = {short: shown(columns[key]) if key in columns else "-" for key, short in names.items()}
        told.append((cells, sorted(runs, key=lambda run: run.seed)))
    _tell_apart(told, groups)
    return told


def _tell_apart(told: list[tuple[dict[str, str], list[Figures]]], groups: Mapping[str, list[Figures]]) -> None:
    """Give rows whose cells are the same, methods with other parameters, their whole values."""
    texts = [json.dumps(cells) for cells, _ in told]
    for cells, runs in told:
        if texts.count(json.dumps(cells)) > 1:
            whole = [
                json.dumps(value) if isinstance(value, dict) else shown(value) for value in runs[0].columns.values()
            ]
            cells[next(iter(cells))] = ", ".join(whole)


def _short(keys: Sequence[str]) -> dict[str, str]:
    """For each path the shortest end of it that no other path has."""
    names = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-length:]) for length in range(1, len(parts) + 1)]
        alone = [end for end in ends if sum(f".{other}".endswith(f".{end}") for other in keys) == 1]
        names[key] = alone[0] if alone else key
    return names


def _row(cells: dict[str, str], runs: list[Figures], metric: str) -> Row:
    finished = [run for run in runs if run.state == "finished"]

    def mean(value: Callable[[Figures], float | None]) -> float | None:
        known = [number for run in finished if (number := value(run)) is not None]
        return sum(known) / len(known) if known else None

    return Row(
        *(", ".join(cells.values()), cells, runs, [run.seed for run in finished]),
        validation=spread(list(scores(finished, "validation", metric).values())),
        final=spread(list(scores(finished, "final", metric).values())),
        parameters=next((run.parameters for run in finished if run.parameters), None),
        epoch_seconds=mean(lambda run: run.epoch_seconds),
        seconds=mean(lambda run: run.seconds),
    )


def scores(runs: Sequence[Figures], part: str, metric: str) -> dict[int, float]:
    """The finite scores of runs by seed, on the validation split or at the end (``final``)."""
    values = {run.seed: getattr(run, part).get(metric) for run in runs if run.state == "finished"}
    return {seed: value for seed, value in values.items() if value is not None}


def check_baseline(figures: Sequence[Figures], name: str | None, metric: Metric) -> None:
    """KDError where no row of these runs, which need not have ended, has the name of the baseline."""
    _baseline([_row(cells, runs, metric.name) for cells, runs in _grouped(figures)], name)


def _baseline(rows: Sequence[Row], name: str | None) -> Row:
    """The row that the others are compared with; KDError where none has that name."""
    names = [row.name for row in rows]
    if name is None:
        return rows[0]
    if name not in names:
        raise KDError(f"there is no row {name!r} to be the baseline", hint=did_you_mean(name, names))
    return rows[names.index(name)]


def _against(row: Row, reference: Row, metric: str, interval: Interval) -> Row:
    if row is reference:
        return row
    parts = {
        part: difference(scores(row.runs, part, metric), scores(reference.runs, part, metric), interval)
        for part in ("validation", "final")
    }
    return Row(
        **{**vars(row), "validation_difference": parts["validation"], "final_difference": parts["final"]},
    )


def _ordered(rows: Sequence[Row], metric: Metric) -> list[Row]:
    """By the mean on the validation split, or that at the end where nothing was validated."""

    def order(row: Row) -> tuple[bool, float]:
        score = row.validation or row.final
        return score is None, 0.0 if score is None else score.mean * (-1 if metric.maximise else 1)

    return sorted(rows, key=order)


def _notes(rows: Sequence[Row], interval: Interval) -> list[str]:
    """What is to be said below the table."""
    notes = []
    missing = [
        f"{row.name} (seed{'s' * (len(row.missing) > 1)} {', '.join(str(run.seed) for run in row.missing)})"
        for row in rows
        if row.seeds and row.missing
    ]
    if missing:
        notes.append(f"Not finished: {'; '.join(missing)}.")
    if none := [row.name for row in rows if not row.seeds]:
        notes.append(f"Without a finished run: {'; '.join(none)}.")
    every = {run.seed for row in rows for run in row.runs}
    absent = [
        f"{row.name} (seed{'s' * (len(left) > 1)} {', '.join(map(str, left))})"
        for row in rows
        if (left := sorted(every - {run.seed for run in row.runs}))
    ]
    if absent:
        notes.append(f"Without runs of some seeds: {'; '.join(absent)}.")
    counts = [gap.seeds for row in rows if (gap := row.final_difference or row.validation_difference)]
    if interval == "bootstrap" and counts and min(counts) < FEW:
        notes.append(
            f"Warning: a bootstrap interval of fewer than {FEW} seeds is too narrow; --interval t is Student's."
        )
    return notes


# -- as text


def cells(comparison: Comparison) -> list[list[str]]:
    """The table as lines of texts, the header first."""
    rows, metric = comparison.rows, comparison.metric.name
    decimals = decimals_of([part.mean for row in rows for part in (row.validation, row.final) if part])
    final = f"{comparison.split} {metric}" if comparison.split else metric
    scored = any(row.final for row in rows)
    gap = f"{comparison.split if scored else 'validation'}, more than {comparison.baseline}"
    columns: dict[str, list[str]] = {name: [row.cells[name] for row in rows] for name in rows[0].cells}
    columns["seeds"] = [str(len(row.seeds)) for row in rows]
    columns[f"validation {metric}"] = [spread_text(row.validation, decimals) for row in rows]
    if comparison.split != "validation" and scored:
        columns[final] = [spread_text(row.final, decimals) for row in rows]
    columns[gap] = [
        difference_text(row.final_difference if scored else row.validation_difference, decimals) for row in rows
    ]
    columns["parameters"] = [f"{row.parameters:,}" if row.parameters else "" for row in rows]
    columns["s / epoch"] = [f"{row.epoch_seconds:.1f}" if row.epoch_seconds is not None else "" for row in rows]
    columns["training"] = [duration(row.seconds) if row.seconds is not None else "" for row in rows]
    kept = {name: texts for name, texts in columns.items() if any(texts)}
    return [list(kept), *(list(line) for line in zip(*kept.values(), strict=True))]


def decimals_of(values: Sequence[float]) -> int:
    """How many decimals scores are shown with: two of percents, four of shares and losses."""
    return 2 if any(abs(value) >= 10 for value in values) else 4


def spread_text(value: Spread | None, decimals: int) -> str:
    """Mean ± standard deviation."""
    if value is None:
        return ""
    return f"{value.mean:.{decimals}f}" + ("" if value.deviation is None else f" ± {value.deviation:.{decimals}f}")


def difference_text(value: Difference | None, decimals: int) -> str:
    """The mean difference and its interval."""
    if value is None:
        return ""
    mean = f"{value.mean:+.{decimals}f}"
    return mean if value.low is None else f"{mean} [{value.low:+.{decimals}f}, {value.high:+.{decimals}f}]"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def markdown(comparison: Comparison) -> str:
    """The table as Markdown, with what is to be said below it."""
    header, *lines = cells(comparison)
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in (header, ["---"] * len(header), *lines)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in escaped)
    return "\n".join([text, "", *(f"{note}\n" for note in [explanation(comparison), *comparison.notes])])


def explanation(comparison: Comparison) -> str:
    """What the figures of the table are."""
    kind = "Student's t" if comparison.interval == "t" else "a bootstrap of the differences"
    return (
        "Scores are mean ± standard deviation over seeds. Differences are taken seed by seed, with the 95 % interval "
        f"of {kind}. The rows are in the order of the validation split."
    )


def csv_text(comparison: Comparison) -> str:
    """The table as CSV, the numbers whole."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = list(comparison.rows[0].cells)
    parts = ("validation", "final")
    figures = ("parameters", "epoch_seconds", "seconds")
    scored = [f"{part}_{key}" for part in parts for key in ("mean", "deviation")]
    gaps = [f"{part}_difference{key}" for part in parts for key in ("", "_low", "_high")]
    writer.writerow([*names, "seeds", *scored, *gaps, *figures])
    for row in comparison.rows:
        values = [value for part in (row.validation, row.final) for value in (part or (None, None, 0))[:2]]
        apart = [
            value for gap in (row.validation_difference, row.final_difference) for value in (gap or (None,) * 4)[:3]
        ]
        more = [getattr(row, name) for name in figures]
        writer.writerow([*row.cells.values(), len(row.seeds), *values, *apart, *more])
    return file.getvalue()


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The table with every run's figures."""
    rows = []
    for row in comparison.rows:
        named = {
            key: value._asdict() if isinstance(value, (Spread, Difference)) else value
            for key, value in vars(row).items()
            if key != "runs"
        }
        rows.append({**named, "runs": [asdict(run) for run in row.runs]})
    return {
        **{key: getattr(comparison, key) for key in ("baseline", "interval", "split", "notes")},
        "metric": comparison.metric._asdict(),
        "rows": rows,
    }


def json_table(comparison: Comparison) -> str:
    """The same as text."""
    return json_text(as_json(comparison), indent=2) + "\n"
