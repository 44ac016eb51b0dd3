"""Lazy values -> objects. Everything is checked and bound before the first call is made."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from kd_core.config.calls.arguments import ArgumentFault, check_arguments, signature_of, split
from kd_core.config.calls.policy import Policy
from kd_core.config.syntax.lazy import Call, CallMethod, Get, GetAttr, Item, Lazy, RunValue, SetAttr, Text
from kd_core.config.syntax.to_data import join
from kd_core.config.syntax.tree import dotted
from kd_core.errors import ConfigError, ConfigProblem, KDError, did_you_mean

T = TypeVar("T")


class Builder:
    """Builds what a config describes.

    ``run_values`` are what ``!run`` stands for, ``log`` gets one line for each object built. A Lazy value met
    twice is built once, for as long as the Builder lives.
    """

    def __init__(
        self, policy: Policy, run_values: Mapping[str, Any] | None = None, log: Callable[[str], None] | None = None
    ) -> None:
        self.policy = policy
        self.run_values = {} if run_values is None else run_values
        self.log = log
        self.run_names: Sequence[str] | None = None
        """The names that ``!run`` may have; None where the task, which says so, is not known."""
        self.built: dict[int, tuple[Lazy, Any]] = {}  # the Lazy too: its id must stay taken

    def check(self, value: Any, supplied_names: Sequence[str] = (), path: str = "") -> list[ConfigProblem]:
        """Locate, judge and bind every call in ``value``; build nothing.

        ``supplied_names`` are arguments that :meth:`build` will be given for the outermost call.
        """
        return list(self._problems(value, supplied_names, path, set()))

    def build(self, value: Any, supplied: Mapping[str, Any] | None = None, path: str = "") -> Any:
        """``value`` with everything lazy in it built.

        ``supplied`` are further arguments of the outermost call, which is then built anew each time: an
        optimiser's ``params``. Raises ConfigError where :meth:`check` finds problems or a call fails.
        """
        if problems := self.check(value, list(supplied or ()), path):
            raise ConfigError(problems)
        if supplied and isinstance(value, Call):
            return self._call(value, supplied, path)
        return self._value(value, path)

    # Checking

    def _problems(self, value: Any, supplied: Sequence[str], path: str, seen: set[int]) -> Iterator[ConfigProblem]:
        if isinstance(value, Lazy):
            if id(value) in seen:
                return
            seen.add(id(value))
            try:
                yield from self._own_problems(value, supplied, path)
            except ConfigError as error:
                yield from error.problems
        for key, part in _parts(value):
            if key == "trust_remote_code" and part not in (False, None):
                mark = value.places.get(key) if isinstance(value, Lazy) else None
                yield ConfigProblem(
                    "trust_remote_code is blocked: it runs code of the model's author", _join(path, key), mark
                )
            yield from self._problems(part, (), _join(path, key), seen)

    def _own_problems(self, lazy: Lazy, supplied: Sequence[str], path: str) -> Iterator[ConfigProblem]:
        """Of the Lazy itself, its parts left out."""
        if isinstance(lazy, Call):
            obj = self.policy.locate(lazy.target, lazy.mark, path)
            self.policy.check_call_allowed(obj, lazy.mark, path, lazy.target)
            yield from (_placed(lazy, fault, path) for fault in check_arguments(lazy, obj, supplied))
            yield from self._download_problems(lazy, obj, path)
        elif isinstance(lazy, Get):
            self.policy.check_get_allowed(
                self.policy.locate(lazy.target, lazy.mark, path), lazy.mark, path, lazy.target
            )
        elif isinstance(lazy, (GetAttr, SetAttr)):
            self.policy.check_name_allowed(lazy.name, lazy.mark, path)
        elif isinstance(lazy, CallMethod):
            self.policy.check_name_allowed(lazy.method, lazy.mark, path)
            yield from self._method_problems(lazy, path)
        elif isinstance(lazy, RunValue) and self.run_names is not None and lazy.name not in self.run_names:
            hint = did_you_mean(lazy.name, self.run_names)
            yield ConfigProblem(f"!run: there is no value {lazy.name!r}", path, lazy.mark, hint)

    def _download_problems(self, call: Call, obj: Any, path: str) -> Iterator[ConfigProblem]:
        """``download: true`` of torchvision's data sets, which unpack whatever they get wherever it says."""
        signature = signature_of(obj)
        if not self.policy.may_not_download(obj, call.target) or signature is None:
            return
        names = list(signature.parameters)
        given = {**dict(zip(names, call.args, strict=False)), **call.kwargs}
        if given.get("download") not in (None, False):
            yield ConfigProblem(
                f"{call.target} is not let download: it unpacks archives without a check of what is in them",
                _join(path, "download"),
                call.places.get("download", call.mark),
                "put its files into `root` by hand and leave `download` out; `data.name` cifar10 and cifar100 download"
                f" verified files; --trust {call.target} allows it, if you trust the server and the way to it",
            )

    def _method_problems(self, lazy: CallMethod, path: str) -> Iterator[ConfigProblem]:
        """Arguments that do not fit, where the class of the object is known before it is built."""
        if not isinstance(lazy.obj, Call):
            return
        try:
            cls = self.policy.locate(lazy.obj.target)
        except ConfigError:
            return  # reported where the object is checked
        method = inspect.getattr_static(cls, lazy.method, None) if isinstance(cls, type) else None
        if inspect.isfunction(method):
            call = Call(f"{cls.__name__}.{lazy.method}", lazy.args, lazy.kwargs)
            for fault in check_arguments(call, method, ("self",)):
                part = () if not fault.where else ("kwargs",) if isinstance(fault.where[0], str) else ("args",)
                yield _placed(lazy, fault, path, part)

    # Building

    def _value(self, value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {key: self._value(item, _join(path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._value(item, _join(path, index)) for index, item in enumerate(value)]
        if not isinstance(value, Lazy):
            return value
        if id(value) not in self.built:
            self.built[id(value)] = value, self._made(value, path)
        return self.built[id(value)][1]

    def _made(self, lazy: Lazy, path: str) -> Any:
        if isinstance(lazy, Call):
            return self._call(lazy, {}, path)
        if isinstance(lazy, Get):
            return self.policy.locate(lazy.target, lazy.mark, path)
        if isinstance(lazy, RunValue):
            return self._run_value(lazy, path)
        parts = {key: self._value(part, _join(path, key)) for key, part in lazy.parts().items()}
        if isinstance(lazy, Text):
            return _guarded(lambda: join(lazy.how, list(parts.values())), f"!{lazy.how}", lazy, path)
        if isinstance(lazy, Item):
            return self._item(lazy, parts["data"], parts["key"], path)
        obj = parts["obj"]
        if isinstance(lazy, SetAttr):
            self.policy.check_set_allowed(obj, lazy.name, lazy.mark, path)
            _guarded(lambda: setattr(obj, lazy.name, parts["value"]), f"setting {lazy.name!r}", lazy, path)
            return obj
        if isinstance(lazy, GetAttr):
            self.policy.check_attribute_allowed(obj, lazy.name, lazy.mark, path)
            default = (parts["default"],) if "default" in parts else ()
            attribute = _guarded(lambda: getattr(obj, lazy.name, *default), f"reading {lazy.name!r}", lazy, path)
            self.policy.check_value_allowed(attribute, lazy.mark, path)
            return attribute
        assert isinstance(lazy, CallMethod)
        return self._call_method(lazy, obj, parts, path)

    def _call(self, call: Call, supplied: Mapping[str, Any], path: str) -> Any:
        target = self.policy.locate(call.target, call.mark, path)
        leading, named = split(signature_of(target), list(supplied))
        args = [*(supplied[name] for name in leading), *self._value(call.args, path)]
        kwargs = self._value(call.kwargs, path) | {name: supplied[name] for name in named}
        result = _guarded(lambda: target(*args, **kwargs), call.target, call, path)
        self.policy.check_names_allowed(result, call.mark, path)
        self._log(call, call.target, path)
        return result

    def _call_method(self, lazy: CallMethod, obj: Any, parts: Mapping[str | int, Any], path: str) -> Any:
        self.policy.check_attribute_allowed(obj, lazy.method, lazy.mark, path)
        name = f"{type(obj).__name__}.{lazy.method}"
        method = _guarded(lambda: getattr(obj, lazy.method), name, lazy, path)
        self.policy.check_value_allowed(method, lazy.mark, path)
        result = _guarded(lambda: method(*parts["args"], **parts["kwargs"]), name, lazy, path)
        self.policy.check_names_allowed(obj, lazy.mark, path)
        self._log(lazy, name, path)
        return obj if lazy.returns_obj else result

    def _item(self, lazy: Item, data: Any, key: Any, path: str) -> Any:
        if not isinstance(data, (dict, list, tuple)):
            self.policy.check_object_allowed(data, lazy.mark, path)
        item = _guarded(lambda: data[key], f"item {key!r}", lazy, path)
        self.policy.check_value_allowed(item, lazy.mark, path)
        return item

    def _run_value(self, lazy: RunValue, path: str) -> Any:
        if lazy.name not in self.run_values:
            names = ", ".join(sorted(self.run_values)) or "nothing"
            raise ConfigError(
                ConfigProblem(f"!run {lazy.name} is not known here", path, lazy.mark, f"known here: {names}")
            )
        return self.run_values[lazy.name]

    def _log(self, lazy: Lazy, subject: str, path: str) -> None:
        if self.log:
            self.log(f"built {path + ': ' if path else ''}{subject}{f' ({lazy.mark})' if lazy.mark else ''}")


def _guarded(action: Callable[[], T], subject: str, lazy: Lazy, path: str) -> T:
    """The result of somebody else's code; what it raises becomes a ConfigError with the place."""
    try:
        return action()
    except (Exception, SystemExit) as error:
        causes = error.problems if isinstance(error, KDError) else [ConfigProblem(f"{type(error).__name__}: {error}")]
        raise ConfigError(
            replace(cause.below(path), message=f"{subject} failed: {cause.message}", mark=cause.mark or lazy.mark)
            for cause in causes
        ) from error


def _parts(value: Any) -> list[tuple[str | int, Any]]:
    if isinstance(value, Lazy):
        return list(value.parts().items())
    if isinstance(value, dict):
        return list(value.items())
    return list(enumerate(value)) if isinstance(value, (list, tuple)) else []


def _placed(lazy: Lazy, fault: ArgumentFault, path: str, inside: tuple[str, ...] = ()) -> ConfigProblem:
    mark = lazy.places.get(fault.where[0], lazy.mark) if fault.where else lazy.mark
    return ConfigProblem(fault.message, dotted([*([path] if path else []), *inside, *fault.where]), mark, fault.hint)


def _join(path: str, key: str | int) -> str:
    return f"{path}.{key}" if path else str(key)
