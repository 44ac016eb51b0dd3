"""Makes losses/*.json of the losses for detectors, and detection/*.json of their adapters.

    python tests/golden/make_detection.py REPOS [NAME...]

As make_losses.py, whose words these are. Of each file only the functions and classes that a reference names are run,
without their decorators; what is of mmcv or mmdet they do not have.
"""

from __future__ import annotations

import functools
import typing
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import torch
from make_regions import replaced
from recipes import Case, Golden, Input, Reference, Tensors, command, digits, load_part, pair, weigh
from torch import Tensor, nn

FGD = ("yzd-v/FGD", "c03a6cf3b3cb3cbfd5554dbf4766e7135747d22d", "mmdet/distillation/losses/fgd.py")
CROSSKD = ("jbwang1997/CrossKD", "87e156a46259e3a516b65fc6a049b200b9ab0d54")
LD = ("HikariTJU/LD", "4287990ca27f51f6f15dc66d28bb420a053c307e")
MMRAZOR = ("open-mmlab/mmrazor", "90c7af1fdf35a606a2fceaaeb4b6be2f0dac4eb7")


def load(reference: Reference, repos: Any) -> Any:
    """The reference, with mmcv's initial values, which count for nothing here, as nothing.

    ``weighted_loss``, where it needs that, decorates what it stands above, as it does there.
    """
    names: dict[str, Any] = {name: getattr(typing, name) for name in ("Callable", "List", "Optional", "Tuple", "Union")}
    names |= {"functools": functools, "Tensor": Tensor, "np": numpy}
    names |= dict.fromkeys(("BaseAssigner", "CrossKDSingleStageDetector", "SampleList", "InstanceList"), object)
    names |= {"OptInstanceList": None}
    for initial in ("constant_init", "kaiming_init"):
        names[initial] = lambda *_, **__: None
    names["fp16_clamp"] = torch.clamp
    names["force_fp32"] = lambda **_: lambda method: method
    names["AssignResult"] = lambda number, indices, overlaps, labels: indices
    names |= dict.fromkeys(("AnchorHead", "GFLHead"), object)
    return load_part(reference, repos, keep=("weighted_loss",), **names)


def real(boxes: Tensor) -> list[Tensor]:
    """The rows of (B, M, 4) that are boxes, image by image."""
    return [rows[(rows[:, 2] >= rows[:, 0]) & (rows[:, 3] >= rows[:, 1])] for rows in boxes.detach()]


