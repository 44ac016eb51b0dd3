"""The command new: a config to begin with, for the user's own files."""

from __future__ import annotations

import importlib
from pathlib import Path

import click

from kd_core.cli.output import echo, quiet_stdout
from kd_core.cli.schema import with_schema
from kd_core.errors import KDError


def new_command(place: str) -> click.Command:
    """The command new, whose configs the function at ``place`` (``module:function``) makes."""

    @click.command("new")
    @click.argument("path", type=click.Path(path_type=Path), metavar="FOLDER|FILE")
    @click.option("--out", type=click.Path(path_type=Path), help="The new config; default: NAME.yaml in this folder.")
    @click.option("--force", is_flag=True, help="Replace a file that is there.")
    @click.pass_context
    def new(ctx: click.Context, path: Path, out: Path | None, force: bool) -> None:
        """Write a config for images, texts or masks, and check it."""
        if not path.exists():
            raise KDError(f"{path}: there is no such file or folder")
        name = (path.resolve().name if path.is_dir() else path.stem) or "mine"
        target = out or Path(f"{name}.yaml")
        if target.exists() and not force:
            raise KDError(f"{target}: there is a file", hint="add --force to replace it, or choose another --out")
        with quiet_stdout():
            from kd_core.experiment import Experiment
            from kd_core.files import write_text

            module, _, function = place.partition(":")
            starter = getattr(importlib.import_module(module), function)(path)
            text = with_schema(starter.text(ctx.find_root().info_name or "kd", str(target)), target)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_text(target, text)
            unverified = Experiment.load(target).check()
        lines = [*starter.seen, *unverified, f"{target}: ok; `{ctx.find_root().info_name} train {target}` trains it"]
        echo("\n".join(lines))

    return new
