"""The verbs every ``kd-*`` command has, from one factory.

Only click is imported here. What a verb needs, torch first of all, is imported when it runs, so that ``--help``
answers at once.
"""

from __future__ import annotations

import importlib
import inspect
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from kd_core.errors import KDError, Mark, Problem, did_you_mean, problems_of
from kd_core.files import json_text
from kd_core.runs.stop import Stopped

if TYPE_CHECKING:
    from kd_core.registry import Registry

F = TypeVar("F", bound=Callable[..., Any])

REGISTRIES = {
    "losses": "kd_core.losses:LOSSES",
    "adapters": "kd_core.adapters:ADAPTERS",
    "models": "kd_core.models:MODELS",
    "tasks": "kd_core.task:TASKS",
    "views": "kd_core.data.views:VIEWS",
}
"""What ``list`` lists: ``module:registry``."""


def make_cli(
    name: str, *, package: str, tasks: Sequence[str], help: str, registries: Mapping[str, str], published: str = "zoo"
) -> click.Group:
    """The command ``name`` of the distribution ``package``, which runs configs of ``tasks``.

    ``registries`` are further things ``list`` can list, as ``{"data": "my_package.sources:SOURCES"}``; ``published`` is
    the source of published models that ``eval`` has an option for, ``zoo`` or ``hub``. A package adds its own verbs to
    the group it gets: ``@main.command()``, with :func:`config_options` and :func:`answer`.
    """
    group = Commands(name, help=help, context_settings={"help_option_names": ["-h", "--help"], "obj": tasks})
    click.version_option(package_name=package, prog_name=name)(group)
    for verb in (train, _evaluate_command(published), resume, sweep, check, show, taps):
        group.add_command(verb)
    group.add_command(_list_command({**REGISTRIES, **registries}, tasks))
    return group


class Commands(click.Group):
    """A group of commands that turns a user's mistake, a full disk or a signal into one message and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order they were added, as a user meets them."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r} ({did_you_mean(args[0], list(self.commands))})")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KDError as error:
            click.echo(str(error), err=True)
            ctx.exit(2)
        except Stopped as stop:
            click.echo(str(stop), err=True)
            ctx.exit(stop.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            raise  # click ends quietly: whoever read the output has seen enough
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            click.echo(f"error: {place}{error.strerror or error}", err=True)
            ctx.exit(2)


set_option = click.option(
    "--set", "overrides", metavar="a.b=VALUE", multiple=True, help="Replace a value of the config; repeatable."
)
trust_option = click.option(
    "--trust", metavar="PREFIX", multiple=True, help="Let the config use what lies below this dotted name; repeatable."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object; all else goes to standard error."
)
config_argument = click.argument("config", type=click.Path(path_type=Path))
run_argument = click.argument("run", type=click.Path(path_type=Path))


def config_options(command: F) -> F:
    """``--set`` and ``--trust``, as the parameters ``overrides`` and ``trust``."""
    return set_option(trust_option(command))


def quiet_stdout() -> redirect_stdout[TextIO]:
    """Standard output is for what was asked for: what libraries print meanwhile goes to standard error."""
    return redirect_stdout(sys.stderr)


def answer(result: Any, as_json: bool) -> None:
    """Print a result, a dataclass: its ``metrics`` and, where it has one, the folder ``run`` as the last line."""
    if os.environ.get("RANK", "0") != "0":
        return  # of the processes a launcher started, the first one answers
    facts = {each.name: getattr(result, each.name) for each in fields(result)}
    if as_json:
        click.echo(json_text({key: value for key, value in facts.items() if key == "metrics" or value}))
        return
    published = facts.get("published", {})
    for metric, value in result.metrics.items():
        shown = _shown(value)  # None for NaN, which result.json, being JSON, does not have
        beside = {"published": metric, "original paper": f"{metric}_original"}  # keys of a WeightCard
        figures = [f"{words}: {published[key]}" for words, key in beside.items() if key in published]
        click.echo(f"{metric:<12} {shown}" + (f"  ({', '.join(figures)})" if figures else ""))
    if facts.get("samples"):
        click.echo(f"{'samples':<12} {result.samples} ({result.split})")
    if facts.get("run"):
        click.echo(str(result.run))


@click.command()
@config_argument
@click.option("--out", type=click.Path(path_type=Path), help="The run folder, new or empty. [runs/NAME/TIME-SEED]")
@click.option("--seed", type=click.IntRange(min=0), help="Replaces the config's seed.")
@config_options
@json_option
def train(config: Path, out: Path | None, seed: int | None, as_json: bool, **options: Any) -> Any:
    """Train the student of CONFIG.

    The run folder is the last line printed; the student lies in its student/.
    """
    with quiet_stdout():
        from kd_core.experiment import Experiment

        result = Experiment.load(config, seed=seed, **options).train(out, command=command_line())
    answer(result, as_json)
    _leave()
    return result


def _leave() -> None:
    """Part from the other processes that a launcher started, if any."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from kd_core.device.runtime import leave

        leave()


