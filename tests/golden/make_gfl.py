"""Makes detection/gfl.json and detection/ld.json: GFL's losses, and what LD adds, of what a head gives on all levels.

    python tests/golden/make_gfl.py REPOS [NAME...]

As make_detection.py, whose words these are. Which anchors stand for objects LD's assigner says.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from make_detection import ASSIGNER, CALCULATOR, CROSSKD, DIVERGENCE, EPSILON, LD, LOSSES, WEIGHTED, grid, load, real
from make_regions import replaced
from recipes import Golden, Input, Reference, command, digits
from torch import Tensor

HEADS = "mmdet/models/dense_heads"
FOCAL = f"{LOSSES}/gfocal_loss.py"
GFL_HEAD = Reference(
    *CROSSKD,
    f"{HEADS}/gfl_head.py",
    "GFLHead",
    lambda code, given, values: given["sides"],
    needs=(
        *WEIGHTED,
        ("bbox_overlaps", "mmdet/structures/bbox/bbox_overlaps.py"),
        *((name, "mmdet/structures/bbox/transforms.py") for name in ("distance2bbox", "bbox2distance")),
        *((name, f"{LOSSES}/iou_loss.py") for name in ("giou_loss", "GIoULoss")),
        *((name, FOCAL) for name in ("quality_focal_loss", "distribution_focal_loss")),
        *((name, FOCAL) for name in ("QualityFocalLoss", "DistributionFocalLoss")),
        ("Integral", f"{HEADS}/gfl_head.py"),
    ),
)
LD_HEAD = replace(
    GFL_HEAD,
    repo=LD[0],
    commit=LD[1],
    file=f"{HEADS}/ld_head.py",
    symbol="LDHead",
    needs=(
        *WEIGHTED,
        *DIVERGENCE,
        ("bbox_overlaps", CALCULATOR),
        *((name, "mmdet/core/bbox/transforms.py") for name in ("distance2bbox", "bbox2distance")),
        ("Integral", f"{HEADS}/gfl_head.py"),
    ),
)
SIDE, STRIDE = 8, 4
"""Positions in a row of the finest level, and their stride in pixels: the next level has half and twice as many."""


def counts(levels: int) -> list[int]:
    """How many positions each level has."""
    return [(SIDE >> level) ** 2 for level in range(levels)]


def anchors_of(scale: int, levels: int) -> Tensor:
    """(A, 4): squares of ``scale`` strides."""
    return grid(*(scale * STRIDE << level for level in range(levels)))


def maps(rows: Tensor, levels: int) -> list[Tensor]:
    """(B, A, ...) -> (B, C, H, W) of each level."""
    parts = rows.flatten(2).split(counts(levels), 1)
    return [part.mT.unflatten(2, (SIDE >> level, SIDE >> level)) for level, part in enumerate(parts)]


def assign(repos: Path, boxes: Tensor, scale: int, levels: int, method: str) -> Tensor:
    """(B, A): what a method of the assigner says of each anchor."""
    code = load(ASSIGNER, repos)
    assigner = code.__new__(code)
    assigner.topk, assigner.ignore_iof_thr = 9, -1
    assigner.iou_calculator = code.get_vlr_region.__globals__["BboxOverlaps2D"]()
    with replaced():
        found = [
            getattr(assigner, method)(anchors_of(scale, levels), counts(levels), rows.clone()) for rows in real(boxes)
        ]
    return torch.stack(found)


def head_of(code: Any, method: Callable[..., Any], kinds: int, bins: int, **losses: Any) -> SimpleNamespace:
    """What a method of the head reads of it; ``losses`` are made of the names around it."""
    around = method.__globals__
    return SimpleNamespace(
        cls_out_channels=kinds,
        num_classes=kinds,
        reg_max=bins - 1,
        imitation_method="fitnet",
        integral=around["Integral"](bins - 1),
        bbox_coder=SimpleNamespace(
            decode=around["distance2bbox"], encode=functools.partial(around["bbox2distance"], eps=0.1)
        ),
        anchor_center=lambda boxes: (boxes[..., :2] + boxes[..., 2:]) / 2,
        **{name: make(around) for name, make in losses.items()},
    )


def batch(repos: Path, inputs: dict[str, Input], scale: int, levels: int) -> tuple[dict[str, Tensor], Tensor, Any]:
    """The tensors of a case; (B, A) which anchors are positive; and of each level anchors, labels and true boxes."""
    given = {name: each.tensor().requires_grad_(name != "boxes") for name, each in inputs.items()}
    kinds = given["logits"].shape[2]
    which = assign(repos, given["boxes"], scale, levels, "assign")
    truth = torch.stack([rows[(each - 1).clamp(min=0)] for rows, each in zip(real(given["boxes"]), which, strict=True)])
    labels = torch.where(which > 0, which % kinds, kinds)  # box number n is of the class n, counted around
    anchors = anchors_of(scale, levels).expand(len(which), -1, -1)
    return given, which > 0, zip(*(part.split(counts(levels), 1) for part in (anchors, labels, truth)), strict=True)


def totals(found: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
    """The sums over the levels."""
    return [torch.stack(part).sum() for part in zip(*found, strict=True)]


def gfl(repos: Path, inputs: dict[str, Input], scale: int, levels: int) -> Any:
    """GFL's losses of classes, boxes and distributions with weights of 1, and the gradients of their sum."""
    given, positive, parts = batch(repos, inputs, scale, levels)
    code = load(GFL_HEAD, repos)
    method = code.loss_by_feat_single
    makers = {
        "loss_cls": lambda around: around["QualityFocalLoss"](),
        "loss_bbox": lambda around: around["GIoULoss"](),
        "loss_dfl": lambda around: around["DistributionFocalLoss"](),
    }
    head = head_of(code, method, given["logits"].shape[2], given["sides"].shape[3], **makers)
    number = positive.sum(1).clamp(min=1).sum().item() - EPSILON
    levels_of = zip(parts, maps(given["logits"], levels), maps(given["sides"], levels), strict=True)
    found = [
        method(head, rows, logits, sides, labels, torch.ones(labels.shape), truth, (STRIDE << level,) * 2, number)
        for level, ((rows, labels, truth), logits, sides) in enumerate(levels_of)
    ]
    classes, boxes, distributions, weights = totals(found)
    total = weights.clamp(min=1)
    values = [classes, boxes * (1 + EPSILON) / total, distributions * (4 + EPSILON) / 4 / total]
    return _record(GFL_HEAD, inputs, given, {"scale": scale, "levels": levels}, values)


