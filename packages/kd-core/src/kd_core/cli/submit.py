"""The command that hands a run to SLURM: submit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from kd_core.cli.options import config_argument, config_options
from kd_core.cli.output import echo, quiet_stdout
from kd_core.errors import KDError

KEY = re.compile("[a-z][a-z-]*")
"""A key of sbatch."""


def _minutes(ctx: click.Context, param: click.Parameter, text: str) -> int:
    """A time in minutes; a usage error where it is none."""
    from kd_core.submission import minutes

    try:
        return minutes(text)
    except ValueError:
        message = f"{text!r} is not a time: write minutes, H:MM:SS or D-HH:MM:SS"
        raise click.BadParameter(message, ctx, param) from None


def _sbatch(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, str | bool]:
    """Further keys of sbatch by name; true for one without a value."""
    pairs = [text.lstrip("-").partition("=") for text in texts]
    wrong = next((text for text, (key, _, _) in zip(texts, pairs, strict=True) if not KEY.fullmatch(key)), None)
    if wrong is not None:
        raise click.BadParameter(f"{wrong!r} is not a key of sbatch: write KEY=VALUE", ctx, param)
    return {key: value if equals else True for key, equals, value in pairs}


@click.command()
@config_argument
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The run folder, on a disk of all nodes.")
@click.option("--seed", type=click.IntRange(min=0), help="Replaces the config's seed.")
@config_options
@click.option("--time", "minutes", metavar="TIME", default="60", callback=_minutes, help="Minutes, or D-HH:MM:SS. [60]")
@click.option("--partition", metavar="NAME", help="Where the job waits.")
@click.option("--nodes", type=click.IntRange(min=1), default=1, help="Machines. [1]")
@click.option("--gpus", "gpus_per_node", type=click.IntRange(min=0), default=0, help="GPUs of each machine. [0]")
@click.option("--processes", type=click.IntRange(min=1), help="Processes on each machine. [one for each GPU]")
@click.option("--cpus", "cpus_per_task", type=click.IntRange(min=1), help="Cores of each process.")
@click.option("--mem", metavar="SIZE", help="Memory of each machine, such as 64G.")
@click.option("--sbatch", "more", metavar="KEY=VALUE", multiple=True, callback=_sbatch, help="Of sbatch; repeatable.")
@click.option("--setup", metavar="COMMAND", multiple=True, help="Run first, such as module load cuda; repeatable.")
@click.option("--dry-run", is_flag=True, help="Print the script for sbatch, and submit nothing.")
@click.option("--here", is_flag=True, help="Run the job on this machine, without SLURM, and wait for it.")
@click.pass_context
def submit(
    ctx: click.Context,
    /,
    config: Path,
    out: Path,
    seed: int | None,
    overrides: tuple[str, ...],
    trust: tuple[str, ...],
    processes: int | None,
    dry_run: bool,
    here: bool,
    **resources: Any,
) -> None:
    """Train CONFIG as a job of SLURM.

    A job that is preempted, or whose time is nearly up, saves, waits in the queue again and goes on.
    """
    if here and resources["nodes"] > 1:
        raise click.UsageError("--here runs a job on this machine alone: leave --nodes out")
    out = out.absolute()
    with quiet_stdout():
        from kd_core.experiment import Experiment
        from kd_core.submission import Job, Resources, script, submit

        experiment = Experiment.load(config, overrides=overrides, trust=trust, seed=seed)
        experiment.check()
        experiment.check_folder(out)
        options = [("--seed", str(seed))] if seed is not None else []
        options += [("--set", override) for override in overrides] + [("--trust", prefix) for prefix in trust]
        arguments = ("train", str(config.absolute()), "--out", str(out), "--resume", *sum(options, ()))
        job = Job(getattr(ctx.find_root().command, "package", ""), arguments)
        asked = Resources(processes_per_node=processes or max(resources["gpus_per_node"], 1), **resources)
        folder = out.with_name(f"{out.name}.jobs")
        text = script(job, asked, folder) if dry_run else ""
        submitted = None if dry_run else submit(job, asked, folder, here=here)
    if submitted is None:
        echo(text)
        return
    echo(f"job {submitted.job_id}: its output comes into {folder}", err=True)
    if here:
        with quiet_stdout():
            failure = submitted.exception()
        if failure is not None:
            raise KDError(f"the job ended with an error; its output is in {folder}")
    echo(str(out))
