"""What a loss's signature says of its tensors."""

from __future__ import annotations

import pytest

from kd_core.losses import LOSSES
from kd_core.signatures import single_tensors


@pytest.mark.parametrize(
    ("loss", "single"),
    [
        ("kd", {"student", "teacher", "mask"}),
        ("kdsvd", set()),
        ("hidden_mse", {"mask"}),
        ("crd", {"student", "teacher", "index"}),
    ],
)
def test_tensors_that_are_no_lists(loss: str, single: set[str]) -> None:
    assert single_tensors(LOSSES.get(loss)) == single
