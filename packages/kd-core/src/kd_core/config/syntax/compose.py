"""YAML text -> tree of slots. Hostile text ends in a ConfigError, soon."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import yaml

from kd_core.config.syntax.scalars import resolve
from kd_core.config.syntax.tags import Raw, build_tag
from kd_core.config.syntax.tree import Slot, kind_of
from kd_core.errors import ConfigError, ConfigProblem, Mark, nearest

MAX_DEPTH = 64
MAX_VALUES = 50_000
MAX_PROBLEMS = 100
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_INVISIBLE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udc7f\udd00-\udfff]")
"""What no text of a config may have. Between the surrogates is what Python reads for a byte of a file's name that is
not UTF-8: the run of such a file has it in its own config, as an escape."""
_SWALLOWED = re.compile(r"!([A-Za-z_]\w*)(?::([^\s,\[\]{}()]*))?[,\[\]{}()]")
_STANDARD = "tag:yaml.org,2002:"
_KINDS = {"str": str, "int": int, "float": float, "bool": bool, "null": type(None), "seq": list, "map": dict}
Place = Callable[["yaml.Mark"], Mark]


def compose(text: str, locate: Place, reader: type[Composer] | None = None) -> Slot | None:
    """The tree of the one document in ``text``, or None where there is none.

    ``place`` turns YAML's marks into ours, ``reader`` reads another tool's tags and scalars. ConfigError with every
    problem that can be told from the text.
    """
    if bad := _FORBIDDEN.search(text):
        line, at = text.count("\n", 0, bad.start()), bad.start() - text.rfind("\n", 0, bad.start()) - 1
        mark = locate(yaml.Mark("", bad.start(), line, at, None, 0))
        raise ConfigError(
            ConfigProblem(f"control character U+{ord(bad[0]):04X}", mark=mark, hint='write "\\x.." in quotes')
        )
    composer = (reader or Composer)(text, locate)
    try:
        slot = composer.document()
    except ConfigError as error:
        raise ConfigError([*composer.problems, *error.problems]) from None
    except yaml.MarkedYAMLError as error:
        raise ConfigError([*composer.problems, _explain(error, text, locate)]) from None
    except (yaml.YAMLError, ValueError, OverflowError):  # an escape such as "\UFFFFFFFF"
        here = locate(composer.loader.get_mark())
        problem = ConfigProblem("not a character: the escape is out of range", mark=here)
        raise ConfigError([*composer.problems, problem]) from None
    if composer.problems:
        raise ConfigError(composer.problems)
    return slot


class Composer:
    """Reads events into slots; problems that leave the rest readable are collected."""

    def __init__(self, text: str, locate: Place) -> None:
        self.loader = yaml.SafeLoader(text)
        self.locate = locate
        self.problems: list[ConfigProblem] = []
        self.anchors: dict[str, Slot | None] = {}  # None while the anchored value is still open
        self.merged = 0

    def document(self) -> Slot | None:
        """The root of the only document; None where the text is empty. ConfigError for a second document."""
        self.loader.get_event()
        if self.loader.check_event(yaml.StreamEndEvent):
            return None
        self.loader.get_event()
        slot = self.node(0)
        self.loader.get_event()
        if not self.loader.check_event(yaml.StreamEndEvent):
            second = self.locate(self.loader.peek_event().start_mark)
            raise ConfigError(
                ConfigProblem(
                    "a second document starts here", mark=second, hint="a config is one document: remove the ---"
                )
            )
        return slot

    def node(self, depth: int) -> Slot:
        """The next value, ``depth`` levels below the root."""
        event = self.loader.get_event()
        mark = self.locate(event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor, mark)
        if event.anchor is not None:
            if event.anchor in self.anchors:
                self.fail(f"the anchor &{event.anchor} is already defined", mark, "give it another name")
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            slot = self.scalar(event, mark)
        else:
            if depth >= MAX_DEPTH:
                raise ConfigError(ConfigProblem(f"nested deeper than {MAX_DEPTH} levels", mark=mark))
            content = self.sequence(depth) if isinstance(event, yaml.SequenceStartEvent) else self.mapping(depth)
            slot = self.tagged(event.tag, content, mark)
        if slot.size > MAX_VALUES:
            raise ConfigError(ConfigProblem(f"more than {MAX_VALUES} values, with aliases written out", mark=mark))
        if slot.depth > MAX_DEPTH:
            raise ConfigError(
                ConfigProblem(f"nested deeper than {MAX_DEPTH} levels, with aliases written out", mark=mark)
            )
        if event.anchor is not None:
            self.anchors[event.anchor] = slot
        return slot

    def alias(self, name: str | None, mark: Mark) -> Slot:
        """The value that the alias ``name`` stands for, with the alias's own place."""
        assert name is not None
        if name not in self.anchors:
            near = nearest(name, list(self.anchors)[-MAX_PROBLEMS:])
            return self.fail(f"there is no anchor &{name} above", mark, f"did you mean *{near}?" if near else None)
        slot = self.anchors[name]
        if slot is None:
            return self.fail(f"the alias *{name} stands inside the value it names", mark)
        return replace(slot, mark=mark)

    def sequence(self, depth: int) -> list[Slot]:
        """The items up to the end of the list."""
        items = []
        while not self.loader.check_event(yaml.SequenceEndEvent):
            items.append(self.node(depth + 1))
        self.loader.get_event()
        return items

    def mapping(self, depth: int) -> dict[str, Slot]:
        """The entries up to the end of the mapping, with ``<<`` merged. Repeated keys are reported."""
        entries: dict[str, Slot] = {}
        bases: list[dict[str, Slot]] | None = None
        while not self.loader.check_event(yaml.MappingEndEvent):
            event = self.loader.peek_event()
            plain = isinstance(event, yaml.ScalarEvent) and event.implicit[0]
            key = self.node(depth + 1)
            value = self.node(depth + 1)
            if plain and key.value == "<<":
                if bases is not None:
                    self.fail("the key '<<' is repeated", key.mark, "write <<: [*first, *second]")
                bases = self.bases(value)
            elif not isinstance(key.value, str):
                self.fail(
                    f"a key must be a string, not {kind_of(key.value)}",
                    key.mark,
                    "quote it" if kind_of(key.value) == "a number" else None,
                )
            elif key.value in entries:
                first = entries[key.value].key
                self.fail(f"the key {key.value!r} is repeated", key.mark, f"it is first given at {first}")
            else:
                entries[key.value] = replace(value, key=key.mark)
        self.loader.get_event()
        return self.inherit(entries, bases or [])

    def bases(self, value: Slot) -> list[dict[str, Slot]]:
        """The mappings that ``<<`` names, first wins."""
        slots = value.value if isinstance(value.value, list) else [value]
        for slot in slots:
            if not isinstance(slot.value, dict):
                self.fail(f"<< takes an alias of a mapping or a list of them, not {kind_of(slot.value)}", slot.mark)
        return [slot.value for slot in slots if isinstance(slot.value, dict)]

    def inherit(self, entries: dict[str, Slot], bases: list[dict[str, Slot]]) -> dict[str, Slot]:
        """``entries`` over those of ``bases``, of which earlier ones win. ConfigError where too much is copied."""
        self.merged += sum(map(len, bases))
        if self.merged > MAX_VALUES and bases:
            raise ConfigError(
                ConfigProblem(f"<< copies more than {MAX_VALUES} values", mark=self.locate(self.loader.get_mark()))
            )
        merged: dict[str, Slot] = {}
        for base in reversed(bases):
            merged |= base
        return merged | entries if bases else entries

    def scalar(self, event: yaml.ScalarEvent, mark: Mark) -> Slot:
        """The value of one scalar, by its tag or by YAML's core schema."""
        if _INVISIBLE.search(event.value):
            return self.fail("text with a control character or half a surrogate pair", mark)
        if event.tag not in (None, "!"):
            return self.tagged(event.tag, event.value, mark)
        if event.tag == "!" or not event.implicit[0]:  # `! 1`, '1' and "1" are text
            return Slot(event.value, mark)
        try:
            return Slot(resolve(event.value), mark)
        except ValueError as error:
            return self.fail(error.args[0], mark, error.args[1])

    def tagged(self, tag: str | None, content: object, mark: Mark) -> Slot:
        """The value of ``content`` under ``tag``: a standard YAML tag or one of this project's."""
        if tag is None or tag == "!":
            return Slot.of(content, mark)
        if tag.startswith(_STANDARD):
            return self.standard(tag.removeprefix(_STANDARD), content, mark)
        if trap := _SWALLOWED.match(tag):
            raise ConfigError(_trap(trap, mark))
        name, _, argument = tag.removeprefix("!").partition(":")
        try:
            return Slot.of(build_tag(Raw(name, argument, content, mark)), mark)
        except ConfigError as error:
            return self.report(error.problems, mark)

    def standard(self, name: str, content: object, mark: Mark) -> Slot:
        """YAML's own tags (``!!str``): they may say what a scalar is, never make an object."""
        kind = _KINDS.get(name)
        if kind is None:
            return self.fail(f"unknown tag !!{name}", mark, f"YAML's own tags here are: !!{', !!'.join(_KINDS)}")
        try:
            value = resolve(content) if isinstance(content, str) and kind is not str else content
        except ValueError as error:
            return self.fail(error.args[0], mark, error.args[1])
        value = float(value) if kind is float and type(value) is int else value
        return Slot.of(value, mark) if type(value) is kind else self.fail(f"!!{name}: this is {kind_of(value)}", mark)

    def fail(self, message: str, mark: Mark, hint: str | None = None) -> Slot:
        """Report one problem, and return a slot without a value in its place."""
        return self.report([ConfigProblem(message, mark=mark, hint=hint)], mark)

    def report(self, problems: list[ConfigProblem], mark: Mark) -> Slot:
        """Note the problems, and go on with a value in place of what is wrong."""
        self.problems += problems
        if len(self.problems) > MAX_PROBLEMS:
            del self.problems[MAX_PROBLEMS:]
            raise ConfigError(ConfigProblem(f"more than {MAX_PROBLEMS} problems", mark=mark))
        return Slot(None, mark)


