"""MLKD's preset, both views of it, has the loss and the gradients of the authors' step (made by make_logits.py)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import goldens, near, tensor

from kd_core.config.syntax.methods import METHODS, value_at
from kd_core.losses import LOSSES

PLACES = {"adapters.mlkd_student/logits": "student_strong", "adapters.mlkd_teacher/logits": "teacher_strong"}


@pytest.mark.parametrize("golden", goldens("methods/mlkd"))
def test_the_terms_of_the_preset_equal_the_authors_step(golden: dict[str, Any]) -> None:
    given = {name: tensor(recipe) for name, recipe in golden["inputs"].items()}
    losses = []
    for term in value_at(METHODS.get("mlkd").root, ("stage", "losses")).values():
        values = {key: value for key, value in term.items() if key not in ("loss", "weight", "student", "teacher")}
        teacher = given[PLACES[term["teacher"]] if "teacher" in term else "teacher_weak"].detach()
        other = torch.tensor(golden["target"]) if term["loss"] == "cross_entropy" else teacher
        student = given[PLACES[term["student"]] if "student" in term else "student_weak"]
        losses.append(term["weight"] * LOSSES.get(term["loss"])(student, other, **values))
    value = torch.stack(losses).sum()
    assert value.item() == pytest.approx(golden["value"], rel=1e-9)
    value.backward()
    for name, gradient in golden["gradients"].items():
        near(given[name].grad, gradient)
