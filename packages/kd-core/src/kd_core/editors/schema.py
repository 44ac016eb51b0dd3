"""The JSON Schema of a config, from the registries: what an editor completes, explains and underlines.

An editor sees what stands behind a tag, and not the tag: of ``!call:torch.optim.SGD {lr: 0.1}`` the mapping. A config
that extends another one is a part of it, so that no key is required.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from pydantic import BaseModel

from kd_core.adapters import ADAPTERS
from kd_core.config.kinds import STUDY_KEYS
from kd_core.config.runtime import RuntimeSpec
from kd_core.config.schema import (
    AdapterSpec,
    ExperimentSpec,
    ModelSpec,
    OptimizerSpec,
    SchedulerSpec,
    StageSpec,
    TermSpec,
)
from kd_core.config.syntax.lazy import RUN_NAMES
from kd_core.config.syntax.methods import METHODS
from kd_core.data.views import VIEWS
from kd_core.editors.types import Json, any_of, described, model_schema, schema_of
from kd_core.losses import LOSSES, loss_signature
from kd_core.models.registry import MODELS, ZOOS
from kd_core.observers import OBSERVERS
from kd_core.registry import Registry
from kd_core.signatures import values_of
from kd_core.task import TASKS

DRAFT = "http://json-schema.org/draft-07/schema#"
WIRE: Json = {"type": "string", "pattern": r"^[A-Za-z_]\w*(\.\S+)?$"}
"""``MODEL.path`` and its like. A wire that is a model's name alone is an adapter's whole output or a list of models."""
ROOTS = ("student.output", "teacher.output", "student.@features", "teacher.@features", "batch.target", "batch.mask")
WIRES: Json = {
    **any_of(WIRE, {"type": "array", "items": any_of(WIRE, {"type": "array", "items": WIRE})}, {"type": "null"}),
    "examples": [*ROOTS],
}
A_WIRE: Json = {"$ref": "#/definitions/wires"}
PATTERNS: Json = {"type": "array", "items": {"type": "string"}}


def config_schema(tasks: Sequence[str], study: type[BaseModel] | None = None) -> Json:
    """The schema of configs of these tasks, and of the files of ``study``, which name one."""
    known = [TASKS.get(name) for name in tasks]
    run_values = sorted({*RUN_NAMES, *(name for task in known for name in task.run_values)})
    definitions = {
        "wires": WIRES,
        "run_value": {"enum": run_values, "description": "!run NAME"},
        "term": _term(),
        "adapter": _adapter(),
        "model": _model(known),
        "method": _method(),
        "stage": _stage(known),
    }
    model = {"$ref": "#/definitions/model"}
    root = model_schema(ExperimentSpec)
    root["properties"] |= {
        "extends": {"description": "A file, or a list of files, that this one builds on.", **_texts()},
        "task": described({"type": "string", "examples": [*tasks]}, "A registered task."),
        "models": _named(any_of(model, _list(model), {"type": "null"})),
        "adapters": _named(any_of({"$ref": "#/definitions/adapter"}, {"type": "null"})),
        "stages": _named(any_of({"$ref": "#/definitions/stage"}, {"type": "null"})),
        "data": _data(known),
        "runtime": any_of({"enum": ["default", "fast"]}, model_schema(RuntimeSpec)),
        "observers": _registered_mapping(OBSERVERS),
    }
    whole: Json = {"$schema": DRAFT, "title": "A config of knowledge distillation", "definitions": definitions}
    if study is None:
        return {**whole, **root}
    kinds = [{"required": [key]} for key in sorted(STUDY_KEYS)]
    return {**whole, "if": {"anyOf": kinds}, "then": model_schema(study), "else": root}


def _texts() -> Json:
    return any_of({"type": "string"}, {"type": "array", "items": {"type": "string"}})


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def _named(values: Json) -> Json:
    """A mapping whose keys the user chooses."""
    return {"type": "object", "additionalProperties": values}


def _value(parameter: inspect.Parameter, *, scheduled: bool = False) -> Json:
    """A hyperparameter: as its annotation says, or a value of the run; a number of a loss may follow a schedule."""
    schema = schema_of(parameter.annotation)
    if not schema:
        return {}
    others: list[Json] = []
    if "string" not in str(schema):
        others.append({"$ref": "#/definitions/run_value"})
    if scheduled and "number" in str(schema):
        others.append({"type": "object", "required": ["schedule"]})
    without = parameter.default is parameter.empty or parameter.default is None
    return {**any_of(schema, *others), **({} if without else {"default": parameter.default})}


def _first_line(item: object) -> str:
    return (inspect.getdoc(item) or "").partition("\n")[0]


def _choice(registry: Registry[Any]) -> Json:
    """The names of a registry, each with what it is; further ones, of plug-ins and paths, are allowed."""
    known = [{"const": name, "description": _first_line(registry.get(name))} for name in registry.names()]
    return {"anyOf": [*known, {"type": "string"}, {"type": ["object", "array", "null"]}]}


def _by_name(key: str, common: Json, own: Mapping[str, Json]) -> Json:
    """A mapping whose keys depend on the name at ``key``. Without a name it may have the keys of all."""
    shared = dict.fromkeys(common["properties"], True)
    cases = [
        {
            "if": {"properties": {key: {"const": name}}, "required": [key]},
            "then": {"properties": {**shared, **values}, "additionalProperties": False},
        }
        for name, values in own.items()
    ]
    known = sorted({name for values in own.values() for name in values})
    nameless = {"properties": dict.fromkeys([*common["properties"], *known], True), "additionalProperties": False}
    nameless_case = {"if": {"not": {"required": [key]}}, "then": nameless}
    return {"type": "object", "properties": common["properties"], "allOf": [*cases, nameless_case]}


def _term() -> Json:
    """An entry of a stage's ``losses``."""
    common = model_schema(TermSpec)
    common["properties"]["loss"] = described(_choice(LOSSES), "A registered loss, or a !call of one of torch.")
    own = {}
    for name in LOSSES.names():
        loss = LOSSES.get(name)
        wires = dict.fromkeys(loss_signature(loss).wires, A_WIRE)
        values = {key: _value(value, scheduled=True) for key, value in values_of(loss).items()}
        own[name] = {**wires, **values}
    return any_of(_by_name("loss", common, own), {"type": "null"})


