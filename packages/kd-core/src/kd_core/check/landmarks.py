"""The landmarks of a config's models beside each other, with the adapter that each pair needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kd_core.adapters import ADAPTERS
from kd_core.check.findings import Findings
from kd_core.check.models import DryModels
from kd_core.config import Policy
from kd_core.errors import KDError
from kd_core.plan.plan import Plan
from kd_core.taps.landmarks import declared
from kd_core.taps.wires import Tap
from kd_core.train.probe import PROBE


@dataclass(frozen=True)
class LandmarkRow:
    """A landmark: where it is in a model, its shape, and in each other model its shape and the adapter towards it."""

    landmark: str
    place: str
    shape: str
    others: Mapping[str, tuple[str, str]]


def landmark_rows(plan: Plan, policy: Policy, name: str) -> list[LandmarkRow]:
    """The landmarks of the model ``name`` and of all other models, found on dummy samples.

    Models that cannot be run without data or weights are left out.
    """
    dry = DryModels(plan, policy, Findings(plan))
    dry.build()
    raw = plan.task.dummy_batch(plan.data, PROBE, training=True)
    batch = plan.task.prepare(raw, plan.inputs, plan.data, training=True)
    values: dict[str, dict[str, tuple[str, Tensor]]] = {}
    for model in [name, *(other for other in plan.models if other != name)]:
        try:
            dry.know_landmarks(model, batch)
            places = _places(dry, model)
            capture = dry.forward(model, [tap for tap, _ in places.values()], batch)
            values[model] = {mark: (place, capture.at[tap]) for mark, (tap, place) in places.items()}
        except Exception:  # what keeps a model from running is told by `check`
            if model == name:
                return []
    return [
        LandmarkRow(mark, place, str(tuple(tensor.shape)), _others(tensor, mark, name, values))
        for mark, (place, tensor) in values[name].items()
    ]


def _places(dry: DryModels, name: str) -> dict[str, tuple[Tap, str]]:
    """The landmarks of a model as taps, with the place that each stands for."""
    known = declared(dry.built[name])
    if known is None:
        return {}
    marks = {f"@features/{number}": str(tap) for number, tap in enumerate(known.features)}
    marks |= {f"@preactivations/{number}": str(tap) for number, tap in enumerate(known.preactivations)}
    if known.classifier is not None:
        marks |= {"@penultimate": f"{known.classifier}:in", "@classifier": known.classifier}
    return {mark: (Tap(mark), place) for mark, place in marks.items()}


def _others(
    tensor: Tensor, mark: str, name: str, values: Mapping[str, Mapping[str, tuple[str, Tensor]]]
) -> dict[str, tuple[str, str]]:
    targets = {other: marks[mark][1] for other, marks in values.items() if other != name and mark in marks}
    return {other: (str(tuple(target.shape)), adapter_for(tensor, target)) for other, target in targets.items()}


def adapter_for(source: Tensor, target: Tensor) -> str:
    """What brings a tensor to the shape of another: nothing, a projector, or a sentence that says why none does."""
    if source.shape == target.shape:
        return "none"
    try:
        with torch.device("meta"):
            made = ADAPTERS.get("projector")([source.to("meta")], target.to("meta"), None)
            return "projector" if made(source.to("meta")).shape == target.shape else "none fits"
    except (KDError, RuntimeError):
        return "none fits"


def landmarks_text(rows: Sequence[LandmarkRow], name: str, width: int = 100) -> str:
    """The rows as aligned columns, two for each other model; tables one below another where one is too wide."""
    others = list(dict.fromkeys(other for row in rows for other in row.others))
    text = _table_text(rows, name, others)
    if len(others) < 2 or max(map(len, text.splitlines())) <= width:
        return text
    return "\n\n".join(_table_text(rows, name, [other]) for other in others)


def _table_text(rows: Sequence[LandmarkRow], name: str, others: Sequence[str]) -> str:
    """The rows beside some of the other models."""
    if not rows:
        return ""
    table = [["landmark", "place", name, *(text for other in others for text in (other, "adapter"))]]
    for row in rows:
        cells = [text for other in others for text in row.others.get(other, ("", ""))]
        table.append([row.landmark, row.place, row.shape, *cells])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in table)