def focal(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """FGD without its relation; boxes that are fractions of an image are its boxes in an image of 1 by 1 pixel."""
    names = {"alpha": "alpha_fgd", "beta": "beta_fgd", "gamma": "gamma_fgd", "temperature": "temp"}
    own = {names[name]: value for name, value in values.items()}
    channels, boxes = given["student"].shape[1], real(given["boxes"])
    loss = code(channels, channels, "fgd", lambda_fgd=0.0, **own)
    value = loss(given["student"], given["teacher"], boxes, [{"img_shape": (1, 1)}] * len(boxes))
    assert isinstance(value, Tensor)
    return value


EPSILON = torch.finfo(torch.float32).eps
"""What the authors add to the number of positive anchors."""


def crosskd(which: int) -> Any:
    """``pred_mimicking_loss_single`` of all anchors at one place, on boxes that are decoded already."""

    def call(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
        around = code.pred_mimicking_loss_single.__globals__
        beta = {name: value for name, value in values.items() if name == "beta"}
        regression = "IoULoss" if values.get("distance") == "log_iou" else "GIoULoss"
        boxes, (count, anchors) = which == 1, given["positive"].shape
        classes = given["logits"].detach() if boxes else given["student"]
        pair = [
            given[name] if boxes else classes.detach()[..., :1].expand(-1, -1, 4) for name in ("teacher", "student")
        ]
        scores = [classes, classes] if boxes else [given["teacher"], given["student"]]
        kinds = classes.shape[2]
        head = SimpleNamespace(
            cls_out_channels=kinds, bbox_coder=SimpleNamespace(encode_size=4, decode=lambda anchors, deltas: deltas)
        )
        detector = SimpleNamespace(
            bbox_head=head, loss_cls_kd=around["KDQualityFocalLoss"](**beta), loss_reg_kd=around[regression]()
        )
        maps = [each.transpose(1, 2).reshape(count, -1, anchors, 1) for each in (*scores, *pair)]
        weights = given.get("mask", torch.ones(count, anchors)).double().clone()
        number = (given["positive"] * weights).sum(1).clamp(min=1).sum().item()
        both = code.pred_mimicking_loss_single(
            detector, maps[0], maps[2], maps[1], maps[3], torch.zeros(count, anchors, 4), weights, number - EPSILON
        )
        value = both[which]
        assert isinstance(value, Tensor)
        return value

    return call


def distributions(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """CrossKD's loss of distributions over distances, of all anchors at one place."""
    around = code.pred_mimicking_loss_single.__globals__
    count, anchors, _, distances = given["student"].shape
    loss = around["KnowledgeDistillationKLDivLoss"](class_reduction="sum", T=values["temperature"])
    kinds = given["logits"].shape[2]
    detector = SimpleNamespace(
        bbox_head=SimpleNamespace(cls_out_channels=kinds, reg_max=distances - 1),
        loss_cls_kd=lambda *_, **__: None,
        loss_reg_kd=lambda *args, avg_factor, **more: loss(*args, avg_factor=avg_factor - EPSILON, **more),
    )
    sides = [given[name].flatten(2).transpose(1, 2).reshape(count, -1, anchors, 1) for name in ("teacher", "student")]
    scores = given["logits"].detach().transpose(1, 2).reshape(count, -1, anchors, 1)
    weights = given.get("mask", torch.ones(count, anchors)).double().clone()
    _, value, total = code.pred_mimicking_loss_single(detector, scores, sides[0], scores, sides[1], weights, 1.0)
    assert isinstance(value, Tensor)
    return value / total


def localization(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """LD's divergence as its head calls it: a row a side, each with its anchor's weight, over the number of sides."""
    rows = [given[name].flatten(0, 2) for name in ("student", "teacher")]
    weight = given["importance"].flatten()[:, None].expand(-1, 4).reshape(-1)
    value = code(T=values["temperature"])(*rows, weight=weight, avg_factor=4.0)
    assert isinstance(value, Tensor)
    return value


LOSSES = "mmdet/models/losses"
WEIGHTED = tuple((name, f"{LOSSES}/utils.py") for name in ("reduce_loss", "weight_reduce_loss", "weighted_loss"))
RETINANET = Reference(
    *CROSSKD,
    "mmdet/models/detectors/crosskd_retinanet.py",
    "CrossKDRetinaNet",
    crosskd(0),
    needs=(
        *WEIGHTED,
        *((name, f"{LOSSES}/kd_loss.py") for name in ("kd_quality_focal_loss", "KDQualityFocalLoss")),
        ("bbox_overlaps", "mmdet/structures/bbox/bbox_overlaps.py"),
        *((name, f"{LOSSES}/iou_loss.py") for name in ("iou_loss", "giou_loss", "IoULoss", "GIoULoss")),
    ),
)
DIVERGENCE = tuple(
    (name, f"{LOSSES}/kd_loss.py") for name in ("knowledge_distillation_kl_div_loss", "KnowledgeDistillationKLDivLoss")
)
REFERENCES = {
    "crosskd_classes": RETINANET,
    "crosskd_boxes": replace(RETINANET, call=crosskd(1)),
    "crosskd_distances": Reference(
        *CROSSKD,
        "mmdet/models/detectors/crosskd_gfl.py",
        "CrossKDGFL",
        distributions,
        needs=(*WEIGHTED, *DIVERGENCE),
    ),
    "ld": Reference(*LD, *reversed(DIVERGENCE[1]), localization, needs=(*WEIGHTED, DIVERGENCE[0])),
    "fgd": Reference(*FGD, "FeatureLoss", focal),
    "pkd": Reference(
        *MMRAZOR,
        "mmrazor/models/losses/pkd_loss.py",
        "PKDLoss",
        lambda code, given, values: code()(given["student"], given["teacher"]),
    ),
}

FRACTIONS = {"low": 0.0, "high": 1.0}
STUDENT_ONLY = ("student",)
"""The authors detach what the teacher gives."""


def some(*shape: int, seed: int) -> Input:
    """Ones and zeros."""
    return Input(shape, seed, low=0.0, whole=True)


def corners(*shape: int, seeds: tuple[int, int]) -> dict[str, Input]:
    """Boxes of both models, by seeds of which no box is turned inside out."""
    return {name: Input((*shape, 4), seed, low=0.0) for name, seed in zip(("student", "teacher"), seeds, strict=True)}


CASES: dict[str, list[Case]] = {
    "crosskd_classes": [
        Case(
            "crosskd_classes",
            {**pair((2, 5, 3), seed=1200 + i, low=-4.0), **more},
            values,
            STUDENT_ONLY,
        )
        for i, (more, values) in enumerate(
            (
                ({"positive": some(2, 5, seed=1230)}, {"beta": 1.0}),
                ({"positive": some(2, 5, seed=1231), "mask": some(2, 5, seed=1232)}, {"beta": 2.0}),
                ({"positive": Input((2, 5), 1233, low=0.0, high=0.9, whole=True)}, {}),
            )
        )
    ],
    "crosskd_boxes": [
        Case(
            "crosskd_boxes",
            {**corners(2, 3, seeds=seeds), "logits": Input((2, 3, 4), 1242), **more},
            values,
            ("student", "teacher"),
        )
        for seeds, more, values in (
            ((114, 6834), {"positive": some(2, 3, seed=1243)}, {}),
            ((20807, 30463), {"positive": some(2, 3, seed=1244), "mask": some(2, 3, seed=1245)}, {}),
            ((30858, 30877), {"positive": Input((2, 3), 1246, low=0.0, high=0.9, whole=True)}, {}),
            ((114, 6834), {"positive": Input((2, 3), 1247, low=0.0, high=3.0)}, {"distance": "log_iou"}),
        )
    ],
    "crosskd_distances": [
        Case(
            "crosskd_distances",
            {**pair((2, 3, 4, 5), seed=1250, low=-4.0), "logits": Input((2, 3, 4), 1252), **more},
            {"temperature": temperature},
            STUDENT_ONLY,
        )
        for temperature, more in ((1.0, {}), (3.0, {"mask": some(2, 3, seed=1255)}))
    ],
    "ld": [
        Case(
            "ld",
            {**pair(shape, seed=1260 + 2 * i, low=-6.0), "importance": Input(shape[:2], 1280 + i, low=0.0, high=1.0)},
            {"temperature": temperature},
            ("student", "importance"),
        )
        for i, (shape, temperature) in enumerate((((2, 3, 4, 5), 10.0), ((1, 4, 4, 2), 1.0), ((3, 1, 4, 7), 2.5)))
    ],
    "fgd": [
        Case("fgd", {**pair(shape, seed=seed), "boxes": Input((shape[0], most, 4), seed + 2, **FRACTIONS)}, values)
        for shape, most, seed, values in (
            ((2, 3, 6, 5), 7, 1000, {"alpha": 1.0, "beta": 0.5, "gamma": 0.3}),
            ((3, 4, 2, 7), 3, 1010, {"alpha": 0.2, "beta": 0.7, "gamma": 0.1, "temperature": 1.3}),
            ((1, 2, 4, 4), 12, 1020, {}),
            ((2, 5, 3, 3), 1, 1030, {"alpha": 5e-5, "beta": 2.5e-5, "gamma": 5e-5, "temperature": 0.2}),
        )
    ],
    "pkd": [
        Case("pkd", pair(student, teacher, seed=1040 + 2 * i), {})
        for i, (student, teacher) in enumerate(
            (
                ((2, 3, 4, 5), (2, 3, 4, 5)),
                ((3, 2, 1, 1), (3, 2, 1, 1)),
                ((2, 3, 3, 4), (2, 3, 6, 7)),
                ((1, 4, 6, 6), (1, 4, 3, 3)),
            )
        )
    ],
}


def whole(
    repos: Path, student: tuple[int, ...], teacher: tuple[int, ...], most: int, seed: int, values: dict[str, float]
) -> Any:
    """All of FGD with its parameters by formula, and the gradients of those."""
    inputs = {**pair(student, teacher, seed=seed), "boxes": Input((student[0], most, 4), seed + 2, **FRACTIONS)}
    loss = load(REFERENCES["fgd"], repos)(student[1], teacher[1], "fgd", **values)
    weigh(loss, 400)
    given = {name: each.tensor().requires_grad_() for name, each in inputs.items()}
    boxes = real(given["boxes"])
    value = loss(given["student"], given["teacher"], boxes, [{"img_shape": (1, 1)}] * len(boxes))
    value.backward()
    return {
        "repository": FGD[0],
        "commit": FGD[1],
        "file": FGD[2],
        "symbol": "FeatureLoss",
        "inputs": {name: asdict(each) for name, each in inputs.items()},
        "values": values,
        "value": value.item(),
        "gradients": {name: digits(given[name].grad) for name in ("student", "teacher")},
        "of_weights": [digits(each.grad) for each in loss.parameters()],
    }


def crossed(repos: Path, shape: tuple[int, ...], index: int, seed: int) -> Any:
    """A teacher's head of two layers and an output, from its layer ``index`` on, on a student's features."""
    inputs = pair(shape, seed=seed)
    given = {name: each.tensor().requires_grad_() for name, each in inputs.items()}
    channels = shape[1]
    layers = [nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()) for _ in range(2)]
    output = nn.Conv2d(channels, 2, 1)
    weigh(nn.ModuleList([*layers, output]), 400)
    code = load(RETINANET, repos)
    head = SimpleNamespace(
        stacked_convs=2, cls_convs=layers, reg_convs=layers, retina_cls=output, retina_reg=nn.Identity()
    )
    detector = SimpleNamespace(
        align_scale=functools.partial(code.align_scale, None),
        reused_teacher_head_idx=index,
        teacher=SimpleNamespace(bbox_head=head),
    )
    values, _ = code.reuse_teacher_head(
        detector, given["teacher"], given["teacher"], given["student"], given["student"]
    )
    value = (values * Input(tuple(values.shape), seed + 2).tensor()).sum()
    value.backward()
    return {
        "repository": CROSSKD[0],
        "commit": CROSSKD[1],
        "file": RETINANET.file,
        "symbol": RETINANET.symbol,
        "inputs": {name: asdict(each) for name, each in inputs.items()},
        "values": {"index": index},
        "value": value.item(),
        "gradients": {name: digits(each.grad) for name, each in given.items()},
    }


CALCULATOR = "mmdet/core/bbox/iou_calculators/iou2d_calculator.py"
ASSIGNER = Reference(
    *LD,
    "mmdet/core/bbox/assigners/atss_assigner.py",
    "ATSSAssigner",
    localization,
    needs=(("bbox_overlaps", CALCULATOR), ("BboxOverlaps2D", CALCULATOR)),
)


def grid(*sides: int) -> Tensor:
    """Anchors of 4 pixels' stride in an image of 32 by 32, of which each next level has twice the stride and side."""
    levels = []
    for level, side in enumerate(sides):
        step = 4 * 2**level
        places = torch.arange(step / 2, 32, step)
        rows, columns = torch.meshgrid(places, places, indexing="ij")
        centres = torch.stack((columns, rows), dim=-1).view(-1, 2)
        levels.append(torch.cat((centres - side / 2, centres + side / 2), dim=1))
    return torch.cat(levels)


def region(repos: Path, sides: tuple[int, ...], seed: int, nearest: int) -> Any:
    """LD's valuable region of boxes in an image."""
    code = load(ASSIGNER, repos)
    assigner = code.__new__(code)
    assigner.topk, assigner.ignore_iof_thr = nearest, -1
    assigner.iou_calculator = code.get_vlr_region.__globals__["BboxOverlaps2D"]()
    boxes = Input((6, 4), seed, low=0.0, high=32.0)
    (rows,) = real(boxes.tensor()[None])
    with replaced():
        found = assigner.get_vlr_region(grid(*sides), [(8 // 2**level) ** 2 for level in range(len(sides))], rows)
    return {
        "repository": LD[0],
        "commit": LD[1],
        "file": ASSIGNER.file,
        "symbol": ASSIGNER.symbol,
        "boxes": asdict(boxes),
        "values": {"sides": sides, "nearest": nearest},
        "value": digits(found),
    }


GOLDENS: dict[str, Golden] = {
    "detection/region": lambda repos: [
        region(repos, (7, 13), 1403, 9),
        region(repos, (9, 12, 20), 1405, 4),
        region(repos, (5,), 1407, 9),
    ],
    "detection/crosskd": lambda repos: [
        crossed(repos, (2, 3, 4, 5), 1, 1300),
        crossed(repos, (1, 4, 3, 3), 0, 1310),
    ],
    "detection/fgd": lambda repos: [
        whole(repos, (2, 3, 4, 5), (2, 4, 4, 5), 6, 1100, {"lambda_fgd": 0.3, "alpha_fgd": 0.1, "beta_fgd": 0.2}),
        whole(repos, (1, 4, 3, 3), (1, 4, 3, 3), 4, 1110, {"lambda_fgd": 0.05, "temp": 0.8}),
    ],
}


if __name__ == "__main__":
    command(globals())
