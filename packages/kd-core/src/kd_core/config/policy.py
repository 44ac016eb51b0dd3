"""What a config may name."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, TypeVar

from kd_core.errors import ConfigError, Mark, Problem

T = TypeVar("T")


def allow(item: T) -> T:
    return item


def allow_package(name: str) -> None:
    pass


class Policy:
    def __init__(self, trust: Sequence[str] = ()) -> None:
        self.trust = tuple(trust)

    def locate(self, target: str, mark: Mark | None = None, path: str = "") -> Any:
        module, _, name = target.rpartition(".")
        try:
            return getattr(importlib.import_module(module), name)
        except Exception as error:
            raise ConfigError(Problem(f"{target}: {error}", path, mark)) from None

    def judge_call(self, obj: Any, mark: Mark | None = None, path: str = "") -> None:
        pass

    def judge_get(self, obj: Any, mark: Mark | None = None, path: str = "") -> None:
        pass
