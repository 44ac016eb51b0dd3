"""A grid of runs of one config: every combination of some values, each a run that resumes, and a table at the end."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from kd_core import experiment
from kd_core.config import load
from kd_core.config.kinds import refuse_config
from kd_core.config.schema import StrictModel
from kd_core.config.validation import Validator
from kd_core.device.distributed import run_on_rank_zero
from kd_core.errors import ConfigError, ConfigProblem, KDError, in_order
from kd_core.experiment import Experiment
from kd_core.files import json_text, write_text
from kd_core.runs.run_folder import RunFolder
from kd_core.train.run import Result

Plain = bool | int | float | str | None
Values = Annotated[list[Plain | list[Any] | dict[str, Any]], Field(min_length=1)]


class SweepSpec(StrictModel):
    """A sweep: which config (beside this file), and the values to try.

    Each item of ``grid`` is an axis: paths of the config with as many values each, which go together. All combinations
    of the axes are run, with each of ``seeds``.
    """

    config: str
    """The config of all runs, a path relative to this file."""
    grid: Annotated[list[Annotated[dict[str, Values], Field(min_length=1)]], Field(min_length=1)]
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
                yield {path: value for each in chosen for path, value in each.items()} | {"seed": seed}


@dataclass(frozen=True)
class Row:
    """One run of a sweep. ``score`` is the validation metric that chooses, None where there is no validation split."""

    values: dict[str, Any]
    score: float | None
    metrics: dict[str, float]
    run: str


@dataclass(frozen=True)
class Table:
    """What a sweep came to, the best run first. ``metric`` is what :attr:`Row.score` is, as the task calls it."""

    metric: str
    rows: list[Row]


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
) -> Table:
    """Run what is left of a sweep below ``out``; all its configs are checked before the first run begins."""
    spec = read(path)
    points = list(spec.points())
    experiments = [_experiment(path.parent / spec.config, point, overrides, trust) for point in points]
    run_on_rank_zero(lambda: _claim(out, points))
    rows = []
    for number, (point, each) in enumerate(zip(points, experiments, strict=True)):
        folder = out / f"{number:03d}"
        rows.append(_row(point, _run(each, folder, trust, command), each, folder))
    plan = experiments[0].plan
    best = plan.stages[-1].spec.monitor
    metric, maximise = (best.metric, best.mode == "max") if best else (plan.task.monitor, plan.task.mode == "max")
    known = [row for row in rows if row.score is not None]
    ordered = sorted(known, key=lambda row: (row.score or 0.0) * (-1 if maximise else 1))
    table = Table(metric, [*ordered, *(row for row in rows if row.score is None)])
    run_on_rank_zero(
        lambda: write_text(out / "table.json", json_text([asdict(row) for row in table.rows], indent=2) + "\n")
    )
    return table


def _experiment(config: Path, point: dict[str, Any], overrides: Sequence[str], trust: Sequence[str]) -> Experiment:
    given = [f"{key}={json.dumps(value)}" for key, value in point.items()]
    try:
        found = Experiment.load(config, overrides=[*overrides, *given], trust=trust)
        found.check()
    except KDError as error:
        raise ConfigError([ConfigProblem(f"with {', '.join(given)}:"), *error.problems]) from None
    return found


def _claim(out: Path, points: list[dict[str, Any]]) -> None:
    """Note in the folder what its numbers stand for; KDError where it is another sweep's."""
    note = out / "sweep.json"
    text = json_text(points, indent=2) + "\n"
    if note.exists() and note.read_text(encoding="utf-8") != text:
        raise KDError(f"{out} holds another sweep", hint="name a new folder with --out")
    if not note.exists() and out.is_dir() and any(out.iterdir()):
        raise KDError(f"{out} is not empty and does not hold a sweep", hint="name a new folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    write_text(note, text)


def _run(each: Experiment, folder: Path, trust: Sequence[str], command: str) -> Result:
    if (folder / "config.yaml").exists():
        return experiment.resume(folder, trust=trust, command=command)
    return each.train(folder, command=command)


def _row(point: dict[str, Any], result: Result, each: Experiment, folder: Path) -> Row:
    best = result.best or RunFolder.open(folder).result()["best"]
    stage = each.plan.stages[-1].spec.monitor
    name = stage.metric if stage else each.plan.task.monitor
    return Row(point, best["metrics"][name] if best else None, result.metrics, str(folder))
