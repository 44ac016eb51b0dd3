"""What KTAAD and pixel-wise distillation take from losses and adapters that were there: equal to their code.

The losses themselves are in losses/*.json, for test_losses.py; make_dense.py made them all.
"""

from __future__ import annotations

from typing import Any

import pytest
from compare import adapter_equals, goldens, near, tensor

from kd_core.losses import kd, soft_cross_entropy


@pytest.mark.parametrize("golden", goldens("dense/adapters"))
def test_an_adapter_of_ktaad_equals_torchdistills(golden: dict[str, Any]) -> None:
    adapter_equals(golden)


@pytest.mark.parametrize("golden", goldens("dense/pixelwise"))
def test_pixelwise_is_soft_cross_entropy_times_samples_and_classes(golden: dict[str, Any]) -> None:
    given = {name: tensor(recipe) for name, recipe in golden["inputs"].items()}
    samples, classes = given["student"].shape[:2]
    value = samples * classes * soft_cross_entropy(**given)
    assert value.item() == pytest.approx(golden["value"], rel=1e-9)
    value.backward()
    near(given["student"].grad, golden["gradients"]["student"])
    near(given["teacher"].grad, golden["gradients"]["teacher"])


@pytest.mark.parametrize("golden", goldens("dense/pixelwise"))
def test_kd_has_the_gradient_of_pixelwise_over_samples(golden: dict[str, Any]) -> None:
    """They differ by the entropy of the teacher, of which a student knows nothing."""
    given = {name: tensor(recipe) for name, recipe in golden["inputs"].items()}
    (len(given["student"]) * kd(**given, temperature=1.0)).backward()
    near(given["student"].grad, golden["gradients"]["student"])
