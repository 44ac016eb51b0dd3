"""What every registered loss keeps, whoever wrote it: the checks of :mod:`kd_core.testing`.

A new loss adds one line to EXAMPLES: the shape of each tensor it takes, without the batch dimension.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_core.errors import KDError
from kd_core.losses import LOSSES, loss_signature
from kd_core.losses.teacher_free import tf_kd
from kd_core.signatures import signature_text
from kd_core.testing import LOSS_CHECKS, LossCase, class_labels
from kd_core.testing.losses import ROWS, Input, micro_batches_add_up


def void_and_classes(rows: int) -> Tensor:
    """Labels of 5 x 5 pixels: -1 for void, and 0 to 3."""
    return torch.randint(-1, 4, (rows, 5, 5), generator=torch.Generator().manual_seed(0))


def viewed(rows: int) -> Tensor:
    """0, 1, 2, 0, 1, 2: the first half of the rows are samples, the second their views."""
    return torch.arange(rows) % max(rows // 2, 1)


def view(rows: int) -> Tensor:
    """0, 0, 0, 1, 1, 1."""
    return (torch.arange(rows) >= max(rows // 2, 1)).long()


def class_vectors(rows: int) -> Tensor:
    """A vector of each of four classes, which is no part of a batch."""
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(2))


def first_anchors(rows: int) -> Tensor:
    """(rows, 3): the first anchor of each sample is one of an object, and of some samples another one."""
    return torch.stack((torch.ones(rows), torch.arange(rows) % 2, torch.zeros(rows)), dim=1).bool()


def two_boxes(rows: int) -> Tensor:
    """Fractions of a map: a box of a sample's own in its upper left part, and no second one."""
    corner = torch.rand(rows, 2, generator=torch.Generator().manual_seed(3)) * 0.5
    boxes = torch.cat((corner * 0.5, corner + 0.2), dim=1)
    return torch.stack((boxes, torch.tensor([0.0, 0.0, -1.0, -1.0]).expand(rows, 4)), dim=1)


def signs(rows: int) -> Tensor:
    """What only the signs of count, without a gradient."""
    return torch.randn(rows, 3, 4, 4, generator=torch.Generator().manual_seed(1))


