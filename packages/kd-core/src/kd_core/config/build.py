"""Lazy values -> objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kd_core.config.bind import bind, signature_of, split
from kd_core.config.lazy import Call, Get, Lazy, Run
from kd_core.config.policy import Policy
from kd_core.errors import ConfigError, Problem


class Builder:
    def __init__(self, policy: Policy, run_values: Mapping[str, Any] | None = None, log: Callable[[str], None] | None = None) -> None:
        self.policy = policy
        self.run_values = run_values or {}
        self.log = log or (lambda line: None)
        self.built: dict[int, tuple[Lazy, Any]] = {}

    def build(self, value: Any, supplied: Mapping[str, Any] | None = None, path: str = "") -> Any:
        if isinstance(value, dict):
            return {key: self.build(item, None, f"{path}.{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [self.build(item, None, f"{path}.{key}") for key, item in enumerate(value)]
        if not isinstance(value, Lazy):
            return value
        if id(value) in self.built and not supplied:
            return self.built[id(value)][1]
        made = self._make(value, supplied or {}, path)
        self.built[id(value)] = (value, made)
        return made

    def _make(self, value: Lazy, supplied: Mapping[str, Any], path: str) -> Any:
        if isinstance(value, Run):
            return self.run_values[value.name]
        if isinstance(value, Get):
            return self.policy.locate(value.target, value.mark, path)
        assert isinstance(value, Call)
        target = self.policy.locate(value.target, value.mark, path)
        leading, named = split(signature_of(target), list(supplied))
        args, kwargs = self.build(value.args, None, path), self.build(value.kwargs, None, path)
        try:
            return target(*(supplied[n] for n in leading), *args, **{n: supplied[n] for n in named}, **kwargs)
        except Exception as error:
            raise ConfigError(Problem(f"{value.target} failed: {type(error).__name__}: {error}", path, value.mark)) from error

    def check(self, value: Any, supplied_names: Sequence[str] = (), path: str = "") -> list[Problem]:
        if isinstance(value, Call):
            target = self.policy.locate(value.target, value.mark, path)
            return [Problem(f.message, ".".join((path, *map(str, f.where))), value.mark, f.hint) for f in bind(value, target, supplied_names)]
        return []
