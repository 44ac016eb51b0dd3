"""Ranges of hyperparameters: one annotation is checked by calls and by plans, and shown."""

from __future__ import annotations

import inspect
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import torch
from annotated_types import Gt, Interval, Lt
from pydantic import Field
from torch import nn

from kd_core import losses
from kd_core.adapters import ADAPTERS
from kd_core.errors import ConfigError, KDError
from kd_core.experiment import Experiment
from kd_core.losses import LOSSES
from kd_core.models import MODELS
from kd_core.ranges import Momentum, PositiveFloat, PositiveInt, Probability, checked, range_of
from kd_core.registry import Registry
from kd_core.signatures import signature_text, values_of

KD = Path(__file__).parents[2] / "configs" / "vision" / "digits_kd.yaml"
LOGITS = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("annotation", "inside", "outside", "text", "sign"),
    [
        (PositiveFloat, [1e-9, 5], [0, -1.0, math.nan, "x"], "greater than 0", "> 0"),
        (PositiveInt, [1, 7], [0, -3], "at least 1", ">= 1"),
        (Probability, [0, 1.0], [-0.1, 1.1, math.nan], "in [0, 1]", "in [0, 1]"),
        (Momentum, [0.0, 0.99], [1.0, -1], "in [0, 1)", "in [0, 1)"),
        (PositiveFloat | None, [None, 2.0], [0.0], "greater than 0", "> 0"),
        (Annotated[int, Field(ge=2)], [2], [1], "at least 2", ">= 2"),
        (Annotated[float, Interval(gt=0, lt=0.5)], [0.25], [0.5, 0], "in (0, 0.5)", "in (0, 0.5)"),
        (Annotated[float, Gt(0), Lt(1)], [0.5], [1, None], "in (0, 1)", "in (0, 1)"),
        (Literal["kl", "mse"], ["kl"], ["k", 3, None], "'kl' or 'mse'", ""),
    ],
)
def test_what_an_annotation_allows(
    annotation: Any, inside: list[Any], outside: list[Any], text: str, sign: str
) -> None:
    limits = range_of(annotation)
    assert limits is not None
    assert [value for value in inside if not limits.allows(value)] == []
    assert [value for value in outside if limits.allows(value)] == []
    assert (str(limits), limits.sign) == (text, sign)


@pytest.mark.parametrize("annotation", [float, int | None, "float", list[float], Annotated[float, "a word"], Any])
def test_an_annotation_without_a_range(annotation: Any) -> None:
    assert range_of(annotation) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.kd(LOGITS, LOGITS, temperature=-1), "temperature must be greater than 0, not -1"),
        (lambda: losses.jensen_shannon(LOGITS, LOGITS, beta=2), "beta must be in [0, 1], not 2"),
        (lambda: losses.CRD(num_samples=10, momentum=1.0), "momentum must be in [0, 1), not 1.0"),
        (lambda: losses.CRD(num_samples=10, mode="any"), "mode must be 'exact' or 'relaxed', not 'any'"),
        (lambda: losses.norm_penalty(LOGITS, p=0.5), "p must be at least 1, not 0.5"),
    ],
)
def test_a_loss_called_with_a_value_out_of_its_range(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(KDError) as error:
        call()
    assert str(error.value) == message


def test_values_given_by_position_are_checked_too() -> None:
    @checked
    class Net(nn.Module):
        def __init__(self, depth: int, width: PositiveInt = 1) -> None:
            super().__init__()
            self.size = depth * width

    assert Net(2, 3).size == 6
    assert list(inspect.signature(Net).parameters) == ["depth", "width"]
    with pytest.raises(KDError, match="width must be at least 1, not 0"):
        Net(2, 0)


def test_what_has_no_range_is_left_as_it_is() -> None:
    def plain(*, dim: int = 1) -> int:
        return dim

    assert checked(plain) is plain


def test_registering_checks_the_ranges_of_what_comes_from_outside() -> None:
    registry: Registry[Any] = Registry("thing", "kd.nothing")

    @registry("thing")
    def thing(*, rate: Annotated[float, Gt(0)] = 1.0) -> float:
        """Docs."""
        return rate

    assert (registry.get("thing")(rate=2.0), thing.__doc__) == (2.0, "Docs.")
    with pytest.raises(KDError, match="rate must be greater than 0, not 0"):
        thing(rate=0)


def test_a_checked_loss_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(losses.kd)) is losses.kd


@pytest.mark.parametrize("registry", [LOSSES, ADAPTERS, MODELS], ids=lambda registry: registry.kind)
def test_defaults_lie_in_their_ranges(registry: Registry[Any]) -> None:
    wrong = [
        f"{name}: {parameter}"
        for name in registry.names()
        for parameter in values_of(registry.get(name)).values()
        if parameter.default is not parameter.empty
        and (limits := range_of(parameter.annotation)) is not None
        and not limits.allows(parameter.default)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        ("losses.kd.temperature=0", "losses.kd.temperature", "must be greater than 0, not 0"),
        ("losses.ce.label_smoothing=2", "losses.ce.label_smoothing", "must be in [0, 1], not 2"),
        (
            "losses.kd.temperature={schedule: linear, start: 4.0, end: 0.0}",
            "losses.kd.temperature.end",
            "must be greater than 0, not 0.0",
        ),
        (
            "losses.kd.temperature={schedule: step, values: [4.0, -1.0], epochs: [1]}",
            "losses.kd.temperature.values.1",
            "must be greater than 0, not -1.0",
        ),
        ("losses.kd={loss: cwd, divergence: k}", "losses.kd.divergence", "must be 'kl' or 'mse', not 'k'"),
    ],
)
def test_a_plan_reports_a_value_out_of_its_range_at_its_place(override: str, path: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Experiment.load(KD, overrides=[f"stages.distill.{override}"]).check()
    (problem,) = error.value.problems
    assert (problem.path, problem.message) == (f"stages.distill.{path}", message)


@pytest.mark.parametrize("key", ["num_classes", "width", "in_channels"])
def test_a_model_has_at_least_one_class_and_channel(key: str) -> None:
    with pytest.raises(ConfigError) as error:
        Experiment.load(KD, overrides=[f"models.student.{key}=0"]).check()
    (problem,) = error.value.problems
    assert (problem.path, problem.message) == (f"models.student.{key}", "must be at least 1, not 0")


def test_a_schedule_within_the_range_is_fine() -> None:
    schedule = "stages.distill.losses.kd.temperature={schedule: cosine, start: 8.0, end: 1.0}"
    assert Experiment.load(KD, overrides=[schedule]).check() == []


def test_the_signature_shows_types_ranges_and_defaults() -> None:
    shown = signature_text(losses.multilabel_kd)
    assert shown == "(student, teacher, *, temperature: float > 0 = 1.0)"
    assert "mode: 'exact' or 'relaxed' = 'exact'" in signature_text(losses.CRD)
    assert "targets: Sequence[int] or None = None" in signature_text(losses.CRD)


def test_a_value_is_looked_at_again_after_another_was_accepted() -> None:
    @checked
    def twice(*, value: PositiveFloat) -> float:
        return 2 * value

    good = 1.5
    assert twice(value=good) == twice(value=good) == 3
    for bad in (-1.0, float("nan")):
        with pytest.raises(KDError, match="value must be greater than 0"):
            twice(value=bad)
    assert twice(value=good) == 3
