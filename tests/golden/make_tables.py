"""Makes losses/*.json and tables/*.json of the methods of torchdistill's and RepDistiller's tables.

    python tests/golden/make_tables.py REPOS [NAME...]

As make_losses.py, whose words these are. Of each file only the functions and classes that a reference names are run,
without their decorators.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import make_dense
import make_methods
import numpy as np
import torch
from make_losses import REPDISTILLER
from make_methods import Adapter, adapter_record, uncalled
from recipes import Case, Golden, Input, Reference, Tensors, command, digits, load_part, pair, weigh
from torch import Tensor, nn
from torch.nn import functional as F

MID_LEVEL, WRAPPER = make_dense.MID_LEVEL, make_dense.WRAPPER
HOOKED = (("_extract_feature_map", MID_LEVEL[-1]),)
AB = ("bhheo/AB_distillation", "a7701d3506e13da87bda75aba1cee6397408144f")
ICKD = ("ADLab-AutoDrive/ICKD", "403b8d3d7c3aaa429e4708870d2be1d4daf92f07")
ICKD_CIFAR = (*ICKD, "Cifar100/distiller_zoo/ICKD.py")
ICKD_IMAGENET = (*ICKD, "ImageNet/torchdistill/losses/single.py")
SRD = ("roymiles/Simple-Recipe-Distillation", "31e8477cfdd6bb6ec7cdc332915fd4496b6de7b6")
SRD_IMAGENET = (*SRD, "imagenet/torchdistill/losses/single.py")
STREAMLINED = ("HyunJunSik/StreamLined", "745862882aaba69c9403a8fa562decaafbe03d35", "Distiller/SKD.py")
NAMES = {
    "np": np,
    "math": math,
    "os": os,
    "normalize": F.normalize,
    "adaptive_max_pool2d": F.adaptive_max_pool2d,
    "AuxiliaryModelWrapper": nn.Module,
    "wrap_if_distributed": lambda module, *rest, **named: module,
}


def load(reference: Reference, repos: Path) -> Any:
    """The function or class, with the names that these files import."""
    return load_part(reference, repos, **NAMES)


def lists(given: Tensors) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors student/0, student/1, ... and teacher/0, teacher/1, ..."""
    student, teacher = (
        [tensor for key, tensor in given.items() if key.startswith(name)] for name in ("student", "teacher")
    )
    return student, teacher


Shapes = list[tuple[int, ...]]


def maps(students: Shapes, teachers: Shapes, *, seed: int, **how: Any) -> dict[str, Input]:
    """Lists of inputs of these shapes."""
    named = {"student": students, "teacher": teachers}
    keys = [(f"{name}/{i}", shape) for name, shapes in named.items() for i, shape in enumerate(shapes)]
    return {key: Input(shape, seed + number, **how) for number, (key, shape) in enumerate(keys)}


def hooks(given: Tensors) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What torchdistill's hooks catch of both models, at the paths "0", "1", ..., and its pairs of them."""
    caught = tuple({str(i): {"output": tensor} for i, tensor in enumerate(tensors)} for tensors in lists(given))
    pairs = {i: {name: {"io": "output", "path": i} for name in ("student", "teacher")} for i in caught[0]}
    return caught[0], caught[1], pairs