SECOND_HALF = {"transformed_kd"}  # what it computes does not depend on the first half of the rows
KEEPS = {"self_supervised_kd", "transformed_kd"}  # a share of the rows; here all
HOLDS = {"uskd", "wsld"}  # a part of themselves constant
LABELLED: dict[str, Input] = {"student": (4,), "teacher": (4,), "target": class_labels(4)}
EXAMPLES: dict[str, dict[str, Input]] = {
    "active_features": {"student": (3, 5), "teacher": (3, 5)},
    "ab_divergence": {"student": (7,), "teacher": (7,)},
    "activation_boundary": {"student": (3, 4, 4), "teacher": signs},
    "affinity": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "attention_kl": {"student": (4, 6), "teacher": (4, 10)},
    "attention_mse": {"student": (2, 4, 4), "teacher": (2, 4, 4)},
    "attention_transfer": {"student": (3, 4, 4), "teacher": (5, 4, 4)},
    "cc": {"student": (5,), "teacher": (5,)},
    "cc_kernel": {"student": (5,), "teacher": (3,)},
    "cirkd_memory": {"student": (4, 3, 3), "teacher": (4, 3, 3), "target": void_and_classes},
    "cirkd_minibatch": {"student": (3, 4, 4), "teacher": (5, 4, 4)},
    "class_attention": {"student": (3, 4, 4), "teacher": (3, 6, 6)},
    "cosine": {"student": (4, 5), "teacher": (4, 5)},
    "crd": {"student": (8,), "teacher": (8,), "index": torch.arange},
    "cross_entropy": {"student": (4,), "target": class_labels(4)},
    "crosskd_boxes": {"student": (3, 4), "teacher": (3, 4), "logits": (3, 5), "positive": first_anchors},
    "crosskd_classes": {"student": (3, 5), "teacher": (3, 5), "positive": first_anchors},
    "crosskd_distances": {"student": (3, 4, 6), "teacher": (3, 4, 6), "logits": (3, 5)},
    "ctkd": {"student": (7,), "teacher": (7,), "score": (1,)},
    "cwd": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "dist": {"student": (7, 3), "teacher": (7, 3)},
    "dist_channel": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "dist_spatial": {"student": (3, 4, 4), "teacher": (5, 4, 4)},
    "dkd": LABELLED,
    "factor_transfer": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "feature_activation": {"input": (3, 4)},
    "fgd": {"student": (3, 4, 5), "teacher": (3, 4, 5), "boxes": two_boxes},
    "fsp": {
        "student/0": (3, 4, 4),
        "teacher/0": (3, 6, 6),
        "student/1": (2, 2, 2),
        "teacher/1": (2, 6, 6),
        "student/2": (2, 4, 4),
        "teacher/2": (2, 3, 3),
    },
    "hierarchical_context": {"student": (3, 8, 8), "teacher": (3, 8, 8)},
    "hidden_mse": {"student": (4, 5), "teacher": (4, 5)},
    "hint": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "ickd": {"student": (3, 4, 4), "teacher": (3, 2, 2)},
    "ickd_imagenet": {"student": (3, 4, 4), "teacher": (3, 2, 2)},
    "ifvd": {"student": (3, 4, 4), "teacher": (5, 4, 4), "target": void_and_classes},
    "information_entropy": {"input": (7,)},
    "jensen_shannon": {"student": (7,), "teacher": (7,)},
    "kd": {"student": (7,), "teacher": (7,)},
    "kdsvd": {"student/0": (4, 3, 3), "teacher/0": (4, 5, 5), "student/1": (5, 3, 3), "teacher/1": (5, 2, 2)},
    "knowledge_adaptation": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "l1": {"student": (3, 5), "teacher": (3, 5)},
    "ld": {"student": (3, 4, 6), "teacher": (3, 4, 6), "importance": (3,)},
    "many_to_one": {"student": (6, 2, 2), "teacher": (3, 4, 4)},
    "mgd": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "mlkd_batch": {"student": (7,), "teacher": (7,)},
    "mlkd_class": {"student": (7,), "teacher": (7,)},
    "mlkd_instance": {"student": (7,), "teacher": (7,)},
    "mse": {"student": (3, 5), "teacher": (3, 5)},
    "multilabel_kd": {"student": (7,), "teacher": (7,)},
    "nkd": LABELLED,
    "identity": {"value": (3, 4)},
    "norm_penalty": {"input": (3, 4, 4)},
    "nst": {"student": (3, 4, 4), "teacher": (2, 6, 6)},
    "partial_l2": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "pad_l2": {"student": (4,), "teacher": (4,), "log_variance": (4,)},
    "ofa": {"student": (7,), "teacher": (7,), "target": class_labels(7)},
    "patience": {"student": (4, 5), "teacher": (3, 5)},
    "pkd": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "pkt": {"student": (5,), "teacher": (3,)},
    "reverse_kl": {"student": (7,), "teacher": (7,)},
    "rkd_angle": {"student": (5,), "teacher": (3,)},
    "rkd_distance": {"student": (5,), "teacher": (3,)},
    "rld": LABELLED,
    "sdd_dkd": {"student": (3, 4), "teacher": (3, 4), "target": class_labels(4)},
    "sdd_kd": {"student": (3, 4), "teacher": (3, 4), "target": class_labels(4)},
    "self_supervised_kd": {"student": (5,), "teacher": (3,), "index": viewed, "view": view},
    "semckd": {"student/0": (3, 4, 4), "teacher/0": (2, 4, 4), "student/1": (2, 2, 2)},
    "similarity_preserving": {"student": (2, 3, 3), "teacher": (4, 2, 2)},
    "skd_pairwise": {"student": (3, 5, 4), "teacher": (2, 5, 4)},
    "skewed_kl": {"student": (7,), "teacher": (7,)},
    "skewed_reverse_kl": {"student": (7,), "teacher": (7,)},
    "smooth_l1": {"student": (3, 5), "teacher": (3, 5)},
    "squared_error": {"student": (3, 5), "teacher": (3, 5)},
    "soft_cross_entropy": {"student": (7,), "teacher": (7,)},
    "tf_kd": {"student": (4,), "target": class_labels(4)},
    "srd": {"student": (5,), "teacher": (5,)},
    "streamlined_direction": {"student": (5,), "teacher": (5,)},
    "total_variation": {"student": (7,), "teacher": (7,)},
    "transformed_kd": {
        "student": (4,),
        "teacher": (4,),
        "target": class_labels(4),
        "index": viewed,
        "view": view,
    },
    "ttm": {"student": (7,), "teacher": (7,)},
    "uskd": {"student": (4,), "weak": (4,), "target": class_labels(4)},
    "vid": {"student": (3, 4, 4), "teacher": (2, 2, 2)},
    "view_contrast": {"input": (5,), "index": viewed, "view": view},
    "wsld": LABELLED,
    "wttm": {"student": (7,), "teacher": (7,)},
    "wasserstein_features": {"student": (3, 4, 4), "teacher": (3, 2, 2)},
    "wasserstein_logits": {"student": (4,), "teacher": (4,), "target": class_labels(4), "prototypes": class_vectors},
}
FROM_RUN = {"num_samples": 12, "num_classes": 4, "batch_size": 8}
TEACHERS = {f"teacher/{number}": (7,) for number in range(3)}
PEERS: dict[str, Input] = {f"{wire}/{number}": (7,) for number in range(3) for wire in ("student", "teacher")}
EXAMPLES |= {
    "adaptive_ensemble_kd": {"student": (7,), **TEACHERS},
    "confidence_weighted_kd": {"student": (7,), **TEACHERS, "target": class_labels(7)},
    "confidence_weighted_mse": {
        **{f"{wire}/{number}": (3, 4, 4) for number in range(3) for wire in ("student", "teacher")},
        **{f"logits/{number}": (7,) for number in range(3)},
        "target": class_labels(7),
    },
    "ensemble_kd": {"student": (7,), **TEACHERS},
    "entropy_weighted_kd": {"student": (7,), **TEACHERS},
    "mutual": PEERS,
}
"""Values that only a run knows: they have no defaults."""
SMALL: dict[str, dict[str, Any]] = {
    "adaptive_ensemble_kd": {"tolerance": 0.34},  # all three count, and small steps do not change their weights
    "attention_kl": {"heads": 2},
    "cirkd_memory": {"dim": 4, "pixel_memory": 20, "region_memory": 6, "pixel_contrast": 30, "update": 3},
    "crd": {"dim": 8, "negatives": 5},
    "ctkd": {"reversal": 1.0},
    "semckd": {"factor": 2},
    "ifvd": {"num_classes": 4},
    "skd_pairwise": {"norm_gradient": True},
    **{name: {"keep": 1.0} for name in KEEPS},
}
DEVICE = os.environ.get("KD_TEST_DEVICE", "cpu")
"""Where losses are tested: scripts/gpu_check.py asks for a GPU."""
every_loss = pytest.mark.parametrize("name", LOSSES.names())


