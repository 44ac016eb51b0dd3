"""The command schema: what an editor needs to complete and to check configs."""

from __future__ import annotations

import os
from pathlib import Path

import click

from kd_core.cli.output import echo, quiet_stdout
from kd_core.files import json_text, write_text

LINE = "# yaml-language-server: $schema="
ABOVE = 3
"""Folders above a config's own in which a schema is looked for."""


def with_schema(text: str, target: Path) -> str:
    """A new config with the line that names its schema for editors, where one lies beside the file or above it.

    That is ``schema.json`` or ``COMMAND.json`` in the config's folder, or ``.vscode/COMMAND.json`` in it or in a folder
    above. The config begins with its command, and the line comes second.
    """
    first, newline, rest = text.partition("\n")
    command = first.removeprefix("# ").partition(" ")[0]
    folder = target.resolve().parent
    places = [folder / "schema.json", folder / f"{command}.json"]
    places += [above / ".vscode" / f"{command}.json" for above in [folder, *folder.parents[:ABOVE]]]
    schema_file = next((place for place in places if place.is_file()), None)
    if schema_file is None:
        return text
    return f"{first}\n{LINE}{Path(os.path.relpath(schema_file, folder)).as_posix()}{newline}{rest}"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Write a file instead of printing.")
@click.option("--tags", is_flag=True, help="Print the setting yaml.customTags of VS Code instead.")
@click.pass_obj
def schema(tasks: tuple[str, ...], out: Path | None, tags: bool) -> None:
    """Print the JSON Schema of this command's configs, for editors.

    They complete and check YAML by it.

    It has what is installed: losses, adapters, models, data sets and methods, with their parameters and ranges.
    """
    with quiet_stdout():
        from kd_core.editors import config_schema, custom_tags
        from kd_core.study.spec import StudySpec

        made = {"yaml.customTags": custom_tags()} if tags else config_schema(tasks, StudySpec)
    text = json_text(made, indent=2) + "\n"
    if out is None:
        echo(text, nl=False)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
