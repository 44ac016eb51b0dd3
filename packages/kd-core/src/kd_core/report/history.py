"""What the folder of a run tells of it: its config, curves, results, and what it was made from."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from kd_core.class_figures import ClassFigures
from kd_core.config import Lazy, dump, load
from kd_core.errors import KDError
from kd_core.runs.manifest import flat_differences
from kd_core.runs.run_folder import LINEAGE, STUDY, RunFolder, run_name
from kd_core.train.facts import decisive

Row = Mapping[str, Any]


@dataclass(frozen=True)
class History:
    """A run as its folder tells it. ``faults`` are sentences on what in it could not be read."""

    path: Path
    name: str
    config: Mapping[str, Any]
    epochs: Sequence[Row]
    steps: Sequence[Row]
    result: Mapping[str, Any] | None
    manifest: Mapping[str, Any]
    lineage: Mapping[str, Any]
    classes: ClassFigures | None
    data: Sequence[str]
    faults: Sequence[str] = field(default=())

    @classmethod
    def read(cls, path: Path) -> History:
        """The run in a folder; KDError where it is not one, or its config is damaged."""
        folder, faults = RunFolder.open(path), list[str]()
        config = load(folder.config).data
        rows = {file.name: _lines(file, faults) for file in (folder.metrics.path, folder.steps)}
        result = None
        if folder.finished:
            try:
                result = folder.result()
            except KDError:
                faults.append("result.json is damaged")
        record, classes = _mapping(folder.classes, faults), None
        if record:
            try:
                classes = ClassFigures.from_record(record)
            except (ValueError, TypeError, LookupError, OverflowError):
                faults.append("classes.json is damaged")
        return cls(
            path,
            path.resolve().name,
            config,
            rows[folder.metrics.path.name],
            rows[folder.steps.name],
            result,
            _mapping(folder.manifest, faults),
            _mapping(folder.student / LINEAGE, faults),
            classes,
            folder.said_of_data(),
            faults,
        )

    @cached_property
    def title(self) -> str:
        """What the run is called: in its study, in its config, or as its folder.

        A folder that is called by the time is called as the one above.
        """
        above = self.path.resolve().parent
        if (label := study_label(above, self.name)) is not None:
            return label or above.name
        return run_name(self.path, self.config)

    @property
    def seed(self) -> int:
        """The seed of everything."""
        seed = self.config.get("seed", 0)
        return seed if isinstance(seed, int) else 0

    @cached_property
    def stages(self) -> list[str]:
        """The stages that have begun, in their order."""
        return list(dict.fromkeys(str(row.get("stage")) for row in (*self.epochs, *self.steps)))

    @cached_property
    def varying(self) -> Mapping[str, Any]:
        """The config without what changes nothing of a student, and without its seed."""
        return {key: value for key, value in decisive(self.config).items() if key != "seed"}

    @property
    def text(self) -> str:
        """The config as YAML."""
        return dump(self.config)

    def terms(self, stage: str) -> list[str]:
        """The terms of a stage's losses."""
        names: dict[str, None] = {}
        for row in self.epochs:
            if row.get("stage") == stage and isinstance(row.get("train"), Mapping):
                names |= dict.fromkeys(row["train"])
        for row in self.steps:
            if row.get("stage") == stage and isinstance(row.get("terms"), Mapping):
                names |= dict.fromkeys(row["terms"])
        return [name for name in names if name != "loss"]

    def curve(self, stage: str, kind: str, name: str) -> list[tuple[float, float | None]]:
        """A figure over the steps of a stage, of the ``kind`` loss, terms, weighted, val, lr, norm or speed.

        Losses are those of ``steps.jsonl`` where it has several lines of the stage, else the means of epochs.
        """
        if kind == "val":
            return _points(self.epochs, stage, "val", name)
        if kind == "lr":
            rates = [{**row, "lr": {"0": _first(row.get("lr"))}} for row in (self.steps or self.epochs) if "lr" in row]
            return _points(rates, stage, "lr", "0")
        if kind in ("speed", "norm"):
            key = {"speed": "samples_per_second", "norm": "grad_norm"}[kind]
            return _points([{**row, "x": {key: row.get(key)}} for row in self.steps if key in row], stage, "x", key)
        rows = [{**row, "loss": {"loss": row.get("loss")}} for row in self.steps]
        points = _points(rows, stage, kind, name)
        if kind == "weighted" or len(points) > 2:
            return points
        return _points(self.epochs, stage, "train", name) or points

    def metrics(self, stage: str) -> list[str]:
        """The metrics of the validation split, those of single classes apart."""
        names: dict[str, None] = {}
        for row in self.epochs:
            if row.get("stage") == stage and isinstance(row.get("val"), Mapping):
                names |= dict.fromkeys(name for name in row["val"] if "/" not in name)
        return list(names)

    @property
    def seconds(self) -> float:
        """Of all epochs, without validation."""
        return sum(row["seconds"] for row in self.epochs if isinstance(row.get("seconds"), (int, float)))

    @property
    def throughput(self) -> float | None:
        """The median of the samples a second; None where the run noted none."""
        speeds = sorted(row["samples_per_second"] for row in self.steps if _is_number(row.get("samples_per_second")))
        return speeds[len(speeds) // 2] if speeds else None


@dataclass(frozen=True)
class Group:
    """Runs of one config with different seeds."""

    name: str
    runs: Sequence[History]


def grouped(runs: Sequence[History]) -> list[Group]:
    """Runs by their configs, seeds apart. A group is called as its config, or where several are, by what differs."""
    groups: list[list[History]] = []
    for run in runs:
        same = next((group for group in groups if not flat_differences(group[0].varying, run.varying)), None)
        if same is None:
            groups.append([run])
        else:
            same.append(run)
    titles = [group_title([run.title for run in group]) for group in groups]
    names = [
        title if titles.count(title) == 1 else (group[0].name if len(group) == 1 else f"{title}: {group[0].name}")
        for title, group in zip(titles, groups, strict=True)
    ]
    names = [name if names.count(name) == 1 else str(group[0].path) for name, group in zip(names, groups, strict=True)]
    return [Group(name, group) for name, group in zip(names, groups, strict=True)]


def study_label(study: Path, name: str) -> str | None:
    """The values that tell the run in the folder ``name`` from the others of a study; None where it is of none."""
    try:
        note = json.loads((study / STUDY).read_text(encoding="utf-8"))
        columns = dict(note["runs"][int(name)]["columns"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    values = [value if isinstance(value, str) else json.dumps(value) for value in columns.values()]
    return ", ".join(values if len(values) == 1 else map(" ".join, zip(map(str, columns), values, strict=True)))


def group_title(titles: Sequence[str]) -> str:
    """What several runs are called together: what their names begin with."""
    common = os.path.commonprefix(titles)  # noqa: RUF071 (of texts)
    return common if len(set(titles)) == 1 else common.rstrip("-_. ") or titles[0]


def differences(groups: Sequence[Group]) -> dict[str, list[str]]:
    """The values of the config that are not the same in all groups, by their dotted paths."""
    first = groups[0].runs[0].varying
    paths: dict[str, None] = {}
    for group in groups[1:]:
        paths |= dict.fromkeys(flat_differences(first, group.runs[0].varying))
    flats = [dict(_flat(group.runs[0].varying)) for group in groups]
    return {path: [_shown(flat.get(path, "")) for flat in flats] for path in paths}


def _shown(value: Any) -> str:
    """A plain value or a call as a config would write it."""
    return dump({"value": value}).partition(": ")[2].strip() if isinstance(value, Lazy) else str(value)


def _flat(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, (Mapping, list)) and value:
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def spread(
    curves: Sequence[Sequence[tuple[float, float | None]]],
) -> tuple[list[Any], list[tuple[float, float, float]]]:
    """The mean of several curves at the places that all have, and mean - and + one standard deviation around it."""
    tables = [{x: y for x, y in curve if _is_number(y)} for curve in curves]
    places = sorted(set.intersection(*map(set, tables))) if tables else []
    means, band = [], []
    for x in places:
        values = [table[x] for table in tables]
        mean, deviation = mean_and_deviation(values)  # type: ignore[arg-type]
        means.append((x, mean))
        band.append((x, mean - deviation, mean + deviation))
    return means, band


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The mean and the sample standard deviation, 0 of a single value."""
    mean = sum(values) / len(values)
    squares = sum((value - mean) ** 2 for value in values)
    return mean, math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else 0.0


def _points(rows: Iterable[Row], stage: str, key: str, name: str) -> list[tuple[float, float | None]]:
    """(step, value) of the rows of a stage that have a value, None for one that is not finite."""
    points: dict[float, float | None] = {}
    for row in rows:
        values, step = row.get(key), row.get("step")
        if row.get("stage") != stage or not isinstance(values, Mapping) or name not in values or not _is_number(step):
            continue
        points[float(step)] = float(values[name]) if _is_number(values[name]) else None  # type: ignore[arg-type]
    return sorted(points.items(), key=lambda point: point[0])


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _lines(file: Path, faults: list[str]) -> list[Row]:
    """The JSON objects of a file, one a line; damaged lines are counted among the faults."""
    if not file.exists():
        return []
    rows: list[Row] = []
    damaged = 0
    text = file.read_text(encoding="utf-8", errors="replace")
    for line in text[: text.rfind("\n") + 1].split("\n")[:-1]:
        row = None
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
        if isinstance(row, dict):
            rows.append(row)
        else:
            damaged += 1
    if damaged:
        faults.append(f"{damaged} {'lines' if damaged > 1 else 'line'} of {file.name} are damaged")
    return rows


def _mapping(file: Path, faults: list[str]) -> Mapping[str, Any]:
    """The JSON object in a file; empty where there is none."""
    if not file.is_file():
        return {}
    value = None
    with suppress(ValueError, RecursionError):
        value = json.loads(file.read_text(encoding="utf-8", errors="replace"))
    if isinstance(value, dict):
        return value
    faults.append(f"{file.name} is damaged")
    return {}
