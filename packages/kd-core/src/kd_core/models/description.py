"""The description a run leaves of its student: what rebuilds the model without this run's config, data and teacher."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import nn

from kd_core.config import Call, Policy, RunValue, changed, dump, has_call
from kd_core.config.schema import ModelSpec
from kd_core.data.batch import DatasetInfo
from kd_core.errors import KDError
from kd_core.models.factory import from_hub, inferred, student_spec, without_weights
from kd_core.models.hub import Hub, hub_of
from kd_core.models.registry import MODELS, find_card, structural
from kd_core.taps.paths import module_at, unwrap_model

BASE = "./base"
"""Where an edited model of a hub has the config of what was edited: its own folder is none that the hub knows."""


@dataclass(frozen=True)
class Described:
    """What there is to know of a student when it is described.

    ``wants`` is its input with what the data gave, ``dataset`` the name of the data (cards are looked up by it),
    ``info`` what the data told, ``preprocessing`` what the task says of the data, ``model`` the trained student,
    ``imports`` the modules that register its architecture or its task, and ``hubs`` those of the task.
    """

    spec: ModelSpec
    wants: BaseModel
    dataset: str | None
    info: DatasetInfo
    policy: Policy
    task: str
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    model: nn.Module | None = None
    imports: Sequence[str] = ()
    hubs: Mapping[str, Hub] = field(default_factory=dict)


def describe_model(told: Described) -> str:
    """YAML of a model without weights: an architecture with its parameters or a call, its input, edits and classes.

    Nothing in it names what lies elsewhere: calls load no published weights, ``!run`` values are those of the data, and
    a module that an edit borrowed from another model stands there itself, as far as it is made of torch's own.
    """
    spec = from_hub(told.spec)
    if spec.run is not None:
        saved = student_spec(Path(spec.run))
        spec = saved.model_copy(update={"edit": [*saved.edit, *spec.edit]})
    edits = _alone([_by_value(edit, told.model) for edit in spec.edit], told)
    if spec.hub is not None:  # the student's own folder, where this description lies
        source: dict[str, Any] = {"hub": BASE if spec.edit else "."}
    elif (hub := hub_of(spec, told.hubs)) is not None:
        source = _alone(hub.architecture(spec, told.info), told)
    else:
        source = {"call": _alone(spec.call, told)} if spec.call is not None else _alone(_architecture(spec, told), told)
    input_fields = {key: value for key, value in told.wants.model_dump().items() if value is not None}
    facts = {
        "input": input_fields,
        "edit": edits,
        "class_names": list(told.info.classes or ()),
        "preprocessing": dict(told.preprocessing),
    }
    imports = {"imports": list(told.imports)} if told.imports else {}
    return dump({"task": told.task, **imports, **source, **{key: value for key, value in facts.items() if value}})


def _architecture(spec: ModelSpec, told: Described) -> dict[str, Any]:
    """The registered name and every parameter, what the data gave included."""
    if spec.zoo is not None:
        _, card = find_card(spec.zoo, told.dataset)
        return {"arch": card.arch, **card.parameters, **structural(spec.extra)}
    assert spec.arch is not None
    return {"arch": spec.arch, **inferred(MODELS.get(spec.arch), told.info), **structural(spec.extra)}


def _alone(value: Any, told: Described) -> Any:
    """``value`` with ``!run`` values filled in, and without published weights in its calls."""
    values = told.info.run_values

    def known(lazy: Any) -> Any:
        return values.get(lazy.name, lazy) if isinstance(lazy, RunValue) else lazy

    return without_weights(changed(value, known), told.policy) if has_call(value) else value


# -- modules of torch, by value


def _by_value(edit: Mapping[str, Any], model: nn.Module | None) -> Mapping[str, Any]:
    """An edit whose module is taken out of another model as the call that makes such a module, if there is one."""
    key = "with" if "replace" in edit else "insert"
    value = edit.get(key)
    if model is None or value is None or isinstance(value, Call):
        return edit
    path = edit["replace"] if key == "with" else edit.get("name") or f"{edit['after']}.inserted"
    try:
        made = call_of(module_at(unwrap_model(model), str(path)))
    except KDError:  # a later edit took the place
        return edit
    return edit if made is None else {**edit, key: made}


def call_of(module: nn.Module) -> Call | None:
    """The call that makes a module of torch.nn, or a Sequential of such, as this one is; None where none is known.

    Read from the attributes that torch keeps under the names of the constructor's parameters, and compared with what
    the call makes: its classes, its values as it prints them, and the shapes of its weights.
    """
    kind = type(module)
    if not kind.__module__.startswith("torch.nn.modules.") or module._forward_hooks or module._forward_pre_hooks:
        return None
    if kind is nn.Sequential:
        inner = [call_of(child) for child in module]  # type: ignore[attr-defined]
        named = list(module._modules) != [str(number) for number in range(len(inner))]
        return None if named or None in inner else Call("torch.nn.Sequential", args=list(inner))
    kwargs: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in ("device", "dtype", "args", "kwargs"):
            continue
        value = getattr(module, name, parameter.default)
        value = value is not None if name == "bias" else list(value) if isinstance(value, tuple) else value
        if value is inspect.Parameter.empty or not _plain(value):
            return None
        if value != parameter.default:
            kwargs[name] = value
    made = kind(**kwargs)
    return Call(f"torch.nn.{kind.__name__}", kwargs=kwargs) if _same(made, module) else None


def _plain(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return all(item is None or isinstance(item, (bool, int, float, str)) for item in items)


def _same(first: nn.Module, second: nn.Module) -> bool:
    shapes = [{key: value.shape for key, value in module.state_dict().items()} for module in (first, second)]
    return repr(first) == repr(second) and shapes[0] == shapes[1]
