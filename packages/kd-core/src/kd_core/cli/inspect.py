"""The commands that look without training: check, show, taps, list."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kd_core.cli.options import config_argument, config_options, json_option
from kd_core.cli.output import CheckReport, echo, first_line, quiet_stdout
from kd_core.cli.shipped import ConfigPath, about, shipped
from kd_core.errors import KDError
from kd_core.files import json_text

if TYPE_CHECKING:
    from kd_core.registry import Registry

REGISTRIES = {
    "losses": "kd_core.losses:LOSSES",
    "adapters": "kd_core.adapters:ADAPTERS",
    "models": "kd_core.models:MODELS",
    "tasks": "kd_core.task:TASKS",
    "views": "kd_core.data.views:VIEWS",
    "observers": "kd_core.observers:OBSERVERS",
    "methods": "kd_core.config.syntax.methods:METHODS",
}
"""What ``list`` lists: ``module:registry``."""
CONFIGS = "configs"
"""The kind that is no registry: the package's own configs."""
WITH_INPUTS = ("losses", "adapters")
"""Kinds whose positional parameters a config names. Those of other kinds (a view's batch) come from the run."""


@click.command()
@click.argument("configs", type=ConfigPath(), nargs=-1, required=True, metavar="CONFIG...")
@click.option("--strict", is_flag=True, help="What cannot be verified without data is an error.")
@click.option("--data", is_flag=True, help="Read all data too, and name every file that cannot be read.")
@config_options
@json_option
def check(configs: tuple[Path, ...], strict: bool, data: bool, as_json: bool, **options: Any) -> None:
    """Find every mistake that shows without training; of a sweep or a comparison, in all its runs.

    Says what the data are where they are on this machine; with --data reads all of them. Without --data it opens no
    connection, reads no weights, and calls nothing that --trust does not name.
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
    """List the module paths of MODEL (the student, unless another one is named) with their shapes, and its landmarks.

    Long lines are wrapped to the width of the terminal, or to 100 columns. Beside each landmark stand those of the
    other models, with the adapter that brings one to the shape of the other.
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
    echo(table_text(modules, shutil.get_terminal_size((100, 24)).columns))
    if landmarks:
        echo(f"\n{landmarks_text(landmarks, model)}")


def _signature(item: Any, kind: str) -> str:
    """The values that a config may give it, each with its range and default; empty where there are none."""
    from kd_core.signatures import signature_text, value_text

    options = getattr(item, "options", None)  # of a data set, which is no function
    if options is not None:
        return f"({', '.join(map(value_text, options.values()))})" if options else ""
    text = signature_text(item, inputs=kind in WITH_INPUTS) if callable(item) else ""
    return "" if text == "()" else text


def _described(item: Any, kind: str) -> dict[str, str]:
    """What ``list`` tells of one item: its signature and the first line of its docstring."""
    return {"signature": _signature(item, kind), "summary": first_line(item)}


def _list_configs(package: str, as_json: bool) -> None:
    """The configs that a package brings along, each with what it says of itself."""
    told = {name: {"file": str(file), "summary": about(file)} for name, file in shipped(package).items()}
    lines = [f"{name}\n    {entry['summary']}" if entry["summary"] else name for name, entry in told.items()]
    echo(json_text({CONFIGS: told}) if as_json else "\n".join(lines))


def list_command(registries: Mapping[str, str], tasks: Sequence[str]) -> click.Command:
    """The command list for ``registries``, as ``{"losses": "module:registry"}``, after the plug-ins of ``tasks``."""

    @click.command("list", help=f"List the {', '.join(registries)} that configs can name, or the configs themselves.")
    @click.argument("kind", type=click.Choice([*registries, CONFIGS]))
    @json_option
    @click.pass_context
    def list_names(ctx: click.Context, kind: str, as_json: bool) -> None:
        if kind == CONFIGS:
            _list_configs(getattr(ctx.find_root().command, "package", ""), as_json)
            return
        with quiet_stdout():
            from kd_core.task import TASKS

            for task in tasks:
                TASKS.get(task)  # whose package registers what is its own
            module, _, attribute = registries[kind].partition(":")
            registry: Registry[Any] = getattr(importlib.import_module(module), attribute)
            told = {name: _described(registry.get(name), kind) for name in registry.names()}
        lines = [f"{name}{entry['signature']}\n    {entry['summary']}" for name, entry in told.items()]
        echo(json_text({kind: told}) if as_json else "\n".join(lines))

    return list_names
