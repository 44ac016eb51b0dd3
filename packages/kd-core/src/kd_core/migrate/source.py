"""torchdistill's YAML, read as inert data: its tags import nothing and call nothing.

Every value knows its file, line and column, and which values were looked at, so that a key that nobody translates is an
error instead of being lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from kd_core.config.syntax.compose import Composer, compose
from kd_core.config.syntax.read import read
from kd_core.config.syntax.tree import Slot, dotted, kind_of
from kd_core.errors import ConfigError, ConfigProblem, Mark, nearest

TAGS = (
    *("join", "pathjoin", "expanduser", "abspath", "import_get", "import_call", "import_call_method", "call_method"),
    *("getattr", "setattr", "access_by_index_or_key"),
)
"""The tags of torchdistill (``common/yaml_util.py``)."""
_STANDARD = "tag:yaml.org,2002:"
_PLAIN = ("str", "int", "float", "bool", "null")
_CONTENT = "content"


class Tag(dict[str, Slot]):
    """A tag with its content: ``!name content``."""

    def __init__(self, name: str, content: Slot) -> None:
        super().__init__({_CONTENT: content})
        self.name = name

    @property
    def content(self) -> Slot:
        """What stands behind the tag."""
        return self[_CONTENT]


@dataclass(frozen=True)
class Symbol:
    """The object of a dotted name, which is not imported."""

    name: str

    def __str__(self) -> str:
        return self.name


class _Composer(Composer):
    """Reads YAML 1.1 as PyYAML means it, and torchdistill's tags as :class:`Tag`; any other tag is a problem."""

    def scalar(self, event: yaml.ScalarEvent, mark: Mark) -> Slot:
        """The value of a scalar as PyYAML resolves it; dates are texts."""
        tag = event.tag
        if tag is not None and not tag.startswith(_STANDARD):
            return self.tagged(tag, event.value, mark)
        tag = tag or self.loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        name = tag.removeprefix(_STANDARD)
        if name not in _PLAIN:
            return Slot(event.value, mark) if name in ("timestamp", "merge", "value") else self.refuse(tag, mark)
        try:
            return Slot(getattr(self.loader, f"construct_yaml_{name}")(yaml.ScalarNode(tag, event.value)), mark)
        except (ValueError, KeyError):
            return self.fail(f"{event.value[:40]!r} is not a value of !!{name}", mark)

    def tagged(self, tag: str | None, content: object, mark: Mark) -> Slot:
        """The value of a tag of torchdistill or of YAML's own lists and mappings."""
        if tag is None or tag in ("!", f"{_STANDARD}seq", f"{_STANDARD}map"):
            return Slot.of(content, mark)
        name = tag.removeprefix("!")
        if name == "join" and (text := _joined(content)) is not None:
            return Slot(text, mark)
        if tag.startswith("!") and name in TAGS:
            return Slot.of(Tag(name, Slot.of(content, mark)), mark)
        return self.refuse(tag, mark)

    def refuse(self, tag: str, mark: Mark) -> Slot:
        """Report a tag that would make an object, or that there is not."""
        name = f"!!{tag.removeprefix(_STANDARD)}" if tag.startswith(_STANDARD) else tag
        near = nearest(tag.removeprefix("!"), TAGS)
        hint = f"did you mean !{near}?" if near else f"torchdistill's tags are !{', !'.join(TAGS)}"
        return self.fail(f"{name} is not a tag of torchdistill", mark, hint)

    def fail(self, message: str, mark: Mark, hint: str | None = None) -> Slot:
        """Report one problem; an anchor that is given again is none, as PyYAML takes the last one."""
        return Slot(None, mark) if message.endswith("is already defined") else super().fail(message, mark, hint)


def _joined(content: object) -> str | None:
    """The text of a ``!join`` whose items are plain; None of anything else."""
    texts = [item.value for item in content] if isinstance(content, list) else [None]
    plain = all(isinstance(text, (str, int, float)) and not isinstance(text, bool) for text in texts)
    return "".join(map(str, texts)) if plain else None


@dataclass
class Source:
    """A file of torchdistill: its tree, what was looked at, and the problems found in it."""

    file: str
    seen: set[int] = field(default_factory=set)
    problems: list[ConfigProblem] = field(default_factory=list)

    def root(self) -> Node:
        """The whole of the file; ConfigError where it cannot be read."""
        slot = compose(read(self.file), lambda mark: Mark(self.file, mark.line + 1, mark.column + 1), _Composer)
        if slot is None or not isinstance(slot.value, dict) or isinstance(slot.value, Tag):
            what = "empty" if slot is None else kind_of(slot.value)
            raise ConfigError(
                ConfigProblem(f"a config of torchdistill is a mapping, this is {what}", mark=Mark(self.file, 1))
            )
        return Node(self, slot, ())