def _adapter() -> Json:
    common = model_schema(AdapterSpec)
    common["properties"]["module"] = described(_choice(ADAPTERS), "A registered adapter, a !call, or a model's module.")
    common["properties"]["inputs"] = any_of(A_WIRE, {"type": "object", "additionalProperties": A_WIRE})
    common["properties"]["match"] = A_WIRE
    own = {
        name: {key: _value(value) for key, value in values_of(ADAPTERS.get(name)).items()} for name in ADAPTERS.names()
    }
    return _by_name("module", common, own)


def _model(tasks: Iterable[Any]) -> Json:
    """A model, with the parameters of all architectures, or a !call, of which the arguments are seen."""
    schema = model_schema(ModelSpec)
    schema["properties"]["arch"] = described(_names(MODELS), "A registered architecture.")
    zoo = {"type": ["string", "null"], "examples": _zoo()}
    schema["properties"]["zoo"] = described(zoo, "Published weights by name.")
    schema["properties"]["input"] = _union([model_schema(task.Input) for task in tasks])
    schema["properties"]["pretrained"] = {"type": "boolean"}
    for name in MODELS.names():
        for key, value in values_of(MODELS.get(name)).items():
            before = schema["properties"].get(key)
            own = _value(value)
            schema["properties"][key] = own if before is None or before == own else any_of(_bare(before), _bare(own))
    classes: list[Json] = [{"type": "integer", "minimum": 0}, {"enum": [*RUN_NAMES, "num_classes"]}]
    schema["properties"]["num_classes"] = any_of(*classes)  # timm's feature extractors have none
    return any_of(schema, {"type": "array"})


def _bare(schema: Json) -> Json:
    return {key: value for key, value in schema.items() if key not in ("description", "default")}


def _names(registry: Registry[Any]) -> Json:
    return {"anyOf": [{"enum": list(registry.names())}, {"type": ["string", "null"]}]}


def _zoo() -> list[str]:
    found: list[str] = []
    for name in ZOOS.names():
        found += ZOOS.get(name).names()
    return found


def _stage(tasks: Sequence[Any]) -> Json:
    schema = model_schema(StageSpec)
    method = {"$ref": "#/definitions/method"}
    schema["properties"] |= {
        "method": described(
            any_of(method, {"type": "null"}), "A method by name, or a mapping of it and its parameters."
        ),
        "methods": _list(method),
        "losses": described(_named({"$ref": "#/definitions/term"}), "The terms of the objective by name."),
        "optimizer": described(_optimizer(), "The optimizer, a !call, or a mapping with parameter groups."),
        "scheduler": described(_scheduler(), "The scheduler, a !call, or a mapping."),
        "data": any_of(_data(tasks), {"type": "null"}),
        "views": any_of(_registered("view", VIEWS), {"type": "string"}, {"type": "null"}),
    }
    return _nullable(schema)


