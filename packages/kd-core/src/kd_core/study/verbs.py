"""The verbs: sweep and compare, as functions. Commands call these, and so may you."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kd_core.device.distributed import run_on_rank_zero, world_size
from kd_core.device.runtime import join
from kd_core.errors import KDError
from kd_core.files import json_text, write_text
from kd_core.study.engine import work
from kd_core.study.figures import Figures, Gathered, gather
from kd_core.study.picture import picture
from kd_core.study.queues import queue_of
from kd_core.study.search import check_calls
from kd_core.study.spec import read
from kd_core.study.statistics import Interval
from kd_core.study.study import Metric, Request, Study, writing
from kd_core.study.table import LOWER, Comparison, check_baseline, compare, csv_text, json_table, markdown
from kd_core.study.workers import run_workers


@dataclass(frozen=True)
class RankedRun:
    """One run of a sweep. ``score`` is the validation metric that chooses, None where there is no such score."""

    values: dict[str, Any]
    score: float | None
    metrics: dict[str, float | None]
    run: str
    state: str = "finished"


@dataclass(frozen=True)
class Ranking:
    """The result of a sweep, the best run first. ``metric`` is the one that :attr:`RankedRun.score` is of."""

    metric: str
    rows: list[RankedRun]
    problems: list[str] = field(default_factory=list)
    """Runs that failed, and why; workers that did not end well."""


def sweep(request: Request, jobs: int = 1) -> Ranking:
    """Run what is left of the study in a file below ``request.out``, and rank its runs.

    All configs are checked before the first run begins. ``jobs``: how many processes do so on this machine.
    """
    done, problems, metric = _run(request, jobs)
    ranking = rank(done, metric, problems)
    run_on_rank_zero(lambda: _write(Path(request.out), {"table.json": _rows_text(ranking)}))
    return ranking


def _rows_text(ranking: Ranking) -> str:
    return json_text([asdict(row) for row in ranking.rows], indent=2) + "\n"


def rank(figures: Sequence[Figures], metric: Metric, problems: Sequence[str] = ()) -> Ranking:
    """Runs in the order of their validation scores, those without one last."""
    rows = [
        RankedRun(
            {**run.columns, "seed": run.seed}, run.validation.get(metric.name), dict(run.final), run.run, run.state
        )
        for run in figures
    ]
    scored = [row for row in rows if row.score is not None]
    ordered = sorted(scored, key=lambda row: (row.score or 0.0) * (-1 if metric.maximise else 1))
    return Ranking(metric.name, [*ordered, *(row for row in rows if row.score is None)], list(problems))


@dataclass(frozen=True)
class Compared:
    """The result of a comparison, and what went wrong in its runs."""

    comparison: Comparison
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Shown:
    """How a comparison is drawn up: the row that the others are compared with, the interval, the metric."""

    baseline: str | None = None
    interval: Interval = "t"
    metric: str | None = None

    def table(self, gathered: Gathered, baseline: str | None = None) -> Comparison:
        """The comparison of runs; ``baseline`` is that of their file."""
        metric = gathered.metric
        if self.metric is not None and self.metric != metric.name:
            metric = Metric(self.metric, self.metric not in LOWER)
        return compare(gathered.figures, metric, baseline=self.baseline or baseline, interval=self.interval)


def compare_configs(request: Request, shown: Shown, jobs: int = 1) -> Compared:
    """Run what is left of a comparison below ``request.out``, and write its tables and its picture there."""
    file = request.file()
    if file.spec.searches:
        raise KDError("the values of this study are drawn by a sampler", hint="`sweep` runs it")
    planned = [Figures(point.columns, point.seed, "") for point in file.points()]
    check_baseline(planned, shown.baseline or file.spec.baseline, Metric("", True))
    done, problems, metric = _run(request, jobs)
    gathered = Gathered(done, metric)
    if problems and not any(run.state == "finished" for run in gathered.figures):
        raise failure(problems)
    comparison = shown.table(gathered, file.spec.baseline)
    run_on_rank_zero(lambda: _write(Path(request.out), files(comparison)))
    return Compared(comparison, problems)


def compare_runs(folders: Sequence[Path], shown: Shown, out: Path | None = None, trust: Sequence[str] = ()) -> Compared:
    """Compare runs that are there already, and write the tables and the picture into ``out``, where one is named."""
    comparison = shown.table(gather(folders, trust))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files(comparison).items():
            write_text(out / name, text)
    return Compared(comparison)


def files(comparison: Comparison) -> dict[str, str]:
    """What a comparison leaves in its folder: the name and the text of each file."""
    return {
        "table.md": markdown(comparison),
        "table.csv": csv_text(comparison),
        "table.json": json_table(comparison),
        "table.svg": picture(comparison),
    }


def _write(out: Path, texts: dict[str, str]) -> None:
    with writing(out):
        for name, text in texts.items():
            write_text(out / name, text)


def failure(problems: Sequence[str]) -> KDError:
    """What a command says in the end where runs failed."""
    lines = "\n".join(f"  {line}" for problem in problems for line in problem.splitlines())
    return KDError(f"not all went well:\n{lines}", hint="the same command tries these runs again")


def check(
    path: Path, *, overrides: Sequence[str] = (), trust: Sequence[str] = (), strict: bool = False, data: bool = False
) -> tuple[list[str], list[str]]:
    """Check all configs of a study: what could not be verified, and the data of the first run, read with ``data``.

    ConfigError with what is wrong in the first one that is.
    """
    study = Study(Request([str(path)], "", overrides=overrides, trust=trust), read(path))
    if study.file.spec.searches:
        check_calls(study.file, trust)
    return study.collect_checks(strict=strict, data=data)


def _run(request: Request, jobs: int) -> tuple[list[Figures], list[str], Metric]:
    """Check all runs of a study and work through them; their figures, what went wrong, and their metric."""
    study = Study(request)
    if request.storage is not None and not study.file.spec.searches:
        raise KDError("--storage is for studies with a sampler", hint="write `sampler: tpe`, say, into the file")
    if study.file.spec.searches:
        check_calls(study.file, request.trust)
    study.check()
    join(study.experiment(0).plan.runtime.device)
    if jobs > 1 and world_size() > 1:
        raise KDError("--jobs starts processes of its own, which torchrun has started already", hint="leave one out")
    queue, lost = queue_of(study), list[str]()
    run_on_rank_zero(queue.failures.forget)
    if jobs > 1:
        lost = run_workers(request, jobs)
    else:
        work(queue, request)
    problems = run_on_rank_zero(lambda: [*queue.failures.messages(), *lost])
    return run_on_rank_zero(queue.figures), problems, study.metric
