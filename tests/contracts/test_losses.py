"""What every registered loss keeps, whoever wrote it: the checks of :mod:`kd_core.testing`.

A new loss adds one line to EXAMPLES: the shape of each tensor it takes, without the batch dimension.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_core.losses import LOSSES
from kd_core.signatures import signature_text
from kd_core.testing import LOSS_CHECKS, LossCase, class_labels
from kd_core.testing.losses import ROWS, Input


def void_and_classes(rows: int) -> Tensor:
    """Labels of 5 x 5 pixels: -1 for void, and 0 to 3."""
    return torch.randint(-1, 4, (rows, 5, 5), generator=torch.Generator().manual_seed(0))


def viewed(rows: int) -> Tensor:
    """0, 1, 2, 0, 1, 2: the first half of the rows are samples, the second their views."""
    return torch.arange(rows) % max(rows // 2, 1)


def view(rows: int) -> Tensor:
    """0, 0, 0, 1, 1, 1."""
    return (torch.arange(rows) >= max(rows // 2, 1)).long()


SECOND_HALF = {"transformed_kd"}  # what it computes does not depend on the first half of the rows
KEEPS = {"self_supervised_kd", "transformed_kd"}  # a share of the rows; here all
EXAMPLES: dict[str, dict[str, Input]] = {
    "affinity": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "attention_kl": {"student": (4, 6), "teacher": (4, 10)},
    "attention_mse": {"student": (2, 4, 4), "teacher": (2, 4, 4)},
    "attention_transfer": {"student": (3, 4, 4), "teacher": (5, 4, 4)},
    "cirkd_memory": {"student": (4, 3, 3), "teacher": (4, 3, 3), "target": void_and_classes},
    "cirkd_minibatch": {"student": (3, 4, 4), "teacher": (5, 4, 4)},
    "cosine": {"student": (4, 5), "teacher": (4, 5)},
    "crd": {"student": (8,), "teacher": (8,), "index": torch.arange},
    "cross_entropy": {"student": (4,), "target": class_labels(4)},
    "cwd": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "dist": {"student": (7, 3), "teacher": (7, 3)},
    "factor_transfer": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "hierarchical_context": {"student": (3, 8, 8), "teacher": (3, 8, 8)},
    "hidden_mse": {"student": (4, 5), "teacher": (4, 5)},
    "hint": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "ifvd": {"student": (3, 4, 4), "teacher": (5, 4, 4), "target": void_and_classes},
    "jensen_shannon": {"student": (7,), "teacher": (7,)},
    "kd": {"student": (7,), "teacher": (7,)},
    "knowledge_adaptation": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "l1": {"student": (3, 5), "teacher": (3, 5)},
    "mgd": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "mse": {"student": (3, 5), "teacher": (3, 5)},
    "multilabel_kd": {"student": (7,), "teacher": (7,)},
    "identity": {"value": (3, 4)},
    "norm_penalty": {"input": (3, 4, 4)},
    "patience": {"student": (4, 5), "teacher": (3, 5)},
    "pkt": {"student": (5,), "teacher": (3,)},
    "reverse_kl": {"student": (7,), "teacher": (7,)},
    "rkd_angle": {"student": (5,), "teacher": (3,)},
    "rkd_distance": {"student": (5,), "teacher": (3,)},
    "self_supervised_kd": {"student": (5,), "teacher": (3,), "index": viewed, "view": view},
    "similarity_preserving": {"student": (2, 3, 3), "teacher": (4, 2, 2)},
    "skd_pairwise": {"student": (3, 5, 4), "teacher": (2, 5, 4)},
    "smooth_l1": {"student": (3, 5), "teacher": (3, 5)},
    "soft_cross_entropy": {"student": (7,), "teacher": (7,)},
    "total_variation": {"student": (7,), "teacher": (7,)},
    "transformed_kd": {
        "student": (4,),
        "teacher": (4,),
        "target": class_labels(4),
        "index": viewed,
        "view": view,
    },
    "view_contrast": {"input": (5,), "index": viewed, "view": view},
}
FROM_RUN = {"num_samples": 12, "num_classes": 4}
"""Values that only a run knows: they have no defaults."""
SMALL: dict[str, dict[str, Any]] = {
    "attention_kl": {"heads": 2},
    "cirkd_memory": {"dim": 4, "pixel_memory": 20, "region_memory": 6, "pixel_contrast": 30, "update": 3},
    "crd": {"dim": 8, "negatives": 5},
    "ifvd": {"num_classes": 4},
    "skd_pairwise": {"norm_gradient": True},
    **{name: {"keep": 1.0} for name in KEEPS},
}
every_loss = pytest.mark.parametrize("name", LOSSES.names())


@functools.cache
def case(name: str) -> LossCase:
    assert name in EXAMPLES, f"add the shapes that {name!r} takes to EXAMPLES"
    unused = ROWS // 2 if name in SECOND_HALF else 0
    return LossCase(name, EXAMPLES[name], SMALL.get(name, {}), FROM_RUN, unused_rows=unused)


@every_loss
@pytest.mark.parametrize("check", LOSS_CHECKS, ids=lambda check: check.__name__)
def test_keeps_the_contract(name: str, check: Callable[[LossCase], None]) -> None:
    check(case(name))


@every_loss
def test_documentation_has_the_signature(name: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "losses.md"
    assert f"### `{name}{signature_text(LOSSES.get(name))}`" in page.read_text(encoding="utf-8")
