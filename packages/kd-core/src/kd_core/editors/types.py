"""Python's annotations -> JSON Schema, with ranges and with what a docstring says of a field."""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kd_core.config import Lazy

Json = dict[str, Any]
NAMES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
KEYWORDS = {
    Ge: ("ge", "minimum"),
    Gt: ("gt", "exclusiveMinimum"),
    Le: ("le", "maximum"),
    Lt: ("lt", "exclusiveMaximum"),
}


def any_of(*schemas: Json) -> Json:
    """A value that one of the schemas allows; one that allows everything stands alone."""
    different: list[Json] = []
    for schema in schemas:
        different += [part for part in schema.get("anyOf", [schema]) if part not in different]
    if {} in different:
        return {}
    return different[0] if len(different) == 1 else {"anyOf": different}


def schema_of(annotation: Any) -> Json:
    """The schema of an annotation; of one that JSON Schema cannot say, that of any value."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bounded(schema_of(annotation.__origin__), annotation.__metadata__)
    if origin in (Union, types.UnionType):
        return any_of(*map(schema_of, arguments))
    if origin is Literal:
        return {"enum": list(arguments)}
    if annotation in NAMES:
        return {"type": NAMES[annotation]}
    if origin in (list, tuple, Sequence) or annotation in (list, tuple):
        items = schema_of(arguments[0]) if arguments else {}
        return {"type": "array", **({"items": items} if items else {})}
    if origin in (dict, Mapping) or annotation is dict:
        values = schema_of(arguments[1]) if len(arguments) == 2 else {}
        return {"type": "object", **({"additionalProperties": values} if values else {})}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return model_schema(annotation)
    return {}


def _bounded(schema: Json, metadata: Sequence[Any]) -> Json:
    """A schema with the bounds of an annotation, pydantic's ``Field`` among them."""
    limits: Json = {}
    for item in metadata:
        for part in item.metadata if isinstance(item, FieldInfo) else [item]:
            limits |= _limits(part, schema)
    if "anyOf" in schema:
        return {"anyOf": [{**part, **limits} if part.get("type") != "null" else part for part in schema["anyOf"]]}
    return {**schema, **limits} if schema else {}


def _limits(part: Any, schema: Json) -> Json:
    if isinstance(part, Interval):
        ends = {Ge: part.ge, Gt: part.gt, Le: part.le, Lt: part.lt}
        return {KEYWORDS[kind][1]: value for kind, value in ends.items() if value is not None}
    for kind, (name, keyword) in KEYWORDS.items():
        if isinstance(part, kind) and abs(getattr(part, name)) < 2**31:
            return {keyword: getattr(part, name)}
    counts = "Items" if schema.get("type") == "array" else "Length" if schema.get("type") == "string" else "Properties"
    if isinstance(part, MinLen):
        return {f"min{counts}": part.min_length}
    if isinstance(part, MaxLen):
        return {f"max{counts}": part.max_length}
    pattern = getattr(part, "pattern", None)
    return {"pattern": pattern} if isinstance(pattern, str) else {}


def annotation_of(field: FieldInfo) -> Any:
    """A field's annotation with its bounds, which pydantic keeps apart."""
    annotation: Any = field.annotation
    parts = (annotation, *field.metadata)
    return cast(Any, Annotated)[parts] if field.metadata else annotation


def takes_call(annotation: Any) -> bool:
    """Whether a value may be a ``!call``, whose arguments an editor sees in its place."""
    if isinstance(annotation, type):
        return issubclass(annotation, Lazy)
    return any(map(takes_call, get_args(annotation)))


def model_schema(model: type[BaseModel]) -> Json:
    """The schema of a mapping with the fields of a pydantic model; unknown keys as the model has it. None is required:
    a config may be a part of another one."""
    meanings = docstrings(model)
    properties = {
        name: described({} if takes_call(annotation_of(field)) else schema_of(annotation_of(field)), meanings.get(name))
        for name, field in model.model_fields.items()
    }
    schema: Json = {"type": "object", "properties": properties}
    if model.model_config.get("extra") == "forbid":
        schema["additionalProperties"] = False
    return schema


def described(schema: Json, text: str | None) -> Json:
    """A schema with what it means."""
    return {**schema, "description": " ".join(text.replace("``", "`").split())} if text else schema


def docstrings(schema: type[BaseModel]) -> dict[str, str]:
    """The docstrings below the fields of a class and of those it inherits from, each in one line."""
    texts: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if base is not BaseModel and issubclass(base, BaseModel):
            texts |= _docstrings(base)
    return texts


@cache
def _docstrings(schema: type[BaseModel]) -> dict[str, str]:
    """Those of a class alone."""
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(schema))).body
    except (OSError, TypeError):  # made by pydantic, with the options of a data set
        return {name: field.description for name, field in schema.model_fields.items() if field.description}
    assert isinstance(definition, ast.ClassDef)
    texts = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            texts[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return texts