@dataclass(frozen=True)
class Node:
    """A value of the source under its path."""

    source: Source
    slot: Slot
    path: tuple[str | int, ...]

    def __bool__(self) -> bool:
        """Whether there is a value other than null, and no empty mapping or list."""
        return self.slot.value is not None and self.slot.value not in ({}, [])

    @property
    def tag(self) -> str | None:
        """The name of the tag, if it has one."""
        return self.slot.value.name if isinstance(self.slot.value, Tag) else None

    @property
    def entries(self) -> dict[str, Slot]:
        """The entries of a mapping; none of anything else."""
        value = self.slot.value
        return value if isinstance(value, dict) and not isinstance(value, Tag) else {}

    def __getitem__(self, key: str) -> Node:
        """The value of a key, which counts as looked at; null where there is none."""
        slot = self.entries.get(key)
        if slot is None:
            return Node(self.source, Slot(None, self.slot.mark), (*self.path, key))
        self.source.seen.add(id(slot))
        return Node(self.source, slot, (*self.path, key))

    def __contains__(self, key: str) -> bool:
        return key in self.entries

    def names(self) -> list[str]:
        """The keys, without those that only hold anchors (``_root``)."""
        return [key for key in self.entries if not key.startswith("_")]

    def items(self) -> Iterator[Node]:
        """The items of a list."""
        value = self.slot.value
        for number, slot in enumerate(value if isinstance(value, list) else []):
            yield Node(self.source, slot, (*self.path, number))

    def call(self) -> tuple[str, Node] | None:
        """The dotted name and the keyword arguments of ``!import_call``; None where this is none."""
        if self.tag not in ("import_call", "import_call_method"):
            return None
        content = Node(self.source, self.slot.value.content, self.path)
        names = [content[name].text() for name in ("package", "class_name", "method_name", "key")]
        init = content["init"]
        if init["args"]:
            init["args"].fail("positional arguments cannot be translated", "write them as kwargs")
        return ".".join(filter(None, names)), init["kwargs"]

    def plain(self) -> Any:
        """The value with everything in it, which counts as looked at: texts joined, dotted names as :class:`Symbol`."""
        value = self.slot.value
        if isinstance(value, list):
            return [item.plain() for item in self.items()]
        if not isinstance(value, Tag):
            return {name: self[name].plain() for name in self.names()} if isinstance(value, dict) else value
        content = Node(self.source, value.content, self.path)
        if value.name in ("join", "pathjoin", "expanduser", "abspath"):
            inner = content.plain()
            parts = inner if isinstance(inner, list) else [inner]
            return ("/" if value.name == "pathjoin" else "").join(map(str, parts))
        if value.name == "import_get":
            return Symbol(".".join(filter(None, (content["package"].text(), content["key"].text()))))
        if value.name == "getattr":
            inner = content.plain()
            if isinstance(inner, list) and len(inner) == 2 and isinstance(inner[0], Symbol):
                return Symbol(f"{inner[0]}.{inner[1]}")
        return self.fail(f"!{value.name} cannot be translated here")

    def text(self, default: str = "") -> str:
        """A text, joined where it is in parts."""
        value = self.plain() if self.slot.value is not None else None
        if value is None:
            return default
        if isinstance(value, (dict, list)):
            self.fail(f"must be a string, not {kind_of(value)}")
            return default
        return str(value)

    def number(self, default: float = 0) -> Any:
        """A number; where it is none a problem, and the default."""
        value = self.slot.value
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.fail(f"must be a number, not {kind_of(value) if not isinstance(value, Tag) else 'a tag'}")
            return default
        return value

    def flag(self, default: bool = False) -> bool:
        """Whether it is true."""
        value = self.slot.value
        return default if value is None else bool(value)

    def fail(self, message: str, hint: str | None = None) -> None:
        """Note that this value cannot be translated."""
        problem = ConfigProblem(message, dotted(self.path), self.slot.mark, hint)
        if problem not in self.source.problems:
            self.source.problems.append(problem)

    def skip(self, *keys: str) -> None:
        """Count these keys, with all in them, as looked at: nothing that is trained depends on them."""
        for key in keys:
            if key in self:
                _seen(self.source.seen, self.entries[key])

    def unread(self, ignored: frozenset[str] = frozenset()) -> None:
        """Report each key below that was never looked at."""
        for key, slot in self.entries.items():
            if key.startswith("_") or key in ignored:
                continue
            below = Node(self.source, slot, (*self.path, key))
            if id(slot) not in self.source.seen:
                if below:
                    below.fail(
                        f"the key {key!r} cannot be translated", "take it away, or put it into the new config by hand"
                    )
            else:
                below.unread(ignored)
        if isinstance(self.slot.value, list):
            for item in self.items():
                item.unread(ignored)
        if isinstance(self.slot.value, Tag):
            Node(self.source, self.slot.value.content, self.path).unread(ignored)


def _seen(seen: set[int], slot: Slot) -> None:
    seen.add(id(slot))
    value = slot.value
    for below in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _seen(seen, below)
