"""Paths in a config: found beside the file that writes them, else below the working folder; absolute in a run's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from kd_core.config.syntax.document import Document

FILES = (
    "data.root",
    "data.cache",
    "data.unlabelled",
    "data.images",
    "data.files.*",
    "models.*.run",
    "models.*.weights",
)
"""Keys of files and folders, in the top level's and in a stage's ``data:`` and in models."""
NAMES = ("data.tokenizer", "data.hub", "models.*.hub", "models.*.timm", "models.*.input.tokenizer")
"""Keys of names on a hub, or folders."""
BELOW_ROOT = ("data.files.*", "data.images")
"""Keys of files and folders below ``data.root``, where that is given."""


def found_beside(document: Document) -> None:
    """Put the folder of the file that writes it before each relative path that names something there.

    Paths of the command line, which are relative to the working folder, stay as they are.
    """

    def beside(path: tuple[str, ...], value: str) -> str | None:
        mark = document.mark(path)
        file = Path(mark.file).parent / value
        return os.path.normpath(file) if mark.line and exists(file) else None

    _rewrite(document.data, (*FILES, *NAMES), beside)


def with_absolute_paths(document: Document, defaults: Mapping[tuple[str, ...], str]) -> Document:
    """A config with ``defaults``, by their keys, and with all of its relative paths absolute.

    A value of :data:`NAMES` that is no folder here may be a name on a hub, and stays.
    """
    data = _copied(document.data)
    for path, value in defaults.items():
        holder = data
        for key in path[:-1]:
            holder = holder[key]
        holder[path[-1]] = value

    def absolute(path: tuple[str, ...], value: str) -> str | None:
        is_file = matches(path, FILES) or (exists(Path(value)) and Path(value).is_dir())
        return str(Path(value).absolute()) if is_file else None

    _rewrite(data, (*FILES, *NAMES), absolute)
    return replace(document, data=data)


def _copied(value: Any) -> Any:
    """The same with mappings of its own."""
    return {key: _copied(item) for key, item in value.items()} if isinstance(value, dict) else value


def exists(path: Path) -> bool:
    """Whether there is a file or folder of that name, which may be none that a disk could have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def matches(path: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    """Whether a key is among ``patterns``, in a stage too."""
    path = path[2:] if path[:1] == ("stages",) else path
    return any(
        len(path) == len(pattern.split(".")) and all(map(fnmatchcase, path, pattern.split("."))) for pattern in patterns
    )


def _rewrite(
    data: Mapping[str, Any], patterns: tuple[str, ...], change: Callable[[tuple[str, ...], str], str | None]
) -> None:
    """Call ``change`` with each relative path and put what it returns in its place."""
    for path, holder, value in list(_texts(data, ())):
        if not matches(path, patterns) or not is_relative(value):
            continue
        if matches(path, BELOW_ROOT) and _data_of(data, path).get("root") is not None:
            continue
        changed = change(path, value)
        if changed is not None:
            holder[path[-1]] = changed


def is_relative(value: str) -> bool:
    """Whether a text is a relative path: no URL, and no word that stands for weights elsewhere."""
    return bool(value) and "://" not in value and value != "auto" and value[0] != "~" and not Path(value).is_absolute()


def _data_of(data: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    """The ``data:`` that a key stands in."""
    section = data["stages"][path[1]]["data"] if path[0] == "stages" else data["data"]
    return section if isinstance(section, Mapping) else {}


def _texts(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any], str]]:
    """The texts below mappings, with the mapping that holds each."""
    for key, item in value.items() if isinstance(value, dict) else ():
        if isinstance(item, str):
            yield (*path, key), value, item
        else:
            yield from _texts(item, (*path, key))
