"""Models that may take the student's place: the best of them and the student is what a run saves."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from kd_core.config.syntax.tree import dotted
from kd_core.data.batch import STUDENT
from kd_core.errors import ConfigProblem
from kd_core.plan.plan import Plan, StagePlan


def unfit(plan: Plan, stage: StagePlan, models: Mapping[str, nn.Module]) -> list[ConfigProblem]:
    """The problems of a stage's candidates that do not learn, are built unlike the student, or take another input.

    Models that could not be built are passed over.
    """
    problems = []
    for name in stage.candidates:
        if name not in models or STUDENT not in models:
            continue
        why, hint = None, "`init_from: student` makes a model like the student"
        if not plan.models[name].trainable:
            why, hint = "it does not learn", "write `trainable: true`"
        elif layout(models[name]) != layout(models[STUDENT]):
            why = "its weights have other names or shapes"
        elif plan.inputs.get(name) != plan.inputs.get(STUDENT):
            why = "its input is another"
        if why is not None:
            message = f"{name} cannot take the student's place: {why}"
            problems.append(ConfigProblem(message, dotted(stage.path("candidates")), hint=hint))
    return problems


def layout(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of each weight by its name."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}