def _trap(match: re.Match[str], mark: Mark) -> ConfigProblem:
    """A tag that took the punctuation behind it for its own."""
    name, target = match[1], match[2]
    written = f"!{name}:{target}" if target else f"!{name}"
    opener = match[0][-1]
    hint = f"write {written} {{}}" if name == "call" else f"put a space behind it: {written} {opener}"
    if opener == "(":
        hint = f"write {written} [...] or {written} {{name: ...}}"
    return ConfigProblem(f"YAML takes the {opener!r} behind {written} for a part of the tag", mark=mark, hint=hint)


def _explain(error: yaml.MarkedYAMLError, text: str, locate: Place) -> ConfigProblem:
    """A YAML error in words for somebody who does not know the parser."""
    start, mark = error.context_mark, error.problem_mark or error.context_mark
    if start and error.context == "while scanning a tag" and (trap := _SWALLOWED.match(text, start.index)):
        return _trap(trap, locate(start))
    said = error.problem or "it ends too early"
    if "'\\t'" in said:
        message, hint = "a tab where YAML wants spaces", "indent with spaces"
    elif "mapping values are not allowed" in said:
        message, hint = "a second ':' in one line, or a wrong indentation", "quote a string that holds ': '"
    elif "cannot start any token" in said:
        message, hint = f"not valid YAML: {said}", "quote a string that starts with it"
    else:
        message, hint = " ".join(filter(None, ("not valid YAML:", said, error.context))), None
    return ConfigProblem(message, mark=locate(mark) if mark else None, hint=hint)
