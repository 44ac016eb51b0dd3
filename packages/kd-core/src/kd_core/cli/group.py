"""The verbs every ``kd-*`` command has, from one factory.

Only click is imported here. What a verb needs, torch first of all, is imported when it runs, so that ``--help``
answers at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import click

from kd_core.cli.cache import cache
from kd_core.cli.deploy import export, profile, push
from kd_core.cli.evaluate import evaluate_command
from kd_core.cli.inspect import check, show, taps
from kd_core.cli.interrupt import INTERRUPTED, InterruptibleImports
from kd_core.cli.listing import REGISTRIES, Models, list_command
from kd_core.cli.migrate import migrate
from kd_core.cli.output import echo
from kd_core.cli.plan import plan
from kd_core.cli.process import (
    end_at_once_if_joined,
    lack_of_memory,
    open_streams,
    tell_launcher,
    wait_for_first_process,
)
from kd_core.cli.prune import prune
from kd_core.cli.report import report
from kd_core.cli.schema import schema
from kd_core.cli.study import compare, sweep
from kd_core.cli.submit import submit
from kd_core.cli.train import resume, train
from kd_core.errors import KDError, RunInterrupted, did_you_mean
from kd_core.escapes import for_terminal
from kd_core.runs.stop import Stopped


def make_cli(
    name: str,
    *,
    package: str,
    tasks: Sequence[str],
    help: str,
    registries: Mapping[str, str],
    published: Sequence[str] = ("zoo",),
    models: Models | None = None,
) -> click.Group:
    """The command ``name`` of the distribution ``package``, which runs configs of ``tasks``.

    ``registries`` are further things ``list`` can list, as ``{"data": "my_package.sources:SOURCES"}``; ``published``
    are
    the sources of published models that ``eval`` has an option for: ``zoo``, ``timm``, ``hub``; ``models`` says which
    models its tasks can use, all without it. A package adds its own verbs to
    the group it gets: ``@main.command()``, with :func:`config_options` and :func:`print_result`.
    """
    group = Commands(name, help=help, context_settings={"help_option_names": ["-h", "--help"], "obj": tasks})
    group.package = package.replace("-", "_")
    click.version_option(package_name=package, prog_name=name)(group)
    others = (report, export, profile, push, prune, cache, migrate, schema)
    for verb in (train, evaluate_command(published), resume, submit, sweep, compare, check, plan, show, taps, *others):
        group.add_command(verb)
    group.add_command(list_command({**REGISTRIES, **registries}, tasks, models))
    return group


class Commands(click.Group):
    """A group of commands that turns a user's mistake, a full disk or a signal into one message and an exit code.

    ``package`` brings the configs that its commands take by name.
    """

    package = ""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order they were added, as a user meets them."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command; an unknown one is answered with the nearest name."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            ctx.fail(f"no command {args[0]!r} ({did_you_mean(args[0], list(self.commands))})")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line on open streams; an interrupt during imports ends it with the signal's exit code."""
        open_streams()
        with InterruptibleImports():
            return super().main(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Exit code 2 for a user's mistake or a failing disk, 130 or that of the signal if stopped."""
        try:
            return super().invoke(ctx)
        except KDError as error:
            if not isinstance(error, RunInterrupted):  # which may be of one process only
                wait_for_first_process()
            _say(str(error))
            _end(ctx, 2)
        except Stopped as stop:
            _say(str(stop))
            _end(ctx, stop.exit_code)
        except KeyboardInterrupt:
            _say("interrupted")
            _end(ctx, INTERRUPTED)
        except BrokenPipeError:
            raise  # click ends quietly: whoever read the output has seen enough
        except OSError as error:
            prefix = f"{error.filename}: " if error.filename else ""
            _say(f"error: {prefix}{error.strerror or error}")
            _end(ctx, 2)
        except (MemoryError, RuntimeError, ImportError, SystemError) as error:
            reason = lack_of_memory(error)
            if reason is None:
                raise
            hint = "a smaller batch_size (accumulation_steps: N then keeps the batch), fewer data.workers, more memory"
            _say(f"memory ran out: {reason}\n    hint: {hint}")
            _end(ctx, 2)


def _end(ctx: click.Context, code: int) -> None:
    end_at_once_if_joined(code)
    ctx.exit(code)


def _say(text: str) -> None:
    """Print to standard error, where somebody may have stopped listening, and leave it to a launcher."""
    tell_launcher(for_terminal(text))
    with suppress(OSError, ValueError):
        echo(text, err=True)
