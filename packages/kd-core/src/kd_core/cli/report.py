"""The command report."""

from __future__ import annotations

from pathlib import Path

import click

from kd_core.cli.options import trust_option
from kd_core.cli.output import echo, quiet_stdout


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The HTML file to write.")
@click.option("--worst", type=click.IntRange(min=0), metavar="N", help="How many of the worst samples to show.  [12]")
@trust_option
def report(runs: tuple[Path, ...], out: Path, worst: int | None, trust: tuple[str, ...]) -> None:
    """Write one HTML file on a run, or on several side by side: RUN may be the folder of a sweep or comparison.

    Curves, figures of each class, the samples that the student is worst at, data, lineage and config. Runs of one
    config with several seeds are drawn as their mean with a band.
    """
    with quiet_stdout():
        from kd_core.report.report import WORST, report

        file = report(runs, out, worst=WORST if worst is None else worst, trust=trust)
    echo(str(file))