def flows(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """torchdistill's matrices, with maxima, under RepDistiller's mean."""
    matrices = ([code.compute_fsp_matrix(*ends) for ends in pairwise(tensors)] for tensors in lists(given))
    terms = [F.mse_loss(*pair) for pair in zip(*matrices, strict=True)]
    return sum(terms[1:], start=terms[0])


def boundaries(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    student, teacher, pairs = hooks(given)
    loss = code(pairs, values["margin"], "mean")(student, teacher)
    assert isinstance(loss, Tensor)
    return loss


def congruence(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    config = {"type": values["kernel"], "gamma": values.get("gamma"), "max_p": values.get("order")}
    loss = code("here", "here", config, "batchmean")(*make_dense.hooked(given))
    assert isinstance(loss, Tensor)
    return loss


def prime_aware(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    student, teacher = make_dense.hooked(given)
    student["variance"] = {"output": given["log_variance"]}
    loss = code("here", "here", module_path="variance", reduction="mean", **values)(student, teacher)
    assert isinstance(loss, Tensor)
    return loss


def embedded(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """The loss without its embedding, which is an adapter here."""
    criterion = code(SimpleNamespace(s_dim=1, feat_dim=1))
    criterion.embed_s = nn.Identity()
    loss = criterion.batch_loss(given["student"], given["teacher"])
    assert isinstance(loss, Tensor)
    return loss


def recipe(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """The loss without its embedding, which is an adapter here, and with batch norms as wide as what is given."""
    moved, nn.Module.cuda = nn.Module.cuda, lambda self: self  # type: ignore[method-assign,assignment]
    try:
        criterion = code("log_bn_corr_4")
    finally:
        nn.Module.cuda = moved  # type: ignore[method-assign]
    criterion.embed = nn.Identity()
    for norm in (criterion.bn_s, criterion.bn_t):
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    loss = criterion.forward_loss(given["student"], given["teacher"])
    assert isinstance(loss, Tensor)
    return loss


def recipe_of_torchdistill(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """Its features are normalised by layers of its own; it counts twice, beside a divergence that is 0 here."""
    caught = []
    for name in ("student", "teacher"):
        rows = F.batch_norm(given[name], None, None, training=True, eps=values.get("eps", 1e-4))
        caught.append({"norm": {"output": rows}, ".": {"output": torch.zeros(2, 3)}})
    paths = ("norm", "output", "norm", "output", ".", "output", ".", "output")
    loss = code(*paths, exponent=values["exponent"])(*caught) / 2
    assert isinstance(loss, Tensor)
    return loss


def direction(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """torchdistill's cosines are not divided by the number of classes."""
    tikhonov = values["tikhonov"] * given["student"].shape[1] ** 2
    loss = code("here", "output", "here", "output", tikhonov=tikhonov)(*make_dense.hooked(given))
    assert isinstance(loss, Tensor)
    return loss


REFERENCES = {
    "repdistiller_fsp": Reference(
        *REPDISTILLER,
        "distiller_zoo/FSP.py",
        "FSP",
        lambda code, given, values: sum(code(*([t.shape for t in ts] for ts in lists(given)))(*lists(given))),
    ),
    "matsubara_fsp": Reference(*MID_LEVEL, "FSPLoss", flows),
    "heo_boundaries": Reference(
        *AB,
        "cifar10_AB_distillation.py",
        "criterion_alternative_L2",
        lambda code, given, values: code(*given.values(), values["margin"]) / len(given["student"]),
    ),
    "repdistiller_ab": Reference(
        *REPDISTILLER,
        "distiller_zoo/AB.py",
        "ABLoss",
        lambda code, given, values: sum(code(len(given) // 2, values["margin"])(*lists(given))) * 1000 / 3,
    ),
    "matsubara_dab": Reference(*MID_LEVEL, "AltActTransferLoss", boundaries, needs=HOOKED),
    "repdistiller_cc": Reference(
        *REPDISTILLER,
        "distiller_zoo/CC.py",
        "Correlation",
        lambda code, given, values: code()(given["student"], given["teacher"]),
    ),
    "matsubara_cckd": Reference(*MID_LEVEL, "CCKDLoss", congruence),
    "matsubara_pad": Reference(*MID_LEVEL, "PADL2Loss", prime_aware),
    "liu_cifar": Reference(*ICKD_CIFAR, "ICKDLoss", embedded, needs=(("Embed", ICKD_CIFAR[-1]),)),
    "liu_imagenet": Reference(
        *ICKD_IMAGENET,
        "ChSimLoss",
        lambda code, given, values: code({}).batch_loss(given["student"], given["teacher"]),
    ),
    "matsubara_ickd": Reference(
        *MID_LEVEL, "ChSimLoss", lambda code, given, values: code.batch_loss(given["student"], given["teacher"])
    ),
    "miles_srd": Reference(*SRD_IMAGENET, "OurDistillationLoss", recipe),
    "matsubara_srd": Reference(*MID_LEVEL, "SRDLoss", recipe_of_torchdistill),
    "jeong_direction": Reference(
        *STREAMLINED,
        "SKD_loss",
        lambda code, given, values: code(given["student"], given["teacher"], values["tikhonov"]),
    ),
    "matsubara_direction": Reference(*MID_LEVEL, "SKDDirectionLoss", direction),
}
SHAPES = ((2, 3, 4, 4), (3, 2, 2, 5), (1, 4, 3, 3))
LEVELS = [(2, 3, 4, 4), (2, 2, 3, 3), (2, 4, 2, 2)]
CASES: dict[str, list[Case]] = {
    "fsp": [
        Case("repdistiller_fsp", maps(LEVELS, LEVELS, seed=700), {}),
        Case("repdistiller_fsp", maps([(3, 2, 2, 2), (3, 4, 5, 5)], [(3, 2, 4, 4), (3, 4, 3, 3)], seed=710), {}),
        Case("repdistiller_fsp", maps([(1, 3, 3, 3), (1, 2, 3, 3)], [(1, 3, 2, 2), (1, 2, 2, 2)], seed=720), {}),
        Case("matsubara_fsp", maps(LEVELS, LEVELS, seed=730), {"pooling": "max"}),
        Case(
            "matsubara_fsp",
            maps([(3, 2, 2, 5), (3, 4, 5, 3)], [(3, 2, 4, 4), (3, 4, 3, 2)], seed=740),
            {"pooling": "max"},
        ),
    ],
    "activation_boundary": [
        *(
            Case("heo_boundaries", pair(shape, seed=750 + 2 * i), {"margin": margin})
            for i, (shape, margin) in enumerate(zip(SHAPES, (1.0, 0.5, 1.5), strict=True))
        ),
        Case("repdistiller_ab", maps(LEVELS, LEVELS, seed=760), {"margin": 1.0}),
        Case("repdistiller_ab", maps(LEVELS[:2], LEVELS[:2], seed=770), {"margin": 0.7}),
        Case("matsubara_dab", maps(LEVELS, LEVELS, seed=780), {"margin": 1.0, "decay": 1.0}),
    ],
    "cc": [
        Case("repdistiller_cc", pair(shape, seed=790 + 2 * i), {}) for i, shape in enumerate(((4, 6), (7, 3), (2, 5)))
    ],
    "cc_kernel": [
        Case("matsubara_cckd", pair(student, teacher, seed=800 + 2 * i), values)
        for i, (student, teacher, values) in enumerate(
            (
                ((4, 6), (4, 6), {"kernel": "gaussian", "gamma": 0.4, "order": 2}),
                ((5, 3), (5, 4), {"kernel": "gaussian", "gamma": 0.1, "order": 4}),
                ((1, 4), (1, 4), {"kernel": "gaussian", "gamma": 0.4, "order": 1}),
                ((6, 3), (6, 2), {"kernel": "bilinear"}),
            )
        )
    ],
    "pad_l2": [
        Case(
            "matsubara_pad",
            {**pair(shape, seed=810 + 3 * i), "log_variance": Input(shape, 812 + 3 * i)},
            {"eps": eps},
        )
        for i, (shape, eps) in enumerate((((4, 6), 1e-6), ((3, 2), 0.1), ((1, 5), 1e-3)))
    ],
    "ickd": [
        Case("liu_cifar", pair(student, teacher, seed=830 + 2 * i), {})
        for i, (student, teacher) in enumerate(
            (
                ((2, 3, 4, 4), (2, 3, 4, 4)),
                ((3, 4, 2, 2), (3, 4, 3, 5)),
                ((1, 2, 3, 3), (1, 2, 1, 4)),
                ((2, 8, 1, 2), (2, 8, 2, 1)),
            )
        )
    ],
    "ickd_imagenet": [
        Case(reference, pair(student, teacher, seed=840 + 2 * i), {})
        for reference in ("liu_imagenet", "matsubara_ickd")
        for i, (student, teacher) in enumerate((((2, 3, 4, 4), (2, 3, 4, 4)), ((3, 8, 2, 1), (3, 8, 1, 1))))
    ],
    "srd": [
        *(Case("miles_srd", pair(shape, seed=850 + 2 * i), {}) for i, shape in enumerate(((4, 6), (7, 3), (2, 5)))),
        Case("matsubara_srd", pair((5, 4), seed=860), {"exponent": 2.0}),
        Case("matsubara_srd", pair((3, 6), seed=862), {"exponent": 1.0, "eps": 0.1}),
    ],
    "streamlined_direction": [
        Case(reference, pair(shape, seed=870 + 2 * i, low=-4.0, high=4.0), {"tikhonov": tikhonov})
        for reference in ("jeong_direction", "matsubara_direction")
        for i, (shape, tikhonov) in enumerate((((4, 6), 0.1), ((7, 3), 0.01), ((2, 5), 1.0)))
    ],
}
CONNECTORS = Reference(*AB, "models/distillation_module.py", "Active_Soft_WRN_norelu", uncalled)
EMBED_IMAGENET = Reference(*ICKD, "ImageNet/torchdistill/models/special.py", "Embed", uncalled)


def wrn(channels: int) -> nn.Module:
    """All that the authors' connectors read of a network."""
    network = nn.Identity()
    network.nChannels = channels  # type: ignore[assignment]
    return network


ADAPTERS = [
    Adapter(
        "connector",
        (Input((2, 4, 3, 4), 900),),
        CONNECTORS,
        lambda code: code(wrn(8), wrn(4)).Connect3,
        lambda module, given: {"": module(given[0])},
        like=(2, 8, 3, 4),
    ),
    Adapter(
        "connector",
        (Input((2, 4, 3, 4), 901),),
        CONNECTORS,
        lambda code: code(wrn(8), wrn(8)).Connect3,
        lambda module, given: {"": module(given[0])},
        like=(2, 4, 3, 4),
    ),
    Adapter(
        "channel_embedding",
        (Input((2, 3, 4, 3), 902),),
        Reference(*ICKD_CIFAR, "Embed", uncalled),
        lambda code: code(3, 5),
        lambda module, given: {"": module(given[0])},
        like=(2, 5, 2, 2),
    ),
    Adapter(
        "channel_embedding",
        (Input((2, 5, 3, 3), 903),),
        EMBED_IMAGENET,
        lambda code: code(5, 2),
        lambda module, given: {"": module(given[0])},
        to=2,
        values={"kernel": 3},
    ),
    Adapter(
        "projector",
        (Input((4, 3), 904),),
        Reference(*WRAPPER, "VarianceBranch4PAD", uncalled),
        lambda code: code(nn.Identity(), {"path": "", "io": ""}, 3, "", None, None, False).var_estimator,
        lambda module, given: {"": module(given[0])},
        to=3,
        values={"norm": True},
    ),
]
VID = Reference(*REPDISTILLER, "distiller_zoo/VID.py", "VIDLoss", uncalled)


def vid_record(seed: int, students: Shapes, teachers: Shapes, values: dict[str, Any], repos: Path) -> dict[str, Any]:
    """The losses of all layers, added; gradients of the inputs and of the weights, of layer by layer."""
    code = load(VID, repos)
    inputs = maps(students, teachers, seed=seed)
    given = {name: recipe.tensor().requires_grad_() for name, recipe in inputs.items()}
    ours, theirs = lists(given)
    width, variance = values.get("width"), values.get("initial_variance", 5.0)
    made = (code(s.shape[1], width or t.shape[1], t.shape[1], variance) for s, t in zip(ours, theirs, strict=True))
    layers = nn.ModuleList(made)
    start = [digits(layer.log_scale) for layer in layers]
    weigh(layers, seed + 20)
    value = sum(layer(*pair) for layer, pair in zip(layers, zip(ours, theirs, strict=True), strict=True))
    value.backward()
    return {
        "repository": VID.repo,
        "commit": VID.commit,
        "file": VID.file,
        "symbol": VID.symbol,
        "inputs": {name: asdict(recipe) for name, recipe in inputs.items()},
        "values": values,
        "weights": seed + 20,
        "start": start,
        "value": value.item(),
        "gradients": {name: digits(tensor.grad) for name, tensor in given.items()},
        "of_weights": [digits(parameter.grad) for parameter in layers.parameters()],
    }


REVIEW = (*make_methods.REVIEW, "CIFAR-100/model/reviewkd.py")
REVIEWKD = Reference(*REVIEW, "ReviewKD", uncalled, needs=(("ABF", REVIEW[-1]),))


def review_record(seed: int, students: Shapes, teachers: Shapes, repos: Path) -> dict[str, Any]:
    """The authors' module around a student that gives features; the last of each list are pooled, (B, D, 1, 1)."""
    inputs = [Input(shape, seed + number) for number, shape in enumerate(students)]
    given = [recipe.tensor().requires_grad_() for recipe in inputs]
    student = nn.Identity()
    student.forward = lambda x, is_feat: (given, x)  # type: ignore[method-assign]
    channels = ([shape[1] for shape in shapes] for shapes in (students, teachers))
    sizes = ([shape[2] for shape in reversed(shapes)] for shapes in (students, teachers))
    moved, nn.Module.to = nn.Module.to, lambda self, device: self  # type: ignore[method-assign,assignment]
    try:
        module = load(REVIEWKD, repos)(student, *channels, *sizes).train()
    finally:
        nn.Module.to = moved  # type: ignore[method-assign]
    weigh(module, 400)
    outputs, _ = module(torch.zeros(1))
    sum(output.square().mean() for output in outputs).backward()
    return {
        "repository": REVIEWKD.repo,
        "commit": REVIEWKD.commit,
        "file": REVIEWKD.file,
        "symbol": REVIEWKD.symbol,
        "inputs": [asdict(recipe) for recipe in inputs],
        "like": teachers,
        "outputs": [digits(output) for output in outputs],
        "gradients": [digits(tensor.grad) for tensor in given],
        "of_weights": [digits(parameter.grad) for parameter in module.parameters()],
    }


GOLDENS: dict[str, Golden] = {
    "tables/adapters": lambda repos: [adapter_record(adapter, repos, load) for adapter in ADAPTERS],
    "tables/review": lambda repos: [
        review_record(
            1000,
            [(2, 2, 8, 8), (2, 3, 4, 4), (2, 4, 2, 2), (2, 4, 1, 1)],
            [(2, 4, 8, 8), (2, 3, 4, 4), (2, 5, 2, 2), (2, 6, 1, 1)],
            repos,
        ),
        review_record(
            1010, [(3, 2, 4, 4), (3, 3, 2, 2), (3, 5, 1, 1)], [(3, 3, 8, 8), (3, 2, 4, 4), (3, 2, 1, 1)], repos
        ),
    ],
    "tables/vid": lambda repos: [
        vid_record(910, [(2, 3, 4, 4)], [(2, 4, 4, 4)], {}, repos),
        vid_record(940, [(3, 2, 4, 4), (3, 3, 2, 2)], [(3, 3, 2, 2), (3, 2, 3, 3)], {"width": 5}, repos),
        vid_record(970, [(1, 2, 3, 3)], [(1, 2, 3, 3)], {"initial_variance": 0.5}, repos),
    ],
}

if __name__ == "__main__":
    command(globals())
