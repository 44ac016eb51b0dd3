"""The file of a study: which configs, with which values, methods and seeds, or how a sampler chooses the values."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from kd_core.config import Lazy, has_call, load
from kd_core.config.kinds import is_study, refuse_config, refuse_study
from kd_core.config.schema import StrictModel
from kd_core.config.validation import Validator
from kd_core.errors import ConfigError, KDError, in_order

Plain = bool | int | float | str | None
Value = Plain | list[Any] | dict[str, Any]
GridValues = Annotated[list[Value], Field(min_length=1)]
Seed = Annotated[int, Field(ge=0)]


class RowSpec(StrictModel):
    """A row of a comparison: its config, and values set in it."""

    config: str | None = None
    """The config of this row, a path relative to this file; `config` of the whole file where it is left out."""
    set: dict[str, Value] = Field(default={})
    """Values by their paths in the config, as `--set` sets them."""


class DistributionSpec(StrictModel):
    """What a sampler draws a value from, in Optuna's words: a range or a list of choices."""

    low: int | float | None = None
    """The smallest value. A range is one of integers where `low`, `high` and `step` are integers."""
    high: int | float | None = None
    """The largest value, which may be drawn."""
    step: Annotated[int | float, Field(gt=0)] | None = None
    """Draw `low`, `low + step`, `low + 2 step` and so on, up to `high`."""
    log: bool = False
    """Draw the logarithm evenly: for values over several orders of magnitude."""
    choices: Annotated[list[Value], Field(min_length=1)] | None = None
    """Draw one of these values. They have no order."""

    @model_validator(mode="after")
    def _one(self) -> DistributionSpec:
        ranged = [self.low, self.high]
        if (self.choices is None) == (None in ranged) and (self.choices is not None or ranged != [None, None]):
            raise ValueError("give either 'choices', or 'low' and 'high'")
        if self.choices is None and None in ranged:
            raise ValueError("give either 'choices', or 'low' and 'high'")
        if self.choices is not None and (self.step is not None or self.log):
            raise ValueError("'step' and 'log' belong to 'low' and 'high', not to 'choices'")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"'low' is {self.low}, which is above 'high', {self.high}")
        if self.log and (self.step is not None or (self.low is not None and self.low <= 0)):
            raise ValueError("with 'log', 'low' is greater than 0 and there is no 'step'")
        return self


class StudySpec(StrictModel):
    """The file of a sweep or a comparison: every row with every method, every point of the grid and every seed."""

    config: str | None = None
    """The config of all runs, a path relative to this file. It may be left out where each row has its own."""
    rows: Annotated[dict[str, RowSpec], Field(min_length=1)] | None = None
    """Named rows of the comparison, each with a config or values of its own."""
    methods: Annotated[list[str | dict[str, Any]], Field(min_length=1)] | None = None
    """Methods for the last stage of the config, by name, or as `{method: ft, paraphrase_epochs: 1}`."""
    grid: list[Annotated[dict[str, GridValues], Field(min_length=1)]] = Field(default=[])
    """The axes. Each maps paths of the config to lists of values of one length, which are set together."""
    seeds: Annotated[list[Seed], Field(min_length=1)] = Field(default=[0])
    """Random seeds. Each combination is run once with each of them. A sampler's trials all have the first one."""
    baseline: str | None = None
    """The row that the others are compared with, by its name; the first one where it is left out."""
    search_space: dict[str, DistributionSpec] = Field(default={})
    """Distributions of values by their paths in the config, for a sampler."""
    sampler: Literal["grid", "random", "tpe"] | Lazy = "grid"
    """How values are chosen: `grid` takes all combinations; `random`, `tpe`, `!call:optuna.samplers...` draw them."""
    trials: Annotated[int, Field(ge=1)] | None = None
    """How many runs a sampler begins, those before a continuation counted."""
    pruner: Literal["median", "hyperband"] | Lazy | None = None
    """What ends a trial whose validation scores are poor: `median`, `hyperband` or a `!call:optuna.pruners...`."""

    @model_validator(mode="after")
    def _sound(self) -> StudySpec:
        for number, axis in enumerate(self.grid):
            if len({len(values) for values in axis.values()}) > 1:
                counts = ", ".join(f"{path}: {len(values)}" for path, values in axis.items())
                raise ValueError(f"the values of an axis go together, grid.{number} has {counts}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed stands in 'seeds' twice")
        nameless = [name for name, row in (self.rows or {}).items() if row.config is None]
        if self.config is None and (nameless or not self.rows):
            raise ValueError("missing required key 'config'" + (f" for {', '.join(nameless)}" if nameless else ""))
        values = [self.grid, self.methods, *(row.set for row in (self.rows or {}).values())]
        if any(map(has_call, values)):
            raise ValueError("a !call is no value to set: write a config that extends the other, and a row for it")
        self._searches()
        return self

    def _searches(self) -> None:
        """ValueError where the keys of a sampler and those of a grid do not go together."""
        if self.sampler == "grid":
            wrong = [key for key in ("search_space", "trials", "pruner") if getattr(self, key)]
            if wrong:
                raise ValueError(f"{wrong[0]!r} is for a sampler: write 'sampler: tpe', say")
            if not (self.grid or self.rows or self.methods):
                raise ValueError("there is nothing to vary: write 'grid', 'methods' or 'rows'")
            return
        if self.rows or self.methods or self.grid:
            raise ValueError("a sampler draws from 'search_space', not from 'grid', 'methods' or 'rows'")
        missing = [key for key in ("search_space", "trials") if not getattr(self, key)]
        if missing:
            raise ValueError(f"missing required key {missing[0]!r}, which a sampler needs")
        if len(self.seeds) > 1:
            raise ValueError("the trials of a sampler have one seed: compare the best ones over several seeds after it")

    @property
    def searches(self) -> bool:
        """Whether a sampler chooses the values."""
        return self.sampler != "grid"


