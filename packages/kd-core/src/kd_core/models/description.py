"""The description a run leaves of its student: what rebuilds the model without this run's config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kd_core.config.schema import ModelSpec
from kd_core.config.syntax import dump
from kd_core.models.factory import MODELS, described, find_card, from_hub, structural
from kd_core.plan.plan import STUDENT, Plan
from kd_core.signatures import values_of


def describe_model(plan: Plan, num_classes: int | None) -> str:
    """YAML of a model without weights: an architecture with its parameters or a call, its input and its edits."""
    spec = plan.models[STUDENT]
    spec = from_hub(spec)
    if spec.run is not None:
        spec = described(Path(spec.run)).model_copy(update={"edit": [*described(Path(spec.run)).edit, *spec.edit]})
    if spec.hub is not None:  # the student's own folder, where this description lies
        return dump({"hub": ".", **_rest(plan, spec)})
    found: dict[str, Any] = {"call": spec.call} if spec.call is not None else _architecture(plan, spec, num_classes)
    return dump({**found, **_rest(plan, spec)})


def _rest(plan: Plan, spec: ModelSpec) -> dict[str, Any]:
    """What a model takes, and its edits."""
    wants = {key: value for key, value in plan.inputs[STUDENT].model_dump().items() if value is not None}
    return {**({"input": wants} if wants else {}), **({"edit": spec.edit} if spec.edit else {})}


def _architecture(plan: Plan, spec: ModelSpec, num_classes: int | None) -> dict[str, Any]:
    """The registered name and every parameter, what the data gave included."""
    if spec.zoo is not None:
        _, card = find_card(spec.zoo, plan.dataset)
        return {"arch": card.arch, "num_classes": card.num_classes, **structural(spec.rest)}
    assert spec.arch is not None
    inferred = (
        {"num_classes": num_classes}
        if "num_classes" in values_of(MODELS.get(spec.arch)) and num_classes is not None
        else {}
    )
    return {"arch": spec.arch, **inferred, **structural(spec.rest)}
