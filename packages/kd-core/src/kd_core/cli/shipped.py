"""The configs that a package brings along: commands take them by name, wherever they run."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import click

from kd_core.errors import KDError, did_you_mean

ENDING = ".yaml"


def shipped(package: str) -> dict[str, Path]:
    """The configs of an installed package by name, those that start with ``_`` left out; its code is not imported."""
    found = importlib.util.find_spec(package)
    places = [Path(place) / "configs" for place in (found.submodule_search_locations or ())] if found else []
    folders = [folder for place in places for folder in sorted(place.glob("*"))]
    files = [file for folder in folders for file in sorted(folder.glob(f"*{ENDING}"))]
    return {file.stem: file for file in files if not file.name.startswith("_")}


def about(file: Path) -> str:
    """What the comment at the beginning of a config says, without its command and schema: the first sentence."""
    lines = file.read_text(encoding="utf-8").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    if comment and comment[0].startswith("kd-"):
        del comment[0]
    comment = [line for line in comment if not line.startswith("yaml-language-server:")]
    return " ".join(comment).partition(". ")[0].rstrip(".")


def configs_of(ctx: click.Context) -> dict[str, Path]:
    """The configs that the package of a command brings along."""
    package = getattr(ctx.find_root().command, "package", "")
    return shipped(package) if package else {}


class ConfigPath(click.Path):
    """A config: a file, or the name of one that the command's package brings along."""

    name = "config"

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path of the file; KDError where there is none, and no config of the package either.

        Of a path that ends in the name of one of the package's configs, the hint is that name.
        """
        path = super().convert(value, param, ctx)
        bare = Path(str(path))
        if bare.exists() or ctx is None:
            return path
        configs = configs_of(ctx)
        if bare.suffix == ENDING and bare.stem in configs:
            hint = f"a config of that name is installed: write {bare.stem} in place of the path"
            raise KDError(f"{bare}: no such file", hint=hint)
        if bare.suffix or bare.name != str(path) or not configs:
            return path
        if bare.name not in configs:
            hint = did_you_mean(bare.name, list(configs))
            raise KDError(f"{bare}: no such file, and no config of that name", hint=hint)
        return configs[bare.name]

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Files, and the names of the package's configs."""
        names = configs_of(ctx)
        fitting = [click.shell_completion.CompletionItem(name) for name in names if name.startswith(incomplete)]
        return [*fitting, *super().shell_complete(ctx, param, incomplete)]
