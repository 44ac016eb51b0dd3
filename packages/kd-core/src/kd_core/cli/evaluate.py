"""The command eval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from kd_core.cli.options import config_options, json_option
from kd_core.cli.output import print_result, quiet_stdout

MEANT = {
    "zoo": "A published model, on the data of CONFIG or others.",
    "timm": "A model of timm, by its name or its folder, on the data of CONFIG or of --data and --root.",
    "hub": "A model of the Hugging Face hub, by its name or its folder, on the data of CONFIG or others.",
}
"""What the options for published models take."""


def evaluate_command(published: Sequence[str]) -> click.Command:
    """The command eval, with an option for each source of ``published`` models: ``zoo``, ``timm`` or ``hub``."""

    @click.command("eval")
    @click.argument("target", metavar="[CONFIG | RUN]", required=False)
    @click.option("--data", metavar="NAME", help="Another data set.")
    @click.option("--root", type=click.Path(path_type=Path), help="The folder the data lies in.")
    @config_options
    @click.option("--per-class", is_flag=True, help="Print the figures of each class, and with --json the confusions.")
    @json_option
    @click.pass_obj
    def evaluate(tasks: Sequence[str], /, target: str | None, per_class: bool, as_json: bool, **options: Any) -> None:
        """Score a student, or a published model, on the test split.

        The student is that of a run, or of CONFIG, which may say where its weights are. Data whose test split has no
        labels are scored on the validation split.
        """
        model = published_model(target, options, published)
        with quiet_stdout():
            from kd_core import evaluation

            result = evaluation.evaluate(target, model=model, task=tasks[0], **options)
        print_result(result, as_json, per_class=per_class)

    named = [click.Option([f"--{source}"], metavar="NAME", help=MEANT[source]) for source in published]
    evaluate.params[1:1] = named
    return evaluate


def published_model(target: str | None, options: dict[str, Any], published: Sequence[str]) -> dict[str, str] | None:
    """The model that an option of a source names, as a config would write it; ``options`` lose those of sources.

    UsageError where two are named, or nothing is.
    """
    named = {source: name for source in published if (name := options.pop(source)) is not None}
    if len(named) > 1:
        raise click.UsageError(f"{' and '.join(f'--{source}' for source in named)} name two models: give one")
    if target is None and not named:
        flags = " or ".join(f"--{source}" for source in published)
        raise click.UsageError(f"name a config or a run folder, or a published model with {flags}")
    return named or None
