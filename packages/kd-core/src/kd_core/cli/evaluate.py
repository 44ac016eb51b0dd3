"""The command eval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from kd_core.cli.options import config_options, json_option
from kd_core.cli.output import print_result, quiet_stdout


def evaluate_command(published: str) -> click.Command:
    """The command eval, with an option ``--{published}`` for published models (``zoo`` or ``hub``)."""

    @click.command("eval")
    @click.argument("target", metavar="[CONFIG | RUN]", required=False)
    @click.option(f"--{published}", "name", metavar="NAME", help="A published model, on the data of CONFIG or others.")
    @click.option("--data", metavar="NAME", help="Another data set.")
    @click.option("--root", type=click.Path(path_type=Path), help="The folder the data lies in.")
    @config_options
    @click.option("--per-class", is_flag=True, help="Print the figures of each class, and with --json the confusions.")
    @json_option
    @click.pass_obj
    def evaluate(
        tasks: Sequence[str], /, target: str | None, name: str | None, per_class: bool, as_json: bool, **options: Any
    ) -> None:
        """Score a student, or a published model, on the test split.

        The student is that of a run, or of CONFIG, which may say where its weights are. Data whose test split has no
        labels are scored on the validation split.
        """
        if target is None and name is None:
            raise click.UsageError(f"name a config or a run folder, or a published model with --{published}")
        with quiet_stdout():
            from kd_core import evaluation

            model = None if name is None else {published: name}
            result = evaluation.evaluate(target, model=model, task=tasks[0], **options)
        print_result(result, as_json, per_class=per_class)

    return evaluate
