"""``--set a.b.c=value``: changes a config from the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kd_core.config.syntax.compose import MAX_DEPTH, MAX_VALUES, compose
from kd_core.config.syntax.lazy import Call, CallMethod
from kd_core.config.syntax.tree import Slot, Tagged, as_index, child, dotted, kind_of
from kd_core.errors import ConfigError, ConfigProblem, Mark, did_you_mean


@dataclass(frozen=True)
class Override:
    """One option: set ``path`` to ``value``."""

    path: tuple[str, ...]
    value: Slot

    @property
    def mark(self) -> Mark:
        """The place of the value in the command line."""
        return self.value.mark


def parse_overrides(options: Sequence[str]) -> list[Override]:
    """The options in order; ConfigError with every malformed one."""
    parsed, problems = [], []
    for option in options:
        try:
            parsed.append(_parse(option))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return parsed


def _parse(option: str) -> Override:
    mark = Mark(f"--set {option}")
    name, equals, text = option.partition("=")
    path = tuple(name.strip().split("."))
    example = "write --set stages.distill.epochs=1"
    if not equals:
        raise ConfigError(ConfigProblem("no '=' between a path and a value", mark=mark, hint=example))
    if not all(path):
        raise ConfigError(ConfigProblem(f"an empty name in the path {name.strip()!r}", mark=mark, hint=example))
    if len(path) > MAX_DEPTH:
        raise ConfigError(ConfigProblem(f"a path of {len(path)} names: at most {MAX_DEPTH}", mark=mark))
    if path[0] == "extends":
        raise ConfigError(
            ConfigProblem("extends is read before options are", "extends", mark, "set the values themselves")
        )
    return Override(path, compose(text, lambda _: mark) or Slot(None, mark))


def apply(root: Slot, override: Override) -> Slot:
    """The tree with the value set.

    Plain containers are copied along the path, so that another alias of them keeps its value; a call is
    changed in place, since its aliases are one object. Raises ConfigError where the path leads nowhere.
    """
    _check_indices(root, override)
    changed = _set(root, override, 0)
    if changed.depth > MAX_DEPTH or changed.size > MAX_VALUES:
        raise ConfigError(ConfigProblem("this makes the config too deep or too large", mark=override.mark))
    return changed


def names_new_stage(root: Slot, override: Override) -> bool:
    """Whether a path goes into a stage that the tree does not have, or not yet."""
    stages = child(root.value, "stages")
    known = stages.value if stages is not None and isinstance(stages.value, dict) else {}
    return override.path[0] == "stages" and len(override.path) > 2 and bool(known) and override.path[1] not in known


_INDEX = re.compile(r"([^\[\]]+)\[(-?\d+)\]")


def _check_indices(root: Slot, override: Override) -> None:
    """ConfigError for ``stages[0]`` or ``stages.0``: stages have names, and items of lists are written ``.0``."""
    text = dotted(override.path)
    path = _INDEX.sub(r"\1.\2", text).split(".")
    stages = child(root.value, "stages")
    names = list(stages.value) if stages is not None and isinstance(stages.value, dict) else []
    number = as_index(path[1], len(names)) if path[0] == "stages" and len(path) > 1 and path[1] not in names else None
    if number is not None:
        path[1] = names[number]
    if number is None and names and path[0] == "stages" and len(path) > 2 and path[1] not in names:
        raise _fail(override, "", f"there is no stage {path[1]!r}", did_you_mean(path[1], names))
    if path != list(override.path):
        message = f"{text!r} is not a path: " + ("stages have names" if number is not None else "items are written .0")
        raise _fail(override, "", message, f"did you mean {dotted(path)}?")


def _set(slot: Slot, override: Override, at: int) -> Slot:
    if at == len(override.path):
        return replace(override.value, key=slot.key or override.mark)
    container, key = slot.value, override.path[at]
    below = child(container, key)
    if below is None:
        below = _created(container, override, at)
    changed = _set(below, override, at + 1)
    if isinstance(container, list):
        index = as_index(key, len(container))
        assert index is not None
        copy = [*container[:index], changed, *container[index + 1 :]]
        return Slot.of(copy, slot.mark, slot.key)
    if isinstance(container, Tagged):
        if container.kind is CallMethod and key != "obj" and type(changed.value) is not type(below.value):
            message = f"this must stay {kind_of(below.value)}, not {kind_of(changed.value)}"
            raise _fail(override, dotted(override.path[: at + 1]), message, None)
        container.slots[container.name(key)] = changed
        return Slot.of(container, slot.mark, slot.key)
    return Slot.of({**container, key: changed}, slot.mark, slot.key)


def _created(container: object, override: Override, at: int) -> Slot:
    """A new, empty place for the path's component ``at``; ConfigError where there can be none."""
    key, last = override.path[at], at == len(override.path) - 1
    where = dotted(override.path[:at])
    here = dotted(override.path[: at + 1])
    if isinstance(container, list):
        if as_index(key, 1 << 62) is None:
            raise _fail(override, here, f"{key!r} is not a list index", f"write {where}.0")
        count = f"{len(container)} item{'s' * (len(container) != 1)}"
        raise _fail(override, here, f"there is no item {key}: the list has {count}", None)
    if isinstance(container, Tagged) and container.kind is not Call:
        raise _fail(
            override,
            here,
            f"{kind_of(container)} has no part {key!r}",
            did_you_mean(key, [str(name) for name in container.slots]),
        )
    if not isinstance(container, (dict, Tagged)):
        raise _fail(
            override,
            where,
            f"this is {kind_of(container)}, with nothing inside",
            f"write --set '{where}={{{key}: ...}}'",
        )
    return Slot(None if last else {}, override.mark, override.mark)


def _fail(override: Override, path: str, message: str, hint: str | None) -> ConfigError:
    return ConfigError(ConfigProblem(message, path, override.mark, hint))
