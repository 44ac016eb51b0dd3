"""Configs: YAML with a place for every value, inert until somebody says build."""

from kd_core.config.allowed import allow, allow_package
from kd_core.config.bind import Fault, bind
from kd_core.config.build import Builder
from kd_core.config.document import Document
from kd_core.config.dump import dump
from kd_core.config.lazy import RUN_NAMES, Call, CallMethod, Get, GetAttr, Item, Lazy, Run, SetAttr, Text
from kd_core.config.load import load, loads
from kd_core.config.policy import Policy

__all__ = [
    "RUN_NAMES",
    "Builder",
    "Call",
    "CallMethod",
    "Document",
    "Fault",
    "Get",
    "GetAttr",
    "Item",
    "Lazy",
    "Policy",
    "Run",
    "SetAttr",
    "Text",
    "allow",
    "allow_package",
    "bind",
    "dump",
    "load",
    "loads",
]
