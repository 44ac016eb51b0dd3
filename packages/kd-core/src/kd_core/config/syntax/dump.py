"""Data -> YAML that reads back as the same data."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from typing import Any

import yaml
from yaml.emitter import Emitter

from kd_core.config.syntax.lazy import Call, CallMethod, Get, GetAttr, Item, Lazy, RunValue, SetAttr, Text
from kd_core.config.syntax.scalars import resolve

_SIMPLE = re.compile(r"[A-Za-z_/.~][\w./@+-]*(?: [\w./@+-]+)*", re.ASCII)
_ELSEWHERE = re.compile("y|yes|n|no|on|off", re.IGNORECASE)
"""Text to us, a boolean to other readers of YAML: quoted for their sake."""
_SHORT = 8
"""Lists and mappings of so many scalars stay on one line."""


def dump(data: Any) -> str:
    """YAML in the tags' short spelling, for which ``loads(dump(x)).data == x``. A call named twice gets an anchor."""
    shared = Counter[int]()
    _count(data, shared)
    writer = _Writer({key for key, times in shared.items() if times > 1})
    writer.add(data)
    events = [
        yaml.StreamStartEvent(),
        yaml.DocumentStartEvent(),
        *writer.events,
        yaml.DocumentEndEvent(),
        yaml.StreamEndEvent(),
    ]
    text = io.StringIO()
    emitter = _Emitter(text, allow_unicode=True, width=120)
    for event in events:
        emitter.emit(event)
    return text.getvalue()


class _Emitter(Emitter):
    """Leaves the quotes off the text behind a tag (``!run steps``) where none are needed."""

    def choose_scalar_style(self) -> str:
        """The style of the scalar at hand: plain behind a tag, else PyYAML's choice."""
        event = self.event
        if isinstance(event, yaml.ScalarEvent) and event.tag and event.style is None:
            return ""
        return super().choose_scalar_style()


def _count(value: Any, shared: Counter[int]) -> None:
    if isinstance(value, Lazy):
        shared[id(value)] += 1
        if shared[id(value)] > 1:
            return
        value = value.parts()
    below = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for item in below:
        _count(item, shared)


class _Writer:
    def __init__(self, shared: set[int]) -> None:
        self.shared = shared
        self.anchors: dict[int, str] = {}
        self.events: list[yaml.Event] = []

    def add(self, value: Any) -> None:
        """Append the events of a value; a repeated call becomes an alias of the first one."""
        if not isinstance(value, Lazy):
            self.content(value)
        elif id(value) in self.anchors:
            self.events.append(yaml.AliasEvent(self.anchors[id(value)]))
        else:
            anchor = None
            if id(value) in self.shared:
                anchor = self.anchors[id(value)] = f"id{len(self.anchors) + 1}"
            tag, content = spelled(value)
            self.content(content, tag, anchor)

    def content(self, value: Any, tag: str | None = None, anchor: str | None = None) -> None:
        """Append the events of a value under an optional tag and anchor."""
        flow = _is_short(value)
        if isinstance(value, dict):
            self.events.append(yaml.MappingStartEvent(anchor, tag, tag is None, flow_style=flow))
            for key, item in value.items():
                self.scalar(key, None, None)
                self.add(item)
            self.events.append(yaml.MappingEndEvent())
        elif isinstance(value, (list, tuple)):
            self.events.append(yaml.SequenceStartEvent(anchor, tag, tag is None, flow_style=flow))
            for item in value:
                self.add(item)
            self.events.append(yaml.SequenceEndEvent())
        else:
            self.scalar(value, tag, anchor)

    def scalar(self, value: Any, tag: str | None, anchor: str | None) -> None:
        """Append the event of one scalar under an optional tag and anchor."""
        text, style = ("", None) if tag and value == "" else _spelling(value)
        if tag:
            self.events.append(yaml.ScalarEvent(anchor, tag, (False, False), text, style=style))
        else:
            self.events.append(yaml.ScalarEvent(anchor, None, (True, True), text, style=style))


def _is_short(value: Any) -> bool:
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
    return len(items) <= _SHORT and not any(isinstance(item, (dict, list, tuple, Lazy)) for item in items)


def _spelling(value: Any) -> tuple[str, str | None]:
    """The text of a scalar and the quotes it needs."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value], None
    if isinstance(value, int):
        return str(int(value)), None
    if isinstance(value, float):
        special = ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
        return (repr(float(value)) if math.isfinite(value) else special), None
    if not isinstance(value, str):
        raise TypeError(f"a config cannot hold {type(value).__name__}")
    try:
        as_is = bool(_SIMPLE.fullmatch(value)) and not _ELSEWHERE.fullmatch(value) and resolve(value) == value
    except ValueError:
        as_is = False
    return value, None if as_is else "'" if value.isascii() and value.isprintable() else '"'


def spelled(lazy: Lazy) -> tuple[str, Any]:
    """The short tag of a Lazy value and what stands behind it."""
    if isinstance(lazy, Call):
        if lazy.args and lazy.kwargs:
            return "!import_call", {"key": lazy.target, "init": {"args": lazy.args, "kwargs": lazy.kwargs}}
        return f"!call:{lazy.target}", lazy.args or lazy.kwargs
    if isinstance(lazy, Get):
        return f"!get:{lazy.target}", ""
    if isinstance(lazy, RunValue):
        return "!run", lazy.name
    if isinstance(lazy, GetAttr):
        return f"!getattr:{lazy.name}", list(lazy.parts().values())
    if isinstance(lazy, SetAttr):
        return f"!setattr:{lazy.name}", [lazy.obj, lazy.value]
    if isinstance(lazy, Item):
        return "!item", [lazy.data, lazy.key]
    if isinstance(lazy, CallMethod):
        fields = {"obj": lazy.obj, "args": lazy.args, "kwargs": lazy.kwargs, "returns_obj": lazy.returns_obj}
        return f"!call_method:{lazy.method}", {key: value for key, value in fields.items() if key == "obj" or value}
    assert isinstance(lazy, Text)
    return f"!{lazy.how}", lazy.items if lazy.how in ("join", "pathjoin") else lazy.items[0]