@dataclass(frozen=True)
class Point:
    """What one run of a study is: its config, the values set in it, and its seed.

    ``columns`` are what a table says of it: the row's name, the method, the values of the grid.
    """

    config: Path
    columns: Mapping[str, Any]
    values: Mapping[str, Any]
    seed: int

    @property
    def settings(self) -> list[str]:
        """The values and the seed as ``--set`` takes them."""
        return [f"{key}={json.dumps(value)}" for key, value in {**self.values, "seed": self.seed}.items()]

    @property
    def name(self) -> str:
        """The run in a message."""
        return ", ".join([*(shown(value) for value in self.columns.values()), f"seed {self.seed}"])


@dataclass(frozen=True)
class StudyFile:
    """A study, and the folder that its paths are relative to."""

    spec: StudySpec
    folder: Path = field(default_factory=Path)

    def points(self) -> Iterator[Point]:
        """All runs of a study, the seeds of a row one after another.

        Of one with a sampler, runs that try the ends of its ranges and all its choices.
        """
        spec = self.spec
        if spec.searches:
            yield from self._ends()
            return
        axes = [[dict(zip(axis, row, strict=True)) for row in zip(*axis.values(), strict=True)] for axis in spec.grid]
        for name, row in (spec.rows or {"": RowSpec()}).items():
            config = self.config(row)
            methods = [("", {})] if spec.methods is None else list(with_methods(config, spec.methods))
            for (method, setting), chosen in itertools.product(methods, itertools.product(*axes)):
                grid = {path: value for choice in chosen for path, value in choice.items()}
                columns = {**({"row": name} if name else {}), **({"method": method} if method else {}), **grid}
                for seed in spec.seeds:
                    yield Point(config, columns, {**row.set, **setting, **grid}, seed)

    def _ends(self) -> Iterator[Point]:
        """Runs of a search: with the lowest values and the first choices, and so on."""
        lists = {path: item.choices or [item.low, item.high] for path, item in self.spec.search_space.items()}
        for number in range(max(map(len, lists.values()))):
            yield self.point({path: values[min(number, len(values) - 1)] for path, values in lists.items()})

    def point(self, values: Mapping[str, Any]) -> Point:
        """The run of a search that has some values."""
        return Point(self.config(), dict(values), dict(values), self.spec.seeds[0])

    def config(self, row: RowSpec | None = None) -> Path:
        """The config of a row."""
        return self.folder / str((row and row.config) or self.spec.config)


def shown(value: Any) -> str:
    """A value in a table: a method with parameters by its name alone."""
    if isinstance(value, dict) and "method" in value:
        return str(value["method"])
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def with_methods(config: Path, methods: Sequence[str | dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each method's name with what sets it in the last stage of ``config``; KDError where that has losses of its own.

    A method that is named twice, with other parameters, is named with them.
    """
    stages = load(config).data.get("stages") or {}
    if not isinstance(stages, dict) or not stages:
        raise KDError(f"{config} has no stage that a method could train", path="stages")
    key = f"stages.{list(stages)[-1]}.method"
    stage = load(config, [f"{key}=null"]).data["stages"][list(stages)[-1]]
    own = [name for name, term in (stage.get("losses") or {}).items() if isinstance(term, dict) and "loss" in term]
    if own:
        message = f"{config} has losses of its own ({', '.join(own)}), with which every method would train, too"
        raise KDError(message, hint=f"take them out of the stage, and write `method: {own[-1]}` there, say")
    names = [shown(method) for method in methods]
    for name, method in zip(names, methods, strict=True):
        parameters = (
            {key: value for key, value in method.items() if key != "method"} if isinstance(method, dict) else {}
        )
        told = " ".join([name, *(f"{key}={json.dumps(value)}" for key, value in parameters.items())])
        yield name if names.count(name) == 1 else told, {key: method}


def read(path: Path) -> StudyFile:
    """The study in a file; ConfigError with what is wrong."""
    document = load(path)
    refuse_config(document)
    validator = Validator(document, "study")
    spec = validator.validate(StudySpec, document.data)
    if spec is None:
        raise ConfigError(in_order(validator.problems))
    return StudyFile(spec, path.parent)


def of_configs(configs: Sequence[Path], methods: Sequence[str], seeds: Sequence[int]) -> StudyFile:
    """The comparison of some configs, each a row by the name of its file, with each method and each seed."""
    for config in configs:
        refuse_study(load(config))
    given: dict[str, Any] = {"seeds": list(seeds) or [0]}
    if methods:
        given["methods"] = list(methods)
    if len(configs) == 1 and methods:
        return StudyFile(StudySpec(config=str(configs[0]), **given))
    names = [config.stem for config in configs]
    rows = {
        name if names.count(name) == 1 else config.as_posix(): {"config": str(config)}
        for name, config in zip(names, configs, strict=True)
    }
    if len(rows) < len(configs):
        raise KDError("a config is named twice")
    return StudyFile(StudySpec.model_validate({"rows": rows, **given}))


def is_study_file(path: Path) -> bool:
    """Whether a file is that of a study; one that cannot be read is a config, and an error there."""
    try:
        return is_study(load(path))
    except KDError:
        return False