def localization(repos: Path, inputs: dict[str, Input], scale: int, levels: int) -> Any:
    """LD's losses of the main and of the valuable region and of classes, with its weights, and their gradients."""
    given, _, parts = batch(repos, inputs, scale, levels)
    code = load(LD_HEAD, repos)
    method = code.loss_single
    nothing = {name: lambda _: lambda *_, **__: torch.zeros(()) for name in ("loss_cls", "loss_bbox", "loss_dfl")}
    makers = {
        "loss_ld": lambda around: around["KnowledgeDistillationKLDivLoss"](loss_weight=0.25, T=10),
        "loss_ld_vlr": lambda around: around["KnowledgeDistillationKLDivLoss"](loss_weight=0.25, T=10),
        "loss_kd": lambda around: around["KnowledgeDistillationKLDivLoss"](loss_weight=10, T=2),
    }
    head = head_of(code, method, given["logits"].shape[2], given["sides"].shape[3], **nothing, **makers)
    head.loss_im = lambda *_: torch.zeros(())
    region = assign(repos, given["boxes"], scale, levels, "get_vlr_region").split(counts(levels), 1)
    each = [maps(given[name], levels) for name in ("logits", "sides", "teacher_sides", "teacher_logits")]
    found = []
    for level, ((rows, labels, truth), logits, sides, theirs, their_logits) in enumerate(
        zip(parts, *each, strict=True)
    ):
        features = torch.zeros(len(logits), 256, *logits.shape[2:])
        weights, no_region = torch.ones(labels.shape), torch.zeros(labels.shape)
        how = (theirs, their_logits, features, features, region[level], no_region, 1.0)
        found.append(method(head, rows, logits, sides, labels, weights, truth, (STRIDE << level,) * 2, *how)[3:6])
    return _record(LD_HEAD, inputs, given, {"scale": scale, "levels": levels}, totals(found))


def _record(
    reference: Reference,
    inputs: dict[str, Input],
    given: dict[str, Tensor],
    values: dict[str, int],
    found: list[Tensor],
) -> Any:
    """What JSON keeps, after the backward pass from the sum of what was ``found``."""
    torch.stack(found).sum().backward()
    return {
        "repository": reference.repo,
        "commit": reference.commit,
        "file": reference.file,
        "symbol": reference.symbol,
        "inputs": {name: asdict(each) for name, each in inputs.items()},
        "values": values,
        "value": [each.item() for each in found],
        "gradients": {name: digits(given[name].grad) for name in ("logits", "sides")},
    }


def inputs(images: int, levels: int, kinds: int, bins: int, seed: int, *, teacher: bool = False) -> dict[str, Input]:
    """A head's logits of a batch, perhaps a teacher's, and boxes, of which those inside out are none."""
    anchors = sum(counts(levels))
    heads = {"logits": (images, anchors, kinds), "sides": (images, anchors, 4, bins)}
    found = {name: Input(shape, seed + number) for number, (name, shape) in enumerate(heads.items())}
    if teacher:
        found |= {f"teacher_{name}": replace(each, seed=each.seed + 2) for name, each in list(found.items())}
    return {**found, "boxes": Input((images, 12, 4), seed + 4, low=0.0, high=32.0)}


GOLDENS: dict[str, Golden] = {
    "detection/gfl": lambda repos: [
        gfl(repos, inputs(2, 1, 3, 5, 1500), 4, 1),
        gfl(repos, inputs(1, 2, 2, 9, 1510), 2, 2),
    ],
    "detection/ld": lambda repos: [localization(repos, inputs(1, 2, 3, 5, 1570, teacher=True), 2, 2)],
}


if __name__ == "__main__":
    command(globals())
