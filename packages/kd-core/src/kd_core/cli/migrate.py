"""The command migrate: torchdistill's YAML files -> configs."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kd_core.cli.options import json_option
from kd_core.cli.output import echo, problem_as_json, quiet_stdout
from kd_core.cli.schema import with_schema
from kd_core.errors import KDError
from kd_core.files import json_text

if TYPE_CHECKING:
    from kd_core.errors import ConfigProblem
    from kd_core.migrate import Draft, Options

PIPE = 100_000
"""The width where there is no terminal: each difference is one line, for `grep`."""
ENDINGS = (".yaml", ".yml")


@click.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="FILE...")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the new configs, in the files' own folders.")
@click.option("--faithful", is_flag=True, help="Do as torchdistill does where a config can, faults included.")
@click.option("--processes", type=click.IntRange(1), default=1, help="Number of processes that torchdistill ran in.")
@click.option("--adjust-lr", is_flag=True, help="torchdistill was given -adjust_lr: multiply learning rates by them.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@json_option
def migrate(
    files: tuple[Path, ...],
    out: Path | None,
    processes: int,
    adjust_lr: bool,
    force: bool,
    as_json: bool,
    faithful: bool,
) -> None:
    """Translate torchdistill's YAML files, or all in a folder.

    Says what will differ, and why. Nothing in them is run. Without --out the config of one file is printed. What cannot
    be translated is an error with its place; the other files are translated all the same.
    """
    with quiet_stdout():
        from kd_core.migrate import Options

        sources = _sources(files)
        if out is None and len(sources) != 1:
            raise KDError(f"{len(sources)} files need a folder for their configs", hint="add --out DIR")
        options = Options(faithful, processes, adjust_lr)
        top = Path(os.path.commonpath([file.parent for file in sources])) if sources else Path()
        reports = {str(file): _migrated(file, top, out, options, force) for file in sources}
    if as_json:
        ok = not any(report["problems"] for report in reports.values())
        told = {
            file: {**report, "problems": [problem_as_json(p) for p in report["problems"]]}
            for file, report in reports.items()
        }
        echo(json_text({"ok": ok, "files": told}))
    else:
        _tell(reports, out)
    if any(report["problems"] for report in reports.values()):
        raise SystemExit(2)


def _sources(files: tuple[Path, ...]) -> list[Path]:
    """The files, and those in folders."""
    found: list[Path] = []
    for file in files:
        inside = sorted(path for path in file.rglob("*") if path.suffix in ENDINGS) if file.is_dir() else [file]
        if not inside:
            raise KDError(f"{file}: there is no YAML file in this folder")
        found += inside
    return list(dict.fromkeys(found))


def _migrated(file: Path, top: Path, out: Path | None, options: Options, force: bool) -> dict[str, Any]:
    """What became of one file: where its config is, or its text, what differs, and problems."""
    from kd_core.migrate import convert, text_of

    report: dict[str, Any] = {"config": None, "differences": [], "problems": []}
    target = None if out is None else out / file.relative_to(top).with_suffix(".yaml")
    try:
        draft = convert(str(file), options)
        text = text_of(draft, str(target or file.name))
        if target is None:
            report["text"] = text
        else:
            _write(target, with_schema(text, target), force)
            report["config"] = str(target)
        report["differences"] = _differences(draft)
    except KDError as error:
        problems: list[ConfigProblem] = error.problems
        report["problems"] = problems
    return report


def _write(target: Path, text: str, force: bool) -> None:
    if target.exists() and not force and target.read_text(encoding="utf-8") != text:
        raise KDError(f"{target}: there is another file", hint="add --force to replace it, or choose another --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def _differences(draft: Draft) -> list[dict[str, str]]:
    return [
        {"kind": difference.kind, "path": ".".join(difference.path), "text": draft.told(difference)}
        for difference in draft.differences
    ]


def _tell(reports: dict[str, dict[str, Any]], out: Path | None) -> None:
    """Print the configs, what differs, and a line on all files together."""
    width = shutil.get_terminal_size((PIPE, 24)).columns
    for file, report in reports.items():
        if report["problems"]:
            echo("\n".join(map(str, report["problems"])), err=True)
            continue
        echo(f"{file} -> {report['config']}" if out else report["text"], nl=out is not None)
        for difference in report["differences"]:
            where = f"{difference['path']}: " if difference["path"] else ""
            told = f"{difference['kind']}: {where}{difference['text']}"
            echo(textwrap.fill(told, width, initial_indent="    ", subsequent_indent="        "), err=out is None)
    done = [report for report in reports.values() if not report["problems"]]
    if len(reports) > 1:
        kinds = Counter(kind for report in done for kind in {each["kind"] for each in report["differences"]})
        echo(f"{len(done)} of {len(reports)} files translated")
        for kind, times in kinds.most_common():
            echo(f"    {kind}: {times} file{'s' * (times != 1)}")
