"""What the runs of a study scored, read from their folders."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from kd_core.config import Call, dump
from kd_core.config import load as load_config
from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_core.runs.run_folder import RunFolder, run_name
from kd_core.study.study import Metric, metric_of, read_note
from kd_core.train.facts import decisive

SHORT = 3
"""Values by which rows of runs that no study made are told apart; with more of them they have the runs' names."""
ABSENT = "-"


@dataclass(frozen=True)
class Figures:
    """One run: what the table says of it, its seed, its folder, and what is known of it.

    ``validation`` are the metrics of the epoch that was chosen, ``final`` those of the ``split`` that was scored once,
    at the end. ``parameters`` are the student's; ``epoch_seconds`` and ``seconds`` those of training, an epoch and all.
    """

    columns: Mapping[str, Any]
    seed: int
    run: str
    state: str = "missing"
    validation: Mapping[str, float | None] = field(default_factory=dict)
    final: Mapping[str, float | None] = field(default_factory=dict)
    split: str | None = None
    parameters: int | None = None
    epoch_seconds: float | None = None
    seconds: float | None = None


def figures_of(columns: Mapping[str, Any], seed: int, folder: Path) -> Figures:
    """The figures of a run's folder; of one that has not ended, or not begun, nothing but its place."""
    run = RunFolder(folder)
    if not run.finished:
        return Figures(columns, seed, str(folder), "unfinished" if run.config.exists() else "missing")
    result = run.result()
    seconds = list(_seconds(folder))
    return Figures(
        *(columns, seed, str(folder), "finished"),
        validation=(result["best"] or {}).get("metrics") or {},
        final=result["metrics"],
        split=result.get("split"),
        parameters=_parameters(folder),
        epoch_seconds=sum(seconds) / len(seconds) if seconds else None,
        seconds=sum(seconds) if seconds else None,
    )


def _parameters(folder: Path) -> int | None:
    """How many parameters the student has, as the run's manifest says."""
    try:
        return int(
            json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["models"]["student"]["parameters"]
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _seconds(folder: Path) -> Iterator[float]:
    """The seconds of each epoch, as ``metrics.jsonl`` says."""
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            record = json.loads(line)
            if isinstance(record, dict) and "train" in record:
                yield float(record["seconds"])
        except (ValueError, LookupError, TypeError):
            continue


@dataclass(frozen=True)
class Gathered:
    """Runs that are there already, and the metric that chose their students."""

    figures: list[Figures]
    metric: Metric


def gather(paths: Sequence[Path], trust: Sequence[str] = ()) -> Gathered:
    """The runs in folders: of studies, of single runs, or folders of runs. KDError where one is none of these, or where
    a row has a seed twice or stands for two configs."""
    figures, metrics = list[Figures](), dict[Metric, None]()
    loose, configs = list[Path](), dict[str, tuple[str, Path]]()
    for path in paths:
        note = read_note(path)
        if note is None or "id" in note:  # a sampler's trials are told apart by what was drawn
            loose += _runs_in(path)
            continue
        metrics[Metric(**note["metric"])] = None
        for number, run in enumerate(note["runs"]):
            label = json.dumps(run["columns"])
            known, where = configs.setdefault(label, (run["config"], path))
            if known != run["config"]:
                raise KDError(f"{label} in {where} and in {path} are runs of different configs")
            figures.append(figures_of(run["columns"], run["seed"], path / f"{number:03d}"))
    for run, columns, seed, metric in _told_apart(loose, trust):
        metrics[metric] = None
        figures.append(figures_of(columns, seed, run))
    if len(metrics) > 1:
        told = ", ".join(metric.name for metric in metrics)
        raise KDError(f"the runs are chosen by different metrics: {told}", hint="compare those of one metric")
    return Gathered(_once(figures), next(iter(metrics)))


def _once(figures: Sequence[Figures]) -> list[Figures]:
    """Each run once: one that has not ended is left out where another folder has it. KDError for two that have."""
    runs: dict[str, Figures] = {}
    for run in figures:
        key = json.dumps([run.columns, run.seed])
        other = runs.get(key)
        if other is not None and other.state == run.state == "finished":
            raise KDError(f"seed {run.seed} of {json.dumps(run.columns)} is both in {other.run} and in {run.run}")
        if other is None or run.state == "finished":
            runs[key] = run
    return list(runs.values())


def _runs_in(path: Path) -> list[Path]:
    """The run folder that a path is, or those in it; KDError where there are none."""
    if (path / "config.yaml").is_file():
        return [path]
    runs = sorted(file.parent for file in path.glob("*/config.yaml")) if path.is_dir() else []
    if not runs:
        hint = "name folders of runs, of sweeps or of comparisons"
        raise KDError(f"{path} is neither a run, nor a study, nor a folder of runs", hint=hint)
    return runs


def _told_apart(runs: Sequence[Path], trust: Sequence[str]) -> Iterator[tuple[Path, dict[str, Any], int, Metric]]:
    """Runs that no study made: what tells each from the others beside its seed, its seed, and its metric."""
    experiments = [Experiment.load(RunFolder.open(run).config, trust=trust) for run in runs]
    flat = [dict(flattened(decisive(item.document.data))) for item in experiments]
    for config in flat:
        config.pop("seed", None)
    keys = dict.fromkeys(chain.from_iterable(flat))
    varying = [key for key in keys if len({config.get(key, ABSENT) for config in flat}) > 1]
    plain = len(varying) <= SHORT and all(key in config for key in varying for config in flat)
    names = [] if plain else _names(runs, [json.dumps(config, sort_keys=True) for config in flat])
    for number, (run, experiment, config) in enumerate(zip(runs, experiments, flat, strict=True)):
        columns = {key: config[key] for key in varying} if plain else {"run": names[number]}
        yield run, columns, experiment.plan.seed, metric_of(experiment.plan)


def _names(runs: Sequence[Path], configs: Sequence[str]) -> list[str]:
    """What each run's row is called: as the first run of its config; with a digest where two configs have one name."""
    first = dict[str, str]()
    for config, run in zip(configs, runs, strict=True):
        first.setdefault(config, run_name(run, load_config(run / "config.yaml").data))
    twice = {name for name, count in Counter(first.values()).items() if count > 1}
    digests = {config: hashlib.sha256(config.encode()).hexdigest()[:6] for config in first}
    return [f"{first[config]} {digests[config]}" if first[config] in twice else first[config] for config in configs]


def flattened(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every value in a config as YAML, by its dotted path; of a call its name, and its arguments below it."""
    if isinstance(value, Call):
        yield path, value.target
    parts = value.parts() if isinstance(value, Call) else value
    if isinstance(parts, Mapping) and (parts or parts is not value):
        for key, item in parts.items():
            yield from flattened(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, " ".join(dump(value).removesuffix("...\n").split())
