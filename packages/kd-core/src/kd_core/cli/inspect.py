"""The commands that look without training: check, show, taps."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kd_core.cli.options import config_argument, config_options, json_option
from kd_core.cli.output import CheckReport, echo, quiet_stdout
from kd_core.cli.shipped import ConfigPath
from kd_core.errors import KDError
from kd_core.files import json_text

if TYPE_CHECKING:
    pass


@click.command()
@click.argument("configs", type=ConfigPath(), nargs=-1, required=True, metavar="CONFIG...")
@click.option("--strict", is_flag=True, help="What cannot be verified without data is an error.")
@click.option("--data", is_flag=True, help="Read all data too, and name every file that cannot be read.")
@config_options
@json_option
def check(configs: tuple[Path, ...], strict: bool, data: bool, as_json: bool, **options: Any) -> None:
    """Find every mistake that shows without training.

    Of a sweep or a comparison those in all its runs. Says what the data are where they are on this machine; with
    --data reads all of them. Without --data it opens no connection, reads no weights, and calls nothing that --trust
    does not name.
    """
    reports = {str(config): _check(config, strict, data, **options) for config in configs}
    broken = [file for file, report in reports.items() if report.problems]
    if as_json:
        echo(json_text({"ok": not broken, "files": {file: report.as_json() for file, report in reports.items()}}))
    for file, report in reports.items():
        if report.problems:
            echo("\n".join(map(str, report.problems)), err=True)
        elif not as_json:
            echo(report.text(file))
    if broken:
        if len(configs) > 1:
            echo(f"{len(broken)} of {len(configs)} configs have problems: {', '.join(broken)}", err=True)
        raise SystemExit(2)


def _check(config: Path, strict: bool, data: bool, **options: Any) -> CheckReport:
    """Check a config, a sweep or a comparison."""
    with quiet_stdout():
        from kd_core.experiment import Experiment
        from kd_core.study import verbs
        from kd_core.study.spec import is_study_file

        try:
            if is_study_file(config):
                return CheckReport([], *verbs.check(config, strict=strict, data=data, **options))
            experiment = Experiment.load(config, **options)
            unverified = experiment.check(strict=strict)
            lines, unread = experiment.check_data(strict=strict, whole=data)
            return CheckReport([], [*unverified, *unread], lines, experiment.trains)
        except KDError as error:
            return CheckReport(error.problems)


@click.command()
@config_argument
@config_options
@json_option
def show(config: Path, as_json: bool, **options: Any) -> None:
    """Print CONFIG as it is run: bases merged, values replaced.

    What the data are, where they are on this machine, goes to standard error.
    """
    with quiet_stdout():
        from kd_core.experiment import Experiment

        experiment = Experiment.load(config, **options)
        text, data = experiment.resolved(), experiment.describe_data()
    if as_json:
        echo(json_text({"config": text, "data": data}))
        return
    echo("".join(f"# data: {line}\n" for line in data), err=True, nl=False)
    echo(text, nl=not text.endswith("\n"))


@click.command()
@config_argument
@click.argument("model", default="student")
@config_options
@json_option
def taps(config: Path, model: str, as_json: bool, **options: Any) -> None:
    """List a model's module paths with shapes, and its landmarks.

    MODEL is the student unless another one is named. Long lines are wrapped to the width of the terminal, or to 100
    columns. Beside each landmark stand those of the other models, with the adapter that brings one to the shape of the
    other.
    """
    with quiet_stdout():
        from kd_core import experiment
        from kd_core.check.landmarks import landmarks_text
        from kd_core.taps.table import table_text

        modules, landmarks = experiment.taps(config, model, **options)
    if as_json:
        parts = {"modules": list(map(asdict, modules)), "landmarks": list(map(asdict, landmarks))}
        echo(json_text(parts))
        return
    width = shutil.get_terminal_size((100, 24)).columns
    echo(table_text(modules, width))
    if landmarks:
        echo(f"\n{landmarks_text(landmarks, model, width)}")
