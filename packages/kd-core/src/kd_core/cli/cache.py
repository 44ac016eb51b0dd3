"""The commands on what is kept of frozen models: cache list, verify, prune."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kd_core.cli.options import json_option
from kd_core.cli.output import echo, quiet_stdout, table
from kd_core.errors import KDError
from kd_core.files import json_text

if TYPE_CHECKING:
    from kd_core.train.output_store import Kept

DAY = 86400.0


@click.group()
def cache() -> None:
    """List, verify or remove the kept outputs of teachers."""


@cache.command("list")
@json_option
def list_kept(as_json: bool) -> None:
    """What is kept, the longest unused first: size, model, data, last use."""
    _print(_kept(verify=False), as_json)


@cache.command()
@json_option
def verify(as_json: bool) -> None:
    """Read every record: how many are whole and how many damaged. A run makes damaged ones anew."""
    _print(_kept(verify=True), as_json, verified=True)


@cache.command()
@click.option("--unused", type=click.FloatRange(min=0), metavar="DAYS", help="Those not used for so many days.")
@click.option("--to", "to", type=click.FloatRange(min=0), metavar="GB", help="The longest unused, down to this size.")
@click.option("--all", "everything", is_flag=True, help="All.")
@click.option("--dry-run", is_flag=True, help="List them only.")
@json_option
def prune(unused: float | None, to: float | None, everything: bool, dry_run: bool, as_json: bool) -> None:
    """Remove kept outputs. A run that uses them goes on, and runs its teacher again."""
    if [unused is not None, to is not None, everything].count(True) != 1:
        raise KDError("say what to remove", hint="give one of --unused DAYS, --to GB, --all")
    with quiet_stdout():
        from kd_core.train.output_store import remove

        folders = _kept(verify=False)
        left, doomed = sum(each.bytes for each in folders), []
        for each in folders:
            old = unused is not None and time.time() - each.used >= unused * DAY
            if everything or old or (to is not None and left > to * 1e9):
                doomed.append(each)
                left -= each.bytes
        for each in () if dry_run else doomed:
            remove(each.folder)
    _print(doomed, as_json)
    if not as_json:
        echo(f"{_size(sum(each.bytes for each in doomed))} {'would be' if dry_run else 'were'} removed")


def _kept(*, verify: bool) -> Sequence[Kept]:
    with quiet_stdout():
        from kd_core.train.output_store import kept

        return kept(verify=verify)


def _print(folders: Sequence[Kept], as_json: bool, verified: bool = False) -> None:
    if as_json:
        echo(json_text([_facts(each, verified) for each in folders]))
        return
    if not folders:
        echo("nothing is kept")
        return
    header = ["size", "wire", "data", "samples", "views", "unused", "folder"]
    rows = []
    for each in folders:
        days = (time.time() - each.used) / DAY
        names = [str(each.facts.get(key, "?")) for key in ("wire", "data", "samples")]
        counts = [str(each.records), str(each.damaged)] if verified else []
        rows.append([_size(each.bytes), *names, str(each.views), *counts, f"{days:.1f} days", str(each.folder)])
    echo(table([*header[:5], *(["records", "damaged"] if verified else []), *header[5:]], rows))


def _facts(each: Kept, verified: bool) -> dict[str, Any]:
    counts = {"records": each.records, "damaged": each.damaged} if verified else {}
    known = {"folder": each.folder, "bytes": each.bytes, "views": each.views, "used": each.used}
    return {**each.facts, **known, **counts}


def _size(count: int) -> str:
    """A number of bytes, for people."""
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"