@functools.cache
def case(name: str) -> LossCase:
    assert name in EXAMPLES, f"add the shapes that {name!r} takes to EXAMPLES"
    unused = ROWS // 2 if name in SECOND_HALF else 0
    small = SMALL.get(name, {})
    return LossCase(name, EXAMPLES[name], small, FROM_RUN, unused_rows=unused, holds=name in HOLDS, device=DEVICE)


@every_loss
@pytest.mark.parametrize("check", LOSS_CHECKS, ids=lambda check: check.__name__)
def test_keeps_the_contract(name: str, check: Callable[[LossCase], None]) -> None:
    check(case(name))


if DEVICE != "cpu":

    @every_loss
    def test_is_on_a_device_what_it_is_on_the_cpu(name: str) -> None:
        there, here = case(name), replace(case(name), device="cpu")
        torch.testing.assert_close(there(there.tensors()).cpu(), here(here.tensors()), rtol=1e-4, atol=1e-6)


LABELS = ("dkd", "nkd", "rld", "sdd_dkd", "sdd_kd", "tf_kd", "uskd", "wsld")
MASKS: dict[str, tuple[str, tuple[int, ...]]] = {
    **dict.fromkeys(("kd", "reverse_kl", "jensen_shannon", "total_variation", "soft_cross_entropy"), ("mask", ())),
    **dict.fromkeys(("ab_divergence", "skewed_kl", "skewed_reverse_kl", "ttm", "wttm"), ("mask", ())),
    **dict.fromkeys(("attention_kl", "attention_mse", "cosine", "hidden_mse"), ("mask", (4,))),
    "dist": ("mask", (3,)),
    "identity": ("mask", (3, 4)),
    "cwd": ("mask", (4, 4)),
    **dict.fromkeys(("crosskd_boxes", "crosskd_classes", "crosskd_distances"), ("mask", (3,))),
    **dict.fromkeys(("cross_entropy", "ofa", *LABELS), ("target", ())),
}
"""What masks some of a loss's values, and its shape without the batch dimension."""


WEIGHTS = [1.0, 0.0, 3.0, 0.5]
BOTH = {"label_smoothing": 0.1, "class_weights": WEIGHTS}


def some(shape: tuple[int, ...]) -> Callable[[int], Tensor]:
    """A mask with nothing in the first two of eight rows, and about half of the others."""

    def mask(rows: int) -> Tensor:
        values = torch.rand(rows, *shape, generator=torch.Generator().manual_seed(0)) < 0.6
        return values & (torch.arange(rows) >= 2).view(-1, *[1] * len(shape))

    return mask


