"""The commands that train: train, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kd_core.cli.options import config_argument, config_options, json_option, run_argument, trust_option
from kd_core.cli.output import command_line, print_result, quiet_stdout, shutdown_distributed


@click.command()
@config_argument
@click.option("--out", type=click.Path(path_type=Path), help="The run folder, new or empty. [runs/NAME/TIME-SEED]")
@click.option("--seed", type=click.IntRange(min=0), help="Replaces the config's seed.")
@click.option("--resume", "resumes", is_flag=True, help="Where a run of CONFIG has begun in --out, go on with it.")
@config_options
@json_option
def train(config: Path, out: Path | None, seed: int | None, resumes: bool, as_json: bool, **options: Any) -> Any:
    """Train the student of CONFIG.

    The run folder is the last line printed; the student lies in its student/.
    """
    with quiet_stdout():
        from kd_core.experiment import Experiment

        experiment = Experiment.load(config, seed=seed, **options)
        result = experiment.train(out, command=command_line(), resumes=resumes)
    print_result(result, as_json)
    shutdown_distributed()
    return result


@click.command()
@run_argument
@click.option(
    "--accept-changes",
    is_flag=True,
    help="Go on though the data, a teacher or the config is not what it was, and note what changed.",
)
@trust_option
@json_option
def resume(run: Path, accept_changes: bool, trust: tuple[str, ...], as_json: bool) -> None:
    """Go on with a run that was stopped, as if it had not been."""
    with quiet_stdout():
        from kd_core import experiment

        result = experiment.resume(run, trust=trust, command=command_line(), accept_changes=accept_changes)
    print_result(result, as_json)
    shutdown_distributed()
