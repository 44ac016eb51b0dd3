"""The commands of many runs: sweep, compare."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from kd_core.cli.options import config_options, json_option
from kd_core.cli.output import (
    command_line,
    echo,
    first_process,
    format_score,
    quiet_stdout,
    shutdown_distributed,
    table,
)
from kd_core.cli.shipped import ConfigPath
from kd_core.errors import KDError
from kd_core.files import json_text

jobs_option = click.option(
    "--jobs", type=click.IntRange(min=1), default=1, help="Processes that train on this machine, a GPU each. [1]"
)


def _listed(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[str, ...]:
    """The items of a list with commas."""
    return tuple(item.strip() for item in (text or "").split(",") if item.strip())


def _seeds(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[int, ...]:
    """The seeds of a list with commas; a usage error where one is none."""
    items = _listed(ctx, param, text)
    if not all(item.isdecimal() for item in items):
        raise click.BadParameter(f"{text!r} is not a list of seeds, whole numbers from 0", ctx, param)
    return tuple(map(int, items))


@click.command()
@click.argument("file", metavar="SWEEP", type=ConfigPath())
@click.option("--out", type=click.Path(path_type=Path), help="The folder of the runs. [runs/NAME OF THE FILE]")
@jobs_option
@click.option(
    "--storage",
    metavar="URL",
    help="Where a sampler's trials are kept: a file, or a database such as sqlite:///trials.db.",
)
@config_options
@json_option
def sweep(file: Path, out: Path | None, jobs: int, as_json: bool, **options: Any) -> None:
    """Run a config with every combination of the values in SWEEP.

    Or those that a sampler draws. The best run is the first in the table.

    The same command goes on where it was stopped; started again meanwhile, it takes the runs that nobody trains.
    """
    with quiet_stdout():
        from kd_core.config import load
        from kd_core.config.kinds import refuse_config
        from kd_core.study.study import Request
        from kd_core.study.verbs import failure, sweep

        refuse_config(load(file))
        folder = str(out or Path("runs") / file.stem)
        ranking = sweep(Request([str(file)], folder, command=command_line(), **options), jobs)
    if first_process():
        _print_ranking(ranking, as_json)
    shutdown_distributed()
    if ranking.problems:
        raise failure(ranking.problems)


def _print_ranking(ranking: Any, as_json: bool) -> None:
    if as_json:
        echo(json_text({"metric": ranking.metric, "rows": [asdict(row) for row in ranking.rows]}))
        return
    keys = list(dict.fromkeys(key for row in ranking.rows for key in row.values))
    rows = [[_score(row), *(_value(row.values.get(key, "-")) for key in keys), row.run] for row in ranking.rows]
    echo(table((ranking.metric, *keys, "run"), rows))


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _score(row: Any) -> str:
    return format_score(row.score) if row.state == "finished" else row.state


@click.command()
@click.argument("targets", nargs=-1, required=True, type=ConfigPath(), metavar="CONFIG|RUNS...")
@click.option("--methods", callback=_listed, metavar="A,B", help="Methods for the last stage.")
@click.option("--seeds", callback=_seeds, metavar="0,1,2", help="Random seeds.")
@click.option("--out", type=click.Path(path_type=Path), help="The folder of the runs and the tables. [runs/NAME]")
@click.option("--baseline", metavar="ROW", help="The row that the others are compared with. [the first one]")
@click.option("--interval", type=click.Choice(["t", "bootstrap"]), default="t", help="Of the differences. [t]")
@click.option("--metric", metavar="NAME", help="Compare by this metric. [the one that chooses the best epoch]")
@jobs_option
@config_options
@json_option
def compare(targets: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Compare configs, or methods in one, over seeds.

    Prints means, spreads, and differences by seed with intervals.

    CONFIG is a config, several, or the file of a comparison; the same command goes on where it was stopped, and
    started again meanwhile it takes the runs that nobody trains. RUNS are folders of runs, sweeps or comparisons that
    are there already.
    """
    with quiet_stdout():
        done = _compare_runs(targets, **options) if _folders(targets) else _compare_configs(targets, **options)
    from kd_core.study.verbs import failure

    if first_process():
        _print_comparison(done.comparison, as_json)
    shutdown_distributed()
    if done.problems:
        raise failure(done.problems)


def _print_comparison(comparison: Any, as_json: bool) -> None:
    from kd_core.study.table import as_json as told
    from kd_core.study.table import cells

    if as_json:
        echo(json_text(told(comparison)))
        return
    header, *lines = cells(comparison)
    echo(table(header, lines))
    for note in comparison.notes:
        echo(note, err=True)


def _folders(targets: tuple[Path, ...]) -> bool:
    """Whether the targets are folders of runs; KDError where some are and some are not."""
    folders = [target for target in targets if target.is_dir()]
    if folders and len(folders) < len(targets):
        raise KDError(f"{folders[0]} is a folder of runs, and others are configs", hint="name those of one kind")
    return bool(folders)


def _compare_runs(
    targets: tuple[Path, ...], *, trust: tuple[str, ...], out: Path | None, jobs: int, **options: Any
) -> Any:
    from kd_core.study.verbs import Shown, compare_runs

    for name, option in {"methods": "--methods", "seeds": "--seeds", "overrides": "--set"}.items():
        if options.pop(name):
            raise KDError(f"{option} is for configs, and these runs are there already")
    return compare_runs(targets, Shown(**options), out, trust)


def _compare_configs(
    targets: tuple[Path, ...], *, out: Path | None, jobs: int, baseline: str, interval: Any, metric: str, **options: Any
) -> Any:
    from kd_core.study.study import Request
    from kd_core.study.verbs import Shown, compare_configs

    if out is None and len(targets) > 1:
        raise KDError("several configs need a folder for their runs", hint="name one with --out")
    folder = str(out or Path("runs") / targets[0].stem)
    request = Request(list(map(str, targets)), folder, command=command_line(), **options)
    return compare_configs(request, Shown(baseline, interval, metric), jobs)
