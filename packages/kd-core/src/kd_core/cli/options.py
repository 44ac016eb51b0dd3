"""Options and arguments that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kd_core.cli.shipped import ConfigPath

F = TypeVar("F", bound=Callable[..., Any])
set_option = click.option(
    "--set", "overrides", metavar="a.b=VALUE", multiple=True, help="Replace a value of the config; repeatable."
)
trust_option = click.option(
    "--trust", metavar="PREFIX", multiple=True, help="Let the config use what lies below this dotted name; repeatable."
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object; all else goes to standard error."
)
config_argument = click.argument("config", type=ConfigPath())
run_argument = click.argument("run", type=click.Path(path_type=Path))


def config_options(command: F) -> F:
    """``--set`` and ``--trust``, as the parameters ``overrides`` and ``trust``."""
    return set_option(trust_option(command))
