"""Losses and adapters over the levels of a feature pyramid, which differ in size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_core.adapters import generation, paraphraser, projector, translator
from kd_core.config import Builder, Policy
from kd_core.errors import KDError
from kd_core.losses import LOSSES
from kd_core.plan.plan import TermPlan
from kd_core.taps.wires import Wire, parse_wire
from kd_core.train.objective import StepInfo, Term
from kd_core.train.values import Each, OnEach, levels, unzipped

SIZES = {"0": (8, 12), "1": (4, 6), "pool": (2, 3)}


class Stand:
    """What wires carry, by their text."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def get(self, wired: Any) -> Any:
        return [self.get(wire) for wire in wired] if isinstance(wired, list) else self.values[str(wired)]


def pyramid(channels: int, seed: int) -> OrderedDict[str, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return OrderedDict((key, torch.randn(2, channels, *size, generator=random)) for key, size in SIZES.items())


def wire(text: str) -> Wire:
    return parse_wire(text, ["student", "teacher"], ["a", "b"])


def value(loss: str, wires: Mapping[str, Any], values: Mapping[str, Any], **given: Any) -> Tensor:
    """The loss as a term of a stage computes it."""
    plan = TermPlan("it", ("losses", "it"), LOSSES.get(loss), dict(wires), given, {}, 1.0, frozenset())
    term: Tensor = Term(plan, Builder(Policy()))(Stand(values), StepInfo(0, 1, 1))
    return term


@pytest.mark.parametrize("loss", ["mse", "pkd", "cwd", "mgd", "attention_transfer", "factor_transfer"])
def test_a_loss_adds_up_over_the_levels_of_two_pyramids(loss: str) -> None:
    first, second = pyramid(3, 0), pyramid(3, 1)
    wires = {"student": wire("student.fpn"), "teacher": wire("teacher.fpn")}
    added = value(loss, wires, {"student.fpn": first, "teacher.fpn": second})
    one_by_one = [LOSSES.get(loss)(first[key], second[key]) for key in SIZES]
    torch.testing.assert_close(added, torch.stack(one_by_one).sum())


def test_what_is_no_list_is_that_of_every_level() -> None:
    first, second = pyramid(3, 0), pyramid(3, 1)
    boxes = torch.tensor([[[0.1, 0.1, 0.6, 0.9]], [[0.0, 0.0, -1.0, -1.0]]])
    wires = {"student": wire("student.fpn"), "teacher": wire("teacher.fpn"), "boxes": wire("adapters.a")}
    added = value("fgd", wires, {"student.fpn": first, "teacher.fpn": second, "adapters.a": boxes})
    one_by_one = [LOSSES.get("fgd")(first[key], second[key], boxes) for key in SIZES]
    torch.testing.assert_close(added, torch.stack(one_by_one).sum())


def test_a_list_of_wires_takes_some_levels_of_a_pyramid() -> None:
    first, second = pyramid(3, 0), pyramid(3, 1)
    wires = {"student": [wire("student.fpn/0"), wire("student.fpn/1")], "teacher": wire("adapters.a")}
    given = {"student.fpn/0": first["0"], "student.fpn/1": first["1"], "adapters.a": [second["0"], second["1"]]}
    torch.testing.assert_close(
        value("mse", wires, given),
        sum((LOSSES.get("mse")(first[key], second[key]) for key in ("0", "1")), torch.zeros(())),
    )


def test_pyramids_with_unlike_levels_are_refused() -> None:
    first, second = pyramid(3, 0), pyramid(3, 1)
    second["p6"] = second.pop("pool")
    wires = {"student": wire("student.fpn"), "teacher": wire("teacher.fpn")}
    with pytest.raises(KDError, match="student has 0, 1, pool, teacher has 0, 1, p6"):
        value("mse", wires, {"student.fpn": first, "teacher.fpn": second})
    del second["p6"]
    with pytest.raises(KDError, match="unlike keys"):
        value("mse", wires, {"student.fpn": first, "teacher.fpn": second})
    with pytest.raises(KDError, match="not of one length"):
        value("mse", wires, {"student.fpn": first, "teacher.fpn": list(second.values())})


def test_a_dataclass_that_is_a_mapping_is_no_list() -> None:
    @dataclass
    class Output(OrderedDict[str, Tensor]):
        logits: Tensor

    assert levels(Output(torch.zeros(2))) is None
    assert levels(torch.zeros(2)) is None
    output = Output(torch.zeros(2))
    output["logits"] = output.logits
    wires = {"student": wire("student.encoder"), "teacher": wire("teacher.encoder")}
    with pytest.raises(KDError, match="of which the loss takes one tensor"):
        value("mse", wires, {"student.encoder": output, "teacher.encoder": output})


def test_one_module_runs_on_each_level() -> None:
    maps = pyramid(3, 0)
    layer = nn.Conv2d(3, 4, 1)
    given = OnEach(layer)(maps)
    assert [tuple(each.shape[2:]) for each in given] == list(SIZES.values())
    assert all(torch.equal(each, layer(one)) for each, one in zip(given, maps.values(), strict=True))


def built(make: Any, inputs: Any, match: Any = None) -> Each:
    """An adapter with ``each``."""
    items = unzipped({"input": inputs, "match": match})
    return Each([make([item["input"]], item["match"], None) for item in items])


def test_fitnets_regressors_bring_each_level_to_the_teachers_width() -> None:
    student, teacher = pyramid(3, 0), pyramid(5, 1)
    regressors = built(projector, student, teacher)
    regressed = regressors(student)
    assert [each.shape for each in regressed] == [each.shape for each in teacher.values()]
    wires = {"student": wire("adapters.a"), "teacher": wire("teacher.fpn")}
    value("mse", wires, {"adapters.a": regressed, "teacher.fpn": teacher}).backward()
    assert all(parameter.grad is not None for parameter in regressors.parameters())


def test_factor_transfer_compares_the_factors_of_each_level() -> None:
    student, teacher = pyramid(4, 0), pyramid(8, 1)
    factors = [each["factor"] for each in built(paraphraser, teacher)(teacher)]
    translated = built(translator, student, factors)(student)
    assert [each.shape for each in translated] == [(2, 4, *size) for size in SIZES.values()]
    wires = {"student": wire("adapters.a"), "teacher": wire("adapters.b")}
    assert value("factor_transfer", wires, {"adapters.a": translated, "adapters.b": factors}) > 0


def test_mgd_generates_each_level_from_the_students() -> None:
    student, teacher = pyramid(3, 0), pyramid(5, 1)
    items = unzipped({"student": student, "teacher": teacher})
    blocks = Each([generation([item["student"], torch.arange(2)], item["teacher"], None) for item in items])
    generated = blocks(student, torch.tensor([7, 3]))
    wires = {"student": wire("adapters.a"), "teacher": wire("teacher.fpn")}
    value("mgd", wires, {"adapters.a": generated, "teacher.fpn": teacher}).backward()
    assert all(parameter.grad is not None for parameter in blocks.parameters())