def command_line() -> str:
    """What was typed, for the manifest."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _evaluate_command(published: str) -> click.Command:
    @click.command("eval")
    @click.argument("target", metavar="[CONFIG | RUN]", required=False)
    @click.option(f"--{published}", "name", metavar="NAME", help="A published model, on the data of CONFIG or others.")
    @click.option("--data", "--task", metavar="NAME", help="Another data set.")
    @click.option("--root", type=click.Path(path_type=Path), help="The folder the data lies in.")
    @config_options
    @json_option
    @click.pass_obj
    def evaluate(tasks: Sequence[str], /, target: str | None, name: str | None, as_json: bool, **options: Any) -> None:
        """Score on the test split: a run's student, the student of CONFIG, or a published model.

        Data whose test split has no labels are scored on the validation split.
        """
        if target is None and name is None:
            raise click.UsageError(f"name a config or a run folder, or a published model with --{published}")
        with quiet_stdout():
            from kd_core import experiment

            model = None if name is None else {published: name}
            result = experiment.evaluate(target, model=model, task=tasks[0], **options)
        answer(result, as_json)

    return evaluate


@click.command()
@run_argument
@trust_option
@json_option
def resume(run: Path, trust: tuple[str, ...], as_json: bool) -> None:
    """Go on with a run that was stopped, as if it had not been."""
    with quiet_stdout():
        from kd_core import experiment

        result = experiment.resume(run, trust=trust, command=command_line())
    answer(result, as_json)
    _leave()


@click.command()
@click.argument("file", metavar="SWEEP", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The folder of the runs. [runs/NAME OF THE FILE]")
@config_options
@json_option
def sweep(file: Path, out: Path | None, as_json: bool, **options: Any) -> None:
    """Run a config with every combination of the values that SWEEP lists, best first in a table.

    The same command goes on where it was stopped.
    """
    with quiet_stdout():
        from kd_core.sweep import sweep

        found = sweep(file, out or Path("runs") / file.stem, command=command_line(), **options)
    if as_json:
        click.echo(json_text({"metric": found.metric, "rows": [asdict(row) for row in found.rows]}))
    else:
        keys = list(found.rows[0].values)
        rows = [[_shown(row.score), *(str(row.values[key]) for key in keys), row.run] for row in found.rows]
        click.echo(table((found.metric, *keys, "run"), rows))


def _shown(value: float | None) -> str:
    return "nan" if value is None else f"{value:.6g}"


@click.command()
@click.argument("configs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="CONFIG...")
@click.option("--strict", is_flag=True, help="What cannot be verified without data is an error.")
@config_options
@json_option
def check(configs: tuple[Path, ...], strict: bool, as_json: bool, **options: Any) -> None:
    """Find every mistake that shows without data.

    Opens no connection, reads no weights, and calls nothing that --trust does not name.
    """
    found = {str(config): _check(config, strict, **options) for config in configs}
    broken = [file for file, (problems, _) in found.items() if problems]
    if as_json:
        click.echo(json_text({"ok": not broken, "files": {file: _report(*each) for file, each in found.items()}}))
    for file, (problems, unverified) in found.items():
        if problems:
            click.echo("\n".join(map(str, problems)), err=True)
        elif not as_json:
            click.echo("\n".join([f"{file}: ok", *unverified]))
    if broken:
        if len(configs) > 1:
            click.echo(f"{len(broken)} of {len(configs)} configs have problems: {', '.join(broken)}", err=True)
        raise SystemExit(2)


def _check(config: Path, strict: bool, **options: Any) -> tuple[list[Problem], list[str]]:
    """The problems of a config, and what could not be verified."""
    with quiet_stdout():
        from kd_core.experiment import Experiment

        try:
            return [], Experiment.load(config, **options).check(strict=strict)
        except KDError as error:
            return problems_of(error), []


def _report(problems: list[Problem], unverified: list[str]) -> dict[str, Any]:
    return {"problems": [_plain(each) for each in problems], "unverified": unverified}


def _plain(problem: Problem) -> dict[str, Any]:
    mark = problem.mark or Mark("")
    place = {"file": mark.file, "line": mark.line, "column": mark.column}
    return {**place, "path": problem.path, "message": problem.message, "hint": problem.hint}


@click.command()
@config_argument
@config_options
@json_option
def show(config: Path, as_json: bool, **options: Any) -> None:
    """Print CONFIG as it is run: bases merged, values replaced."""
    with quiet_stdout():
        from kd_core.experiment import Experiment

        text = Experiment.load(config, **options).resolved()
    click.echo(json_text({"config": text}) if as_json else text, nl=as_json or not text.endswith("\n"))


@click.command()
@config_argument
@click.argument("model", default="student")
@config_options
@json_option
def taps(config: Path, model: str, as_json: bool, **options: Any) -> None:
    """List the module paths of MODEL (the student, unless another one is named) with their shapes."""
    with quiet_stdout():
        from kd_core import experiment
        from kd_core.taps.table import table_text

        rows = experiment.taps(config, model, **options)
    click.echo(json_text({"modules": [asdict(row) for row in rows]}) if as_json else table_text(rows))


def _list_command(registries: Mapping[str, str], tasks: Sequence[str]) -> click.Command:
    @click.command("list", help=f"List the {', '.join(registries)} that configs can name.")
    @click.argument("kind", type=click.Choice(list(registries)))
    @json_option
    def list_names(kind: str, as_json: bool) -> None:
        with quiet_stdout():
            from kd_core.task import TASKS

            for task in tasks:
                TASKS.get(task)  # whose package registers what is its own
            module, _, attribute = registries[kind].partition(":")
            registry: Registry[Any] = getattr(importlib.import_module(module), attribute)
            rows = [[name, _first_line(registry.get(name))] for name in registry.names()]
        click.echo(json_text({kind: dict(rows)}) if as_json else table((), rows))

    return list_names


def _first_line(item: object) -> str:
    return (inspect.getdoc(item) or "").partition("\n")[0]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two spaces apart."""
    lines = [header, *rows] if header else list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
