"""The commands that take a student elsewhere: export, profile, push."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from kd_core.cli.options import config_options, json_option, run_argument
from kd_core.cli.output import bytes_text, echo, quiet_stdout, table
from kd_core.files import json_text

FORMATS = ("onnx", "torch-export", "executorch")
MODES = ("eager", "compiled", "torch-export", "onnx")
sample_option = click.option(
    "--sample", "samples", metavar="SAMPLE", multiple=True, help="An image file, or a text, in place of the data's."
)
root_option = click.option("--root", type=click.Path(path_type=Path), help="The folder the data lies in.")


@click.command()
@run_argument
@click.option("--format", type=click.Choice(FORMATS), required=True, help="The format of the file.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="The file to write.")
@click.option(
    "--tolerance", type=click.FloatRange(min=0), metavar="SHARE", help="Difference of outputs allowed.  [0.0001]"
)
@click.option(
    "--count", type=click.IntRange(min=1), default=64, show_default=True, help="Validation samples to compare on."
)
@click.option("--max-batch", "most", type=click.IntRange(min=1), metavar="N", help="Largest batch, executorch.  [64]")
@sample_option
@root_option
@config_options
@json_option
def export(run: Path, as_json: bool, **options: Any) -> None:
    """Write RUN's student for ONNX, torch.export or ExecuTorch.

    The file is run by its own runtime and compared with the student on validation samples.
    """
    with quiet_stdout():
        from kd_core.deploy.export import export

        done = export(run, **{key: value for key, value in options.items() if value is not None})
    if as_json:
        echo(json_text({**asdict(done), "relative": done.parity.relative}))
        return
    inputs = "; ".join(f"{name} ({', '.join(map(str, sizes))})" for name, sizes in done.inputs.items())
    lines = [("format", done.format), ("size", f"{done.bytes / 1e6:.3g} MB"), ("inputs", inputs)]
    parity = done.parity
    lines += [("compared", f"{parity.samples} samples of {done.source}")]
    lines += [("difference", f"{parity.difference:.2g} at most, of outputs up to {parity.largest:.4g}")]
    if parity.equal is not None:
        lines.append(("predictions", f"{100 * parity.equal:.6g} % the same"))
    echo("\n".join(f"{name:<12} {value}" for name, value in lines) + f"\n{done.file}")


@click.command()
@run_argument
@click.option("--against", multiple=True, type=click.Path(path_type=Path), metavar="RUN", help="Another run's student.")
@click.option("--batch", "batches", multiple=True, type=click.IntRange(min=1), metavar="N", help="[1 and 32]")
@click.option("--mode", "modes", multiple=True, type=click.Choice(MODES), help="[all that are installed]")
@click.option("--seconds", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Of each measurement.")
@click.option("--device", default="cpu", show_default=True, help="Where to measure.")
@sample_option
@root_option
@config_options
@json_option
def profile(run: Path, as_json: bool, **options: Any) -> None:
    """Measure the student of RUN: parameters, MACs and latency.

    With --against, other students (its teacher's run) beside it. The table joins the model card of RUN.
    """
    with quiet_stdout():
        from kd_core.deploy.profile import HEADER, profile

        done = profile(run, **{key: value for key, value in options.items() if value not in (None, ())})
    if as_json:
        echo(json_text(asdict(done)))
        return
    echo("\n".join([table(HEADER, done.rows()), *done.notes]))


@click.command()
@run_argument
@click.argument("name", metavar="ORG/NAME")
@click.option("--private", is_flag=True, help="Make the repository private, where it is new.")
@click.option("--dry-run", is_flag=True, help="Only list the files; neither a token nor the hub is needed.")
@json_option
def push(run: Path, name: str, private: bool, dry_run: bool, as_json: bool) -> None:
    """Upload the student of a finished RUN to the Hugging Face hub.

    It becomes the model ORG/NAME, with a card that has its metrics, its lineage and how it is loaded.
    """
    with quiet_stdout():
        from kd_core.deploy.push import push

        done = push(run, name, private=private, dry_run=dry_run)
    if as_json:
        echo(json_text(asdict(done)))
        return
    if dry_run:
        rows = [(bytes_text(size), file) for file, size in done.files.items()]
        rows.append((bytes_text(sum(done.files.values())), f"to {done.address}; nothing was sent"))
        echo("\n".join(f"{size:>9}  {file}" for size, file in rows))
        return
    echo(done.address)