def masked_case(name: str, **values: Any) -> LossCase:
    wire, shape = MASKS[name]
    inputs = {key: value for key, value in EXAMPLES[name].items() if key != wire}
    chosen = some(shape)
    labels = class_labels(4)
    kind = chosen if wire == "mask" else lambda rows: torch.where(chosen(rows), labels(rows), -100)
    return LossCase(name, {**inputs, wire: kind}, {**SMALL.get(name, {}), **values}, FROM_RUN)


def test_every_loss_with_a_mask_is_tested_with_one() -> None:
    takes = {name for name in LOSSES.names() if "mask" in loss_signature(LOSSES.get(name)).wires}
    assert takes == {name for name, (wire, _) in MASKS.items() if wire == "mask"}


@pytest.mark.parametrize("name", MASKS)
def test_masked_means_add_up_from_micro_batches(name: str) -> None:
    micro_batches_add_up(masked_case(name))


@pytest.mark.parametrize("name", MASKS)
def test_no_loss_reads_numbers_of_its_mask_back(name: str) -> None:
    """That would wait for the device. Meta tensors have no numbers."""
    case = masked_case(name)
    assert case({key: value.detach().to("meta") for key, value in case.tensors(rows=8).items()}).is_meta


def hides(name: str, tensor: Tensor, mask: Tensor) -> Tensor:
    """True in a loss's input where its mask, or a label of -100, hides what stands there."""
    masked = mask == (-100 if MASKS[name][0] == "target" else 0)
    if name == "attention_mse":
        masked = masked[:, :, None] | masked[:, None]
    dim = 1 if name in ("attention_mse", "cwd", "dist", "cross_entropy", "ofa") else -1
    while masked.ndim < tensor.ndim:
        masked = masked.unsqueeze(dim)
    return masked.expand_as(tensor)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", MASKS)
def test_nothing_behind_a_mask_reaches_the_loss_or_a_gradient(name: str, garbage: float) -> None:
    case = masked_case(name)
    tensors = case.tensors(rows=8)
    expected = case(tensors)
    mask = tensors[MASKS[name][0]]
    spoilt = {
        key: value.detach().masked_fill(hides(name, value, mask), garbage).requires_grad_()
        if value.is_floating_point()
        else value
        for key, value in tensors.items()
    }
    loss = case(spoilt)
    assert torch.equal(loss, expected)
    for key, gradient in case.gradients(loss, spoilt).items():
        assert torch.equal(gradient, case.gradients(case(tensors), tensors)[key])


@pytest.mark.parametrize("name", ["ifvd", "cirkd_memory"])
def test_nothing_in_void_reaches_the_loss_or_a_gradient(name: str) -> None:
    height, width = EXAMPLES[name]["student"][1:]
    inputs = {**EXAMPLES[name], "target": lambda rows: void_and_classes(rows)[:, :height, :width]}
    case = LossCase(name, inputs, SMALL[name], FROM_RUN)
    tensors = case.tensors()
    void = (tensors["target"] == -1)[:, None]
    spoilt = {k: v.detach().masked_fill(void, float("nan")).requires_grad_() for k, v in list(tensors.items())[:2]}
    loss = case({**spoilt, "target": tensors["target"]})
    assert torch.equal(loss, case(tensors))
    assert all(gradient.isfinite().all() for gradient in case.gradients(loss, spoilt).values())


DIVERGENCES = (
    *("kd", "reverse_kl", "jensen_shannon", "total_variation", "soft_cross_entropy", "multilabel_kd", "dist"),
    *("ab_divergence", "skewed_kl", "skewed_reverse_kl", "ttm", "wttm", "ctkd"),
    *("dkd", "nkd", "rld", "wsld", "mlkd_batch", "mlkd_class", "mlkd_instance"),
)


@pytest.mark.parametrize("name", [*DIVERGENCES, "cwd", "transformed_kd", "cross_entropy", "ofa"])
def test_a_class_that_both_models_mask_leaves_all_finite(name: str) -> None:
    """As a column of minus infinity in logits (B, 7), and in dense ones."""
    case = LossCase(name, EXAMPLES[name], SMALL.get(name, {}))
    tensors = case.tensors()
    keys = [key for key, value in tensors.items() if value.shape == tensors["student"].shape]
    if name == "cross_entropy":
        tensors["target"] = tensors["student"].detach().masked_fill(torch.arange(4) == 2, -torch.inf).softmax(1)
    column = (torch.arange(tensors[keys[0]].shape[1]) == 2).view(1, -1, *[1] * (tensors[keys[0]].ndim - 2))
    masked = {k: tensors[k].detach().masked_fill(column, -torch.inf).requires_grad_() for k in keys}
    loss = case({**tensors, **masked})
    assert loss.isfinite()
    for gradient in case.gradients(loss, masked).values():
        assert gradient.isfinite().all()
        assert not gradient.masked_select(column).any()


