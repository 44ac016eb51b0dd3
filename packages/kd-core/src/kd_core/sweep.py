"""A grid of runs of one config: every combination of some values, each a run that resumes, and a table at the end."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from kd_core import experiment
from kd_core.check.data import Summaries
from kd_core.config import dump, load
from kd_core.config.kinds import refuse_config
from kd_core.config.schema import StrictModel
from kd_core.config.validation import Validator
from kd_core.device.distributed import run_on_rank_zero
from kd_core.errors import ConfigError, ConfigProblem, KDError, in_order
from kd_core.experiment import Experiment
from kd_core.files import is_leftover, json_text, remove_leftovers, write_text
from kd_core.runs.run_folder import RunFolder
from kd_core.train.facts import decisive
from kd_core.train.run import Result

Plain = bool | int | float | str | None
GridValues = Annotated[list[Plain | list[Any] | dict[str, Any]], Field(min_length=1)]


class SweepSpec(StrictModel):
    """A sweep: which config (beside this file), and the values to try.

    Each item of ``grid`` is an axis: paths of the config with as many values each, which go together. All combinations
    of the axes are run, with each of ``seeds``.
    """

    config: str
    """The config of all runs, a path relative to this file."""
    grid: Annotated[list[Annotated[dict[str, GridValues], Field(min_length=1)]], Field(min_length=1)]
    """The axes. Each maps paths of the config to lists of values of one length, which are set together."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(default=[0])
    """Random seeds. Each combination is run once with each of them."""

    @model_validator(mode="after")
    def _even(self) -> SweepSpec:
        for number, axis in enumerate(self.grid):
            if len({len(values) for values in axis.values()}) > 1:
                counts = ", ".join(f"{path}: {len(values)}" for path, values in axis.items())
                raise ValueError(f"the values of an axis go together, grid.{number} has {counts}")
        return self

    def points(self) -> Iterator[dict[str, Any]]:
        """The values of each run by path; the seed comes last."""
        axes = [[dict(zip(axis, row, strict=True)) for row in zip(*axis.values(), strict=True)] for axis in self.grid]
        for chosen in itertools.product(*axes):
            for seed in self.seeds:
                yield {path: value for choice in chosen for path, value in choice.items()} | {"seed": seed}


@dataclass(frozen=True)
class SweepRow:
    """One run of a sweep. ``score`` is the validation metric that chooses, None where there is no validation split."""

    values: dict[str, Any]
    score: float | None
    metrics: dict[str, float]
    run: str


@dataclass(frozen=True)
class SweepTable:
    """The result of a sweep, the best run first. ``metric`` is what :attr:`SweepRow.score` is, as the task calls it."""

    metric: str
    rows: list[SweepRow]


def read(path: Path) -> SweepSpec:
    """The sweep in a file; ConfigError with what is wrong."""
    document = load(path)
    refuse_config(document)
    validator = Validator(document, "sweep")
    spec = validator.validate(SweepSpec, document.data)
    if spec is None:
        raise ConfigError(in_order(validator.problems))
    return spec


def sweep(
    path: Path, out: Path, *, overrides: Sequence[str] = (), trust: Sequence[str] = (), command: str = ""
) -> SweepTable:
    """Run what is left of a sweep below ``out``; all its configs are checked before the first run begins."""
    spec = read(path)
    points = list(spec.points())
    experiments = [_experiment(path.parent / spec.config, point, overrides, trust)[0] for point in points]
    config = dump(decisive(experiments[0].document.data))
    run_on_rank_zero(lambda: _claim(out, {"points": points, "config": config}))
    rows = []
    for number, (point, current) in enumerate(zip(points, experiments, strict=True)):
        folder = out / f"{number:03d}"
        rows.append(_row(point, _run(current, folder, trust, command), current, folder))
    plan = experiments[0].plan
    best = plan.stages[-1].spec.monitor
    metric, maximise = (best.metric, best.mode == "max") if best else (plan.task.monitor, plan.task.mode == "max")
    scored = [row for row in rows if row.score is not None]
    ordered = sorted(scored, key=lambda row: (row.score or 0.0) * (-1 if maximise else 1))
    table = SweepTable(metric, [*ordered, *(row for row in rows if row.score is None)])
    run_on_rank_zero(
        lambda: write_text(out / "table.json", json_text([asdict(row) for row in table.rows], indent=2) + "\n")
    )
    return table


def check(
    path: Path, *, overrides: Sequence[str] = (), trust: Sequence[str] = (), strict: bool = False, data: bool = False
) -> tuple[list[str], list[str]]:
    """Check all configs of a sweep: what could not be verified, and the data of the first run, read with ``data``.

    ConfigError with what is wrong in the first one that is.
    """
    spec = read(path)
    unverified: dict[str, None] = {}
    summaries, lines = Summaries(), list[str]()
    for number, point in enumerate(spec.points()):
        experiment, unchecked = _experiment(path.parent / spec.config, point, overrides, trust, strict)
        with _errors_with(point):
            told, unread = experiment.check_data(strict=strict, whole=data and not number, summaries=summaries)
        unverified |= dict.fromkeys([*unchecked, *unread])
        lines = lines or told
    return list(unverified), lines


def _experiment(
    config: Path, point: dict[str, Any], overrides: Sequence[str], trust: Sequence[str], strict: bool = False
) -> tuple[Experiment, list[str]]:
    """A run of the sweep and what a check could not verify; ConfigError, with the run's values, for what is wrong."""
    with _errors_with(point):
        experiment = Experiment.load(config, overrides=[*overrides, *_settings(point)], trust=trust)
        return experiment, experiment.check(strict=strict)


@contextmanager
def _errors_with(point: dict[str, Any]) -> Iterator[None]:
    """Say of errors in which run of a sweep they are."""
    try:
        yield
    except KDError as error:
        raise ConfigError([ConfigProblem(f"with {', '.join(_settings(point))}:"), *error.problems]) from None


def _settings(point: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in point.items()]


def _claim(out: Path, facts: dict[str, Any]) -> None:
    """Note in the folder what its numbers stand for; KDError where it is another sweep's, or of another config."""
    note = out / "sweep.json"
    text = json_text(facts, indent=2) + "\n"
    if note.exists() and note.read_text(encoding="utf-8", errors="replace") != text:
        hint = "name a new folder with --out"
        raise KDError(f"{out} holds another sweep: its grid, its config or its overrides were others", hint=hint)
    if not note.exists() and out.is_dir() and not all(map(is_leftover, out.iterdir())):
        raise KDError(f"{out} is not empty and does not hold a sweep", hint="name a new folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    write_text(note, text)


def _run(current: Experiment, folder: Path, trust: Sequence[str], command: str) -> Result:
    if (folder / "config.yaml").exists():
        return experiment.resume(folder, trust=trust, command=command)
    return current.train(folder, command=command)


def _row(point: dict[str, Any], result: Result, current: Experiment, folder: Path) -> SweepRow:
    best = result.best or RunFolder.open(folder).result()["best"]
    stage = current.plan.stages[-1].spec.monitor
    name = stage.metric if stage else current.plan.task.monitor
    return SweepRow(point, best["metrics"].get(name) if best else None, result.metrics, str(folder))
