"""File -> Document: YAML, then ``extends:``, then overrides, then methods, then texts joined, then paths found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from kd_core.config.syntax import overrides as options
from kd_core.config.syntax.compose import compose
from kd_core.config.syntax.document import Document
from kd_core.config.syntax.methods import expand_methods
from kd_core.config.syntax.paths import found_beside
from kd_core.config.syntax.read import read
from kd_core.config.syntax.to_data import to_data
from kd_core.config.syntax.tree import Slot, kind_of, merge_configs
from kd_core.errors import ConfigError, ConfigProblem, Mark

MAX_BASES = 32


def load(path: str | Path, overrides: Sequence[str] = ()) -> Document:
    """Read a config file, its bases and the ``--set`` options; ConfigError with all problems found."""
    return _load(str(path), None, overrides)


def loads(text: str, file: str = "<string>", overrides: Sequence[str] = ()) -> Document:
    """As :func:`load`, from text. ``file`` is what places say, and what bases are relative to."""
    return _load(file, text, overrides)


def _load(file: str, text: str | None, overrides: Sequence[str]) -> Document:
    problems: list[ConfigProblem] = []
    root: Slot | None = None
    changes: list[options.Override] = []
    try:
        root = _Reader().tree(file, None, text)
    except ConfigError as error:
        problems += error.problems
    try:
        changes = options.parse_overrides(overrides)
    except ConfigError as error:
        problems += error.problems
    if problems or root is None:
        raise ConfigError(dict.fromkeys(problems))
    later = [change for change in changes if options.names_new_stage(root, change)]
    root = _changed(root, [change for change in changes if change not in later])
    root = _changed(expand_methods(root), later)  # stages that a method puts before others
    document = Document(to_data(root), file, root)
    found_beside(document)
    return document


def _changed(root: Slot, changes: Sequence[options.Override]) -> Slot:
    """The tree with values set; ConfigError with every path that leads nowhere."""
    problems: list[ConfigProblem] = []
    for change in changes:
        try:
            root = options.apply(root, change)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return root


class _Reader:
    """Reads a config and its bases, each file once."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.done: dict[str, Slot] = {}

    def tree(self, file: str, asked: Mark | None, text: str | None = None) -> Slot:
        """The tree of ``file`` on top of its bases. ``asked`` is where another file names it."""
        name = _identity(file)
        if name in self.open:
            chain = " -> ".join([*self.open[self.open.index(name) :], name])
            raise ConfigError(ConfigProblem(f"extends forms a cycle: {chain}", "extends", asked))
        if name in self.done:
            return self.done[name]
        if len(self.open) + len(self.done) > MAX_BASES:
            raise ConfigError(ConfigProblem(f"more than {MAX_BASES} files extend each other", "extends", asked))
        self.open.append(name)
        try:
            self.done[name] = self.extended(file, read(file, asked, "extends") if text is None else text)
        finally:
            self.open.pop()
        return self.done[name]

    def extended(self, file: str, text: str) -> Slot:
        """The root of ``text`` merged into its bases. ConfigError where the file is empty or not a mapping."""
        root = compose(text, lambda mark: Mark(file, mark.line + 1, mark.column + 1))
        start = Mark(file, 1, 1)
        if root is None or root.value is None:
            raise ConfigError(ConfigProblem("the file is empty", mark=start))
        if not isinstance(root.value, dict):
            raise ConfigError(ConfigProblem(f"a config is a mapping, not {kind_of(root.value)}", mark=root.mark))
        entries = dict(root.value)
        bases = entries.pop("extends", None)
        own_root = Slot.of(entries, root.mark)
        if bases is None:
            return own_root
        merged: Slot | None = None
        problems: list[ConfigProblem] = []
        for name, mark in _names(bases):
            try:
                base = self.tree(os.path.normpath(Path(file).parent / name), mark)
                merged = base if merged is None else merge_configs(merged, base)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
        return own_root if merged is None else merge_configs(merged, own_root)


def _identity(file: str) -> str:
    try:
        return os.path.realpath(file)
    except (OSError, ValueError):  # no file has such a name: reading it will say so
        return file


def _names(slot: Slot) -> list[tuple[str, Mark]]:
    slots = slot.value if isinstance(slot.value, list) else [slot]
    for base in slots:
        if not isinstance(base.value, str):
            raise ConfigError(
                ConfigProblem(f"takes a file or a list of files, not {kind_of(base.value)}", "extends", base.mark)
            )
    if len(slots) > MAX_BASES:
        raise ConfigError(ConfigProblem(f"names more than {MAX_BASES} files", "extends", slot.mark))
    return [(slot.value, slot.mark) for slot in slots]
