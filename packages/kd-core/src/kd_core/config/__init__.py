"""Configs: YAML with a place for every value, inert until somebody says build."""

from kd_core.config.calls.allowed import allow, allow_package
from kd_core.config.calls.arguments import ArgumentFault, check_arguments
from kd_core.config.calls.builder import Builder
from kd_core.config.calls.policy import Policy
from kd_core.config.syntax.document import Document
from kd_core.config.syntax.dump import dump
from kd_core.config.syntax.lazy import (
    RUN_NAMES,
    Call,
    CallMethod,
    Get,
    GetAttr,
    Item,
    Lazy,
    RunValue,
    SetAttr,
    Text,
    changed,
    has_call,
)
from kd_core.config.syntax.load import load, loads
from kd_core.config.syntax.paths import with_absolute_paths

__all__ = [
    "RUN_NAMES",
    "ArgumentFault",
    "Builder",
    "Call",
    "CallMethod",
    "Document",
    "Get",
    "GetAttr",
    "Item",
    "Lazy",
    "Policy",
    "RunValue",
    "SetAttr",
    "Text",
    "allow",
    "allow_package",
    "changed",
    "check_arguments",
    "dump",
    "has_call",
    "load",
    "loads",
    "with_absolute_paths",
]
