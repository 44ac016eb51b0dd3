"""The description a run leaves of its student: what rebuilds the model without this run's config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kd_core.config import dump
from kd_core.config.schema import ModelSpec
from kd_core.data.batch import DatasetInfo
from kd_core.models.factory import from_hub, inferred, student_spec
from kd_core.models.registry import MODELS, find_card, structural


def describe_model(
    spec: ModelSpec,
    wants: BaseModel,
    dataset: str | None,
    info: DatasetInfo,
    preprocessing: Mapping[str, Any] | None = None,
) -> str:
    """YAML of a model without weights: an architecture with its parameters or a call, its input and its edits.

    ``wants`` is its input with what the data gave, ``dataset`` the name of the data (cards are looked up by it),
    ``info`` what the data told, the names of the classes among it, ``preprocessing`` what the task says of the data.
    """
    spec = from_hub(spec)
    if spec.run is not None:
        saved = student_spec(Path(spec.run))
        spec = saved.model_copy(update={"edit": [*saved.edit, *spec.edit]})
    if spec.hub is not None:  # the student's own folder, where this description lies
        return dump({"hub": ".", **_rest(spec, wants)})
    source: dict[str, Any] = {"call": spec.call} if spec.call is not None else _architecture(spec, dataset, info)
    facts: dict[str, Any] = {"class_names": list(info.classes)} if info.classes else {}
    facts |= {"preprocessing": dict(preprocessing)} if preprocessing else {}
    return dump({**source, **_rest(spec, wants), **facts})


def _rest(spec: ModelSpec, wants: BaseModel) -> dict[str, Any]:
    """What a model takes, and its edits."""
    input_fields = {key: value for key, value in wants.model_dump().items() if value is not None}
    return {**({"input": input_fields} if input_fields else {}), **({"edit": spec.edit} if spec.edit else {})}


def _architecture(spec: ModelSpec, dataset: str | None, info: DatasetInfo) -> dict[str, Any]:
    """The registered name and every parameter, what the data gave included."""
    if spec.zoo is not None:
        _, card = find_card(spec.zoo, dataset)
        return {"arch": card.arch, **card.parameters, **structural(spec.extra)}
    assert spec.arch is not None
    return {"arch": spec.arch, **inferred(MODELS.get(spec.arch), info), **structural(spec.extra)}
