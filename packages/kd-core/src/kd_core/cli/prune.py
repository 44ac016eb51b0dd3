"""The command prune."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kd_core.cli.options import json_option
from kd_core.cli.output import bytes_text, echo, quiet_stdout, table
from kd_core.files import json_text

if TYPE_CHECKING:
    from kd_core.runs.prune import Surplus


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUNS...")
@click.option("--keep", type=click.IntRange(min=0), metavar="N", help="Checkpoints kept.  [checkpoint.keep_finished]")
@click.option("--dry-run", is_flag=True, help="Only list what would go.")
@json_option
def prune(runs: tuple[Path, ...], keep: int | None, dry_run: bool, as_json: bool) -> None:
    """Remove checkpoints of finished runs, and half-written files.

    RUNS are runs, or folders of runs such as a sweep's. The student, its result, the config and the metrics stay. A run
    that is in use stays as it is, and so do the checkpoints of one that can be resumed.
    """
    with quiet_stdout():
        from kd_core.runs.prune import prune

        found = prune(runs, keep=keep, dry_run=dry_run)
    total = sum(surplus.bytes for surplus in found)
    if as_json:
        folders = [{**vars(surplus), "bytes": surplus.bytes} for surplus in found]
        echo(json_text({"dry_run": dry_run, "bytes": total, "folders": folders}))
    else:
        echo(table(("folder", "state", "holds", "goes", "files"), [_row(surplus) for surplus in found]))
        echo(f"{bytes_text(total)} {'would be removed; nothing was' if dry_run else 'were removed'}")
    for surplus in found:
        if surplus.error:
            echo(f"{surplus.folder}: {surplus.error}", err=True)
    if any(surplus.error for surplus in found):
        raise SystemExit(2)


def _row(surplus: Surplus) -> tuple[str, ...]:
    names = sorted({_kind(path) for path in surplus.files})
    goes = f"{len(surplus.files)}: {', '.join(names)}" if names else ""
    return str(surplus.folder), surplus.state, bytes_text(surplus.size), bytes_text(surplus.bytes), goes


def _kind(path: Path) -> str:
    """What a file is, by its name: several of one kind are told once."""
    kinds = {"step-": "checkpoints", "best-": "the best student's checkpoint", ".tmp-": "half-written files"}
    return next((kind for prefix, kind in kinds.items() if path.name.startswith(prefix)), path.name)