SEVERAL = ("ensemble_kd", "entropy_weighted_kd", "confidence_weighted_kd", "adaptive_ensemble_kd", "mutual")
LOGITS = ("student", "teacher", "weak", "logits", "input")


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        *((name, 1) for name in (*SEVERAL, "confidence_weighted_mse", "uskd", "wasserstein_logits", "tf_kd")),
        *((name, 1) for name in ("streamlined_direction", "information_entropy")),
        *((name, 2) for name in ("crosskd_classes", "ld", "sdd_kd", "sdd_dkd")),
    ],
)
def test_a_class_that_all_models_mask_leaves_all_finite(name: str, dim: int) -> None:
    """Of lists of models, of anchors and of regions, too."""
    tensors = case(name).tensors()
    keys = [key for key, value in tensors.items() if key.split("/")[0] in LOGITS and value.ndim > dim]
    if name == "confidence_weighted_mse":
        keys = [key for key in keys if key.startswith("logits")]
    masked = {
        key: tensors[key].detach().index_fill(dim, torch.tensor([2]), -torch.inf).requires_grad_() for key in keys
    }
    loss = case(name)({**tensors, **masked})
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in case(name).gradients(loss, masked).values())


def test_what_one_model_alone_masks_is_as_far_as_it_is() -> None:
    student, teacher = torch.randn(4, 5), torch.randn(4, 5).masked_fill(torch.arange(5) == 2, -torch.inf)
    student.requires_grad_()
    assert LOSSES.get("reverse_kl")(student, teacher).isposinf()  # the student's share cannot be explained
    for name in ("kd", "jensen_shannon", "total_variation", "soft_cross_entropy", "multilabel_kd"):
        loss = LOSSES.get(name)(student, teacher)
        assert loss.isfinite(), name
        assert torch.autograd.grad(loss, student)[0].isfinite().all(), name


def column_masked(tensors: dict[str, Tensor], wires: set[str], dim: int) -> dict[str, Tensor]:
    """Those of ``wires`` with minus infinity in one column of a dimension."""
    keys = [key for key, value in tensors.items() if key.split("/")[0] in wires and value.requires_grad]
    column = torch.tensor([1])
    return {key: tensors[key].detach().index_fill(dim, column, -torch.inf).requires_grad_() for key in keys}


@pytest.mark.parametrize("wires", [{"student"}, {"student", *LOGITS}], ids=["student", "all"])
def test_no_finite_loss_hides_a_gradient_that_is_not(wires: set[str]) -> None:
    """Of a masked column: a run refuses a loss that is not finite, and would not see such a gradient."""
    for name in LOSSES.names():
        for dim in (1, -1):
            tensors = case(name).tensors()
            masked = column_masked(tensors, wires, dim)
            try:
                loss = case(name)({**tensors, **masked})
            except KDError:
                continue
            if loss.isfinite() and masked:
                gradients = case(name).gradients(loss, masked).items()
                assert all(gradient.isfinite().all() for _, gradient in gradients), (name, dim)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 2)])
def test_the_virtual_teacher_knows_only_the_classes_that_the_student_has(shape: tuple[int, ...]) -> None:
    logits = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    target = torch.zeros(shape[:1] + shape[2:], dtype=torch.long)
    target[0] = -100
    masked = logits.detach().index_fill(1, torch.tensor([2]), -torch.inf).requires_grad_()
    loss, others = tf_kd(masked, target), tf_kd(logits[:, [0, 1, 3, 4]], target)
    torch.testing.assert_close(loss, others)
    gradient, expected = torch.autograd.grad(loss, masked)[0], torch.autograd.grad(others, logits)[0]
    torch.testing.assert_close(gradient[:, [0, 1, 3, 4]], expected[:, [0, 1, 3, 4]])
    assert not gradient[:, 2].any()
    assert tf_kd(masked, torch.full_like(target, 2)).isposinf()
    assert tf_kd(masked, target, temperature=1e-3).isfinite()


@pytest.mark.parametrize("values", [{"label_smoothing": 0.1}, {"class_weights": WEIGHTS}, BOTH])
def test_weighted_means_add_up_from_micro_batches(values: dict[str, Any]) -> None:
    micro_batches_add_up(masked_case("cross_entropy", **values))


@every_loss
def test_documentation_has_the_signature(name: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "losses.md"
    assert f"### `{name}{signature_text(LOSSES.get(name))}`" in page.read_text(encoding="utf-8")