def _nullable(schema: Json) -> Json:
    """The mapping with null allowed for each key, which takes a base's value away."""
    for key, value in schema["properties"].items():
        text = {"description": value["description"]} if "description" in value else {}
        bare = {name: part for name, part in value.items() if name != "description"}
        schema["properties"][key] = {**any_of(bare, {"type": "null"}), **text} if bare else value
    return schema


def _method() -> Json:
    """A method by its name, or with its parameters."""
    presets = {name: METHODS.get(name) for name in METHODS.names()}
    names = [{"const": name, "description": preset.__doc__} for name, preset in presets.items()]
    own: dict[str, Json] = {name: {key: {} for key in preset.options} for name, preset in presets.items()}
    common = {"properties": {"method": {"anyOf": [*names, {"type": "string"}]}}}
    return {"anyOf": [*names, {"type": "string", "pattern": r"[./]"}, _by_name("method", common, own)]}


def _registered(key: str, registry: Registry[Any]) -> Json:
    own = {
        name: {value: _value(parameter) for value, parameter in values_of(registry.get(name)).items()}
        for name in registry.names()
    }
    return _by_name(key, {"properties": {key: _choice(registry)}}, own)


def _registered_mapping(registry: Registry[Any]) -> Json:
    """``{NAME: {its values}}``."""
    properties = {}
    for name in registry.names():
        values = {key: _value(value) for key, value in values_of(registry.get(name)).items()}
        one = {"type": ["object", "null"], "properties": values, "description": _first_line(registry.get(name))}
        properties[name] = one
    return {"type": "object", "properties": properties}


def _arguments(module: str, base: str, left_out: Sequence[str]) -> Json:
    """The arguments of all classes of a module of torch, which stand behind ``!call:``."""
    import importlib

    library = importlib.import_module(module)
    kind: type[Any] = getattr(library, base)
    properties: Json = {}
    for name, item in vars(library).items():
        if inspect.isclass(item) and issubclass(item, kind) and not name.startswith("_"):
            for key in list(inspect.signature(item.__init__).parameters)[1:]:
                if key not in left_out:
                    properties.setdefault(key, {})
    return properties


def _optimizer() -> Json:
    common = model_schema(OptimizerSpec)["properties"]
    arguments = _arguments("torch.optim", "Optimizer", ("params", "kwargs"))
    numbers = {"lr": {"type": "number", "exclusiveMinimum": 0}, "weight_decay": {"type": "number", "minimum": 0}}
    return {"type": "object", "properties": {**arguments, **numbers, **common}}


def _scheduler() -> Json:
    common = model_schema(SchedulerSpec)["properties"]
    arguments = _arguments("torch.optim.lr_scheduler", "LRScheduler", ("optimizer", "kwargs"))
    return {"type": "object", "properties": {**arguments, **common}}


def _data(tasks: Sequence[Any]) -> Json:
    """``data`` of these tasks, with the options of all data sets that have a name."""
    schemas = []
    for task in tasks:
        sources = getattr(task.Data, "sources", None)
        named = [task().data_schema({"name": name}) for name in sources.names()] if sources is not None else []
        schemas += [model_schema(data) for data in (task.Data, *named)]
    union = _union(schemas)
    names = sorted({name for task in tasks if (found := getattr(task.Data, "sources", None)) for name in found.names()})
    union["properties"]["name"] = described({"type": ["string", "null"], "examples": names}, "Name of the data set.")
    return union


def _union(schemas: Sequence[Json]) -> Json:
    """A mapping with the keys of all of these mappings."""
    properties: Json = {}
    for schema in schemas:
        for key, value in schema["properties"].items():
            before = properties.get(key)
            if before is None or before == value:
                properties[key] = value
            else:
                text = before.get("description") or value.get("description")
                properties[key] = described(any_of(_bare(before), _bare(value)), text)
    return {"type": "object", "properties": properties, "additionalProperties": False}


def custom_tags() -> list[str]:
    """The tags that an editor must be told of: one for each name that a config may call, with what stands behind."""
    text = files("kd_core.config.calls").joinpath("allowed.txt").read_text(encoding="utf-8")
    lines = (line.partition(" ")[0] for line in text.splitlines() if not line.startswith("#"))
    names = [line for line in lines if line and ":" not in line]
    plain = [f"!{tag}" for tag in ("run scalar", "expanduser scalar", "abspath scalar")]
    plain += [f"!{tag} sequence" for tag in ("join", "pathjoin", "item")]
    return plain + [f"!call:{name} {kind}" for name in names for kind in ("mapping", "sequence")]
