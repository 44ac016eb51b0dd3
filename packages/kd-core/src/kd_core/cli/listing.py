"""The command list: what configs can name, and all that is known of some of it."""

from __future__ import annotations

import importlib
import inspect
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from kd_core.cli.options import json_option
from kd_core.cli.output import echo, first_line, quiet_stdout, table
from kd_core.cli.shipped import about, shipped
from kd_core.errors import KDError, did_you_mean
from kd_core.files import json_text

if TYPE_CHECKING:
    from kd_core.registry import Registry

REGISTRIES = {
    "losses": "kd_core.losses:LOSSES",
    "adapters": "kd_core.adapters:ADAPTERS",
    "models": "kd_core.models:MODELS",
    "tasks": "kd_core.task:TASKS",
    "views": "kd_core.data.views:VIEWS",
    "observers": "kd_core.observers:OBSERVERS",
    "methods": "kd_core.config.syntax.methods:METHODS",
}
"""What ``list`` lists: ``module:registry``."""
WITH_INPUTS = ("losses", "adapters")
"""Kinds whose positional parameters a config names. Those of other kinds (a view's batch) come from the run."""
CONFIGS = "configs"
"""The kind that is no registry: the package's own configs."""
PIPE = 100_000
"""The width where there is no terminal: each signature is one line, for `grep`."""
SOLID = "\N{NO-BREAK SPACE}"
OURS = "kd_"
"""How the packages of this project begin: models of others are listed in every command."""


@dataclass(frozen=True)
class Models:
    """Which registered models a command lists: those of ``packages``, and those of the user; ``note`` comes last."""

    packages: tuple[str, ...]
    note: str = ""

    def fit(self, item: Any) -> bool:
        """Whether a model is of one of the packages, or of none of this project."""
        package = getattr(item, "__module__", "").partition(".")[0]
        return package in self.packages or not package.startswith(OURS)


def list_command(registries: Mapping[str, str], tasks: Sequence[str], models: Models | None) -> click.Command:
    """The command list for ``registries``, as ``{"losses": "module:registry"}``, after the plug-ins of ``tasks``."""

    @click.command("list")
    @click.argument("kind", type=click.Choice([*registries, CONFIGS]))
    @click.argument("names", nargs=-1, metavar="[NAME]...")
    @json_option
    @click.pass_context
    def list_names(ctx: click.Context, kind: str, names: tuple[str, ...], as_json: bool) -> None:
        """List what configs can name, and the parameters of NAMES; or the configs that the package brings along.

        Of one that is named: every parameter with its type, range and default, the whole description, and the paper
        where there is one.
        """
        if kind == CONFIGS:
            _list_configs(getattr(ctx.find_root().command, "package", ""), names, as_json)
            return
        with quiet_stdout():
            from kd_core.task import TASKS

            for task in tasks:
                TASKS.get(task)  # whose package registers what is its own
            items = _items(registries[kind], models if kind == "models" and not names else None)
            _check_names(kind, names, items)
            told = {name: _described(items[name], kind) for name in names or items}
        if as_json:
            echo(json_text({kind: told}))
        elif names:
            echo("\n\n".join(_whole(name, items[name], entry) for name, entry in told.items()))
        else:
            lines = [line for name, entry in told.items() for line in _short(name, entry)]
            lines += [models.note] if kind == "models" and models is not None and models.note else []
            echo("\n".join(lines))

    return list_names


def _list_configs(package: str, names: Sequence[str], as_json: bool) -> None:
    """The configs that a package brings along, each with what it says of itself; of those named, the file."""
    files = shipped(package)
    _check_names(CONFIGS, names, files)
    told = {name: {"file": str(files[name]), "summary": about(files[name])} for name in names or files}
    if as_json:
        echo(json_text({CONFIGS: told}))
        return
    for name, entry in told.items():
        lines = [name, *(f"    {line}" for line in (entry["summary"], entry["file"] if names else "") if line)]
        echo("\n".join(lines))


def _items(place: str, models: Models | None) -> dict[str, Any]:
    """What a registry holds by name, of models those that fit."""
    module, _, attribute = place.partition(":")
    registry: Registry[Any] = getattr(importlib.import_module(module), attribute)
    items = {name: registry.get(name) for name in registry.names()}
    return items if models is None else {name: item for name, item in items.items() if models.fit(item)}


def _check_names(kind: str, names: Sequence[str], items: Mapping[str, Any]) -> None:
    """KDError for a name that is not there."""
    for name in names:
        if name not in items:
            raise KDError(f"there is no {name!r} among the {kind}", hint=did_you_mean(name, list(items)))


def _signature(item: Any, kind: str) -> str:
    """The values that a config may give it, each with its range and default; empty where there are none."""
    from kd_core.signatures import signature_text, value_text

    options = getattr(item, "options", None)  # of a data set, which is no function
    if options is not None:
        return f"({', '.join(map(value_text, options.values()))})" if options else ""
    text = signature_text(item, inputs=kind in WITH_INPUTS) if callable(item) else ""
    return "" if text == "()" else text


def _described(item: Any, kind: str) -> dict[str, Any]:
    """What ``list`` tells of one item: its signature, the first line of its docstring, and all of it."""
    return {
        "signature": _signature(item, kind),
        "summary": first_line(item),
        "parameters": _parameters(item, kind),
        "description": inspect.getdoc(item) or "",
    }


def _parameters(item: Any, kind: str) -> dict[str, dict[str, str]]:
    """Each parameter with its type and range, and its default where it has one; ``wire`` is what a config wires."""
    from kd_core.signatures import type_text, values_of, wires_of

    if getattr(item, "options", None) is not None:
        values = item.options
    elif callable(item):
        values = values_of(item)
    else:
        return {}
    told = {}
    for name, optional in wires_of(item) if kind in WITH_INPUTS else ():
        told[name] = {"type": "wire", **({"default": "None"} if optional else {})}
    for name, parameter in values.items():
        default = {} if parameter.default is parameter.empty else {"default": repr(parameter.default)}
        told[name] = {"type": type_text(parameter.annotation), **default}
    return told


def _short(name: str, entry: Mapping[str, Any]) -> list[str]:
    """A name with its signature, wrapped to the terminal, and what it is."""
    width = shutil.get_terminal_size((PIPE, 24)).columns
    solid = f"{name}{entry['signature']}".replace(" ", SOLID).replace(f",{SOLID}", ", ")  # a parameter stays whole
    signature = [line.replace(SOLID, " ") for line in textwrap.wrap(solid, width, subsequent_indent=" " * 8)]
    return [*signature, *textwrap.wrap(entry["summary"], width, initial_indent="    ", subsequent_indent="    ")]


def _whole(name: str, item: Any, entry: Mapping[str, Any]) -> str:
    """All that is known of one item: its parameters in a table, its description, and where its code is."""
    from kd_core.registry import owner_of

    rows = [(key, facts["type"], facts.get("default", "required")) for key, facts in entry["parameters"].items()]
    parts = [name, table(("parameter", "type", "default"), rows) if rows else "", entry["description"]]
    code = owner_of(item) if callable(item) else ""
    return "\n\n".join(part for part in (*parts, code) if part)
