"""Methods on segmentation: void pixels teach nothing, whichever loss compares the models' outputs."""

from __future__ import annotations

from typing import Any

import pytest

from kd_core.config import Policy, loads
from kd_core.config.syntax.methods import METHODS
from kd_core.errors import KDError
from kd_core.losses import LOSSES, loss_signature
from kd_core.plan.plan import Plan
from kd_core.plan.planner import plan

CONFIG = """
task: semantic_segmentation
data: {name: scenes}
models:
  student: {arch: unet, width: 3, depth: 2}
  teacher: {arch: unet, width: 5, depth: 2, weights: null}
stages:
  distill:
    steps: 2
    batch_size: 4
    METHOD
    optimizer: !call:torch.optim.SGD {lr: 0.05}
"""
REFUSED = {"crd": "num_samples", "crd_kd": "num_samples", "mlkd": "no strong augmentation"}
"""Methods that need what masks of pixels do not have: a class of each sample, a strong augmentation."""


def planned(method: str) -> Plan:
    return plan(loads(CONFIG.replace("METHOD", method)), Policy())


def masks(method: str) -> dict[str, Any]:
    terms = planned(method).stages[-1].terms
    return {name: str(term.wires["mask"]) if "mask" in term.wires else None for name, term in terms.items()}


@pytest.mark.parametrize("name", METHODS.names())
def test_every_loss_of_outputs_that_takes_a_mask_has_it(name: str) -> None:
    students = "teacher: {arch: unet, width: 5, depth: 2, weights: null}"
    teachers = students.replace("teacher: ", "teacher: [").replace(
        "null}", "null}, {arch: unet, width: 3, weights: null}]"
    )
    several = name in {"aekd", "aver", "ca_mkd", "ebkd"}
    text = CONFIG.replace(students, teachers if several else students).replace("METHOD", f"method: {name}")
    if name in REFUSED:
        with pytest.raises(KDError, match=REFUSED[name]):
            plan(loads(text), Policy())
        return
    for stage in plan(loads(text), Policy()).stages:
        for term in stage.terms.values():
            spec = stage.spec.losses[term.name]["loss"]
            wires = {str(term.wires.get(key)) for key in ("student", "teacher")}
            if "mask" in loss_signature(LOSSES.get(spec)).optional_wires and wires == {
                "student.output/out",
                "teacher.output/out",
            }:
                assert str(term.wires["mask"]) in ("batch.mask", "batch.original")  # SSKD has one of its own


def test_kd_has_the_mask_unless_it_is_told_otherwise() -> None:
    assert masks("method: kd") == {"ce": None, "kd": "batch.mask"}
    assert masks("method: dist")["dist"] == "batch.mask"
    assert masks("losses: {kd: {loss: kd, mask: null}}") == {"kd": None}
    inside = "losses: {cwd: {loss: cwd, student: student.@features/0, teacher: teacher.@features/0}}"
    assert masks(inside) == {"cwd": None}
