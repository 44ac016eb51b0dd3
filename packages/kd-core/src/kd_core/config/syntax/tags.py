"""The tags of a config, in their short and long spellings; both give the same object."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from kd_core.config.syntax.lazy import RUN_NAMES, Call, CallMethod, Get, GetAttr, Item, RunValue, SetAttr, Text
from kd_core.config.syntax.tree import Slot, Tagged, kind_of
from kd_core.errors import ConfigError, ConfigProblem, Mark, did_you_mean, nearest

DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class Raw:
    """A tag as written: ``!name:argument`` and what stands behind it (text, ``list[Slot]`` or ``dict[str, Slot]``)."""

    name: str
    argument: str
    content: Any
    mark: Mark

    def fail(self, message: str, hint: str | None = None, mark: Mark | None = None) -> NoReturn:
        """Raise a ConfigError that names this tag, at ``mark`` or at the tag itself."""
        raise ConfigError(ConfigProblem(f"!{self.name}: {message}", mark=mark or self.mark, hint=hint))

    def target(self, text: Any, mark: Mark | None = None) -> str:
        """``text``, known to be a dotted path."""
        if not (isinstance(text, str) and DOTTED.fullmatch(text)):
            self.fail(f"{text!r} is not a dotted path", "write one such as torch.nn.ReLU", mark)
        return text

    def fields(self, required: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Slot]:
        """The content as a mapping with these keys."""
        keys = [*required, *optional]
        if not isinstance(self.content, dict):
            self.fail(f"takes a mapping with {', '.join(keys)}, not {kind_of(self.content)}")
        problems = [
            ConfigProblem(f"!{self.name}: there is no key {key!r}", mark=slot.key, hint=did_you_mean(key, keys))
            for key, slot in self.content.items()
            if key not in keys
        ]
        missing = [key for key in required if key not in self.content]
        if missing:
            problems.append(ConfigProblem(f"!{self.name}: {' and '.join(missing)} missing", mark=self.mark))
        if problems:
            raise ConfigError(problems)
        return self.content

    def items(self, spelling: str, least: int, most: int) -> list[Slot]:
        """The content as a list of ``least`` to ``most`` items."""
        if not isinstance(self.content, list) or not least <= len(self.content) <= most:
            shown = (
                f"{len(self.content)} item{'s' * (len(self.content) != 1)}"
                if isinstance(self.content, list)
                else kind_of(self.content)
            )
            self.fail(f"takes {spelling}, not {shown}")
        return self.content


def build_tag(raw: Raw) -> Tagged:
    """The inert object of a tag; ConfigError where it is unknown or wrongly used."""
    makers = _WITH_ARGUMENT if raw.argument else _PLAIN
    if maker := makers.get(raw.name):
        return maker(raw)
    if raw.name in _WITH_ARGUMENT:
        raw.fail("names its target behind a colon", f"write !{raw.name}:{_example(raw)}")
    if raw.name in _PLAIN:
        raw.fail(f"takes nothing behind a colon, not {raw.argument!r}", _SHORT.get(raw.name))
    tag_names = sorted({*_WITH_ARGUMENT, *_PLAIN})
    near = nearest(raw.name, tag_names)
    hint = f"did you mean !{near}?" if near else f"tags are: !{', !'.join(tag_names)}"
    raise ConfigError(ConfigProblem(f"unknown tag !{raw.name}", mark=raw.mark, hint=hint))


def _example(raw: Raw) -> str:
    target = raw.content if isinstance(raw.content, str) and DOTTED.fullmatch(raw.content) else "torch.nn.ReLU"
    return f"{target} {{}}" if raw.name == "call" else target


def _call(raw: Raw) -> Tagged:
    return _called(raw, raw.target(raw.argument), raw.content)


def _called(raw: Raw, target: str, content: Any) -> Tagged:
    if isinstance(content, str) and content:
        message = "takes a mapping of keyword arguments or a list of positional ones"
        raw.fail(message, f"write !call:{target} [{content}]")
    return _called_with(
        target, content if isinstance(content, list) else [], content if isinstance(content, dict) else {}
    )


def _import_call(raw: Raw) -> Tagged:
    return _initialised(raw, _target(raw, raw.fields(["key"], ["package", "init"]), ["package", "key"]))


def _import_call_method(raw: Raw) -> Tagged:
    fields = raw.fields(["package", "method_name"], ["class_name", "init"])
    return _initialised(raw, _target(raw, fields, ["package", "class_name", "method_name"]))


def _target(raw: Raw, fields: dict[str, Slot], names: Sequence[str]) -> str:
    """The fields of these names joined; null stands for none, except for the last."""
    slots = [fields[name] for name in names if name == names[-1] or (name in fields and fields[name].value is not None)]
    return ".".join(raw.target(slot.value, slot.mark) for slot in slots)


def _initialised(raw: Raw, target: str) -> Tagged:
    init = raw.content.get("init")
    if init is None or init.value is None:
        return Tagged(Call, {"target": target}, {})
    fields = Raw(f"{raw.name}: init", "", init.value, init.mark).fields([], ["args", "kwargs"])
    return _called_with(target, _list(raw, fields.get("args")), _mapping(raw, fields.get("kwargs")))


def _called_with(target: str, args: list[Slot], kwargs: dict[str, Slot]) -> Tagged:
    slots: dict[str | int, Slot] = dict(enumerate(args))
    slots.update(kwargs)
    return Tagged(Call, {"target": target}, slots)


def _list(raw: Raw, slot: Slot | None) -> list[Slot]:
    """The ``args`` of a long form; null stands for none."""
    if slot is None or slot.value is None:
        return []
    if not isinstance(slot.value, list):
        raw.fail(f"args must be a list, not {kind_of(slot.value)}", mark=slot.mark)
    return slot.value


def _mapping(raw: Raw, slot: Slot | None) -> dict[str, Slot]:
    """The ``kwargs`` of a long form; null stands for none."""
    if slot is None or slot.value is None:
        return {}
    if not isinstance(slot.value, dict):
        raw.fail(f"kwargs must be a mapping, not {kind_of(slot.value)}", mark=slot.mark)
    return slot.value


def _get(raw: Raw) -> Tagged:
    if raw.content != "":
        raw.fail("takes nothing but its target", f"write !get:{raw.argument}, and !call:{raw.argument} to call it")
    return Tagged(Get, {"target": raw.target(raw.argument)}, {})


def _import_get(raw: Raw) -> Tagged:
    return Tagged(Get, {"target": _target(raw, raw.fields(["key"], ["package"]), ["package", "key"])}, {})


def _run(raw: Raw) -> Tagged:
    if not isinstance(raw.content, str):
        raw.fail(f"takes a name, not {kind_of(raw.content)}", f"write !run {RUN_NAMES[0]}")
    return Tagged(RunValue, {"name": raw.content}, {})


def _text(raw: Raw) -> Tagged:
    if raw.name in ("join", "pathjoin"):
        items = raw.items("a list of texts and numbers", 0 if raw.name == "join" else 1, 1000)
        for item in items:
            if item.value is None or isinstance(item.value, (bool, list, dict)):
                hint = "a bare ~ is null, quote it: '~'" if item.value is None else None
                raw.fail(f"joins texts and numbers, not {kind_of(item.value)}", hint, item.mark)
        return Tagged(Text, {"how": raw.name}, dict(enumerate(items)))
    if not isinstance(raw.content, str) or not raw.content:
        raw.fail(f"takes a path, not {kind_of(raw.content) if raw.content else 'nothing'}")
    return Tagged(Text, {"how": raw.name}, {0: Slot(raw.content, raw.mark)})


def _name(raw: Raw, name: Any, mark: Mark | None = None) -> str:
    if not (isinstance(name, str) and name.isidentifier()):
        raw.fail(
            f"{name!r} is not a name" if isinstance(name, str) else f"the name must be a string, not {kind_of(name)}",
            mark=mark,
        )
    return name


def _getattr(raw: Raw) -> Tagged:
    if raw.argument:
        obj, *default = raw.items("[object] or [object, default]", 1, 2)
        name = _name(raw, raw.argument)
    else:
        obj, named, *default = raw.items("[object, name] or [object, name, default]", 2, 3)
        name = _name(raw, named.value, named.mark)
    return Tagged(GetAttr, {"name": name}, {"obj": obj, **({"default": default[0]} if default else {})})


def _setattr(raw: Raw) -> Tagged:
    if raw.argument:
        obj, value = raw.items("[object, value]", 2, 2)
        name = _name(raw, raw.argument)
    else:
        obj, named, value = raw.items("[object, name, value]", 3, 3)
        name = _name(raw, named.value, named.mark)
    return Tagged(SetAttr, {"name": name}, {"obj": obj, "value": value})


def _item(raw: Raw) -> Tagged:
    if raw.name == "item":
        data, key = raw.items("[data, index or key]", 2, 2)
    else:
        fields = raw.fields(["data", "index_or_key"])
        data, key = fields["data"], fields["index_or_key"]
    return Tagged(Item, {}, {"data": data, "key": key})


def _call_method(raw: Raw) -> Tagged:
    named = [] if raw.argument else ["method_name"]
    fields = raw.fields(["obj", *named], ["args", "kwargs", "returns_obj"])
    method = (
        _name(raw, raw.argument)
        if raw.argument
        else _name(raw, fields["method_name"].value, fields["method_name"].mark)
    )
    returns = fields.get("returns_obj")
    if returns and not isinstance(returns.value, bool):
        raw.fail("returns_obj must be true or false", mark=returns.mark)
    slots: dict[str | int, Slot] = {"obj": fields["obj"]}
    for part, value in (("args", _list(raw, fields.get("args"))), ("kwargs", _mapping(raw, fields.get("kwargs")))):
        slots[part] = Slot.of(value, fields[part].mark if part in fields else raw.mark)
    return Tagged(CallMethod, {"method": method, "returns_obj": bool(returns and returns.value)}, slots)


_Maker = Callable[[Raw], Tagged]
_WITH_ARGUMENT: dict[str, _Maker] = {
    "call": _call,
    "get": _get,
    "getattr": _getattr,
    "setattr": _setattr,
    "call_method": _call_method,
}
_PLAIN: dict[str, _Maker] = {
    "import_call": _import_call,
    "import_call_method": _import_call_method,
    "import_get": _import_get,
    "run": _run,
    "join": _text,
    "pathjoin": _text,
    "expanduser": _text,
    "abspath": _text,
    "getattr": _getattr,
    "setattr": _setattr,
    "item": _item,
    "access_by_index_or_key": _item,
    "call_method": _call_method,
}
_SHORT = {
    "import_call": "write !call:dotted.path {...}",
    "import_call_method": "write !call:dotted.path.Class.method {...}",
    "import_get": "write !get:dotted.path",
    "run": f"write !run {RUN_NAMES[0]}",
}
