"""``python -m kd_core``: versions and hardware, for a report of a problem; with ``migrate`` that command."""

from __future__ import annotations

import sys

import click

from kd_core.cli.group import Commands
from kd_core.cli.migrate import migrate
from kd_core.files import json_text


@click.group(cls=Commands, name="python -m kd_core", invoke_without_command=True)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Print versions and hardware, for a report of a problem."""
    if ctx.invoked_subcommand is None:
        from kd_core.runs.environment import environment

        sys.stdout.write(json_text(environment(), indent=2) + "\n")


main.add_command(migrate)

if __name__ == "__main__":
    main(prog_name="python -m kd_core")
