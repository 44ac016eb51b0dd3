"""Makes losses/*.json and methods/*.json of NORM, OFA-KD, VkD and be your own teacher.

    python tests/golden/make_newer.py REPOS [NAME...]

As make_losses.py, whose words these are.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional
from unittest.mock import MagicMock

import torch
from make_methods import Adapter, adapter_record, loop, uncalled
from recipes import Case, Golden, Input, Reference, Tensors, command, digits, load_part, pair, weigh
from recipes import load as load_whole
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal

NORM = ("OSVAI/NORM", "c6dfc39eaf2fdaccf99ed07810da7a00b71b9144")
OFA = ("Hao840/OFAKD", "f7bb896cac9879040800bde08a8cc2057a904c52")
BYOT = ("luanyunteng/pytorch-be-your-own-teacher", "8045079f9933b3dd694dee5294faac0bd8d54fab")
VKD = ("roymiles/vkd", "4b480506d10bad9bfaf27b144f5929ad4007472d")


def norm(code: Any, given: Tensors, values: dict[str, Any], *, dataset: str = "cifar100") -> dict[str, Any]:
    """The names that a step of NORM's loop leaves; ``values`` are the options of its command line."""
    classes = given["logits"].shape[1] if "logits" in given else 3
    logits = {name: given.get(key, torch.ones(2, classes)) for name, key in (("s", "logits"), ("t", "teacher_logits"))}
    features = {name: given.get(key, torch.zeros(2, 1, 1, 1)) for name, key in (("s", "student"), ("t", "teacher"))}
    count = 4 if dataset == "cifar100" else 1
    opt = SimpleNamespace(
        distill="NORM", num_cls=classes, ceta=values.get("scale", 2.5), co_sponge=values.get("parts", 1),
        dataset=dataset, model_s="resnet20" if dataset == "cifar100" else "resnet18S",
        gamma=1.0, alpha=1.0, beta=1.0, beta1=1.0, print_freq=1,
    )  # fmt: skip
    names = {
        "opt": opt, "idx": 1, "time": time, "end": 0.0, "torch": torch, "F": F,
        "data": (torch.zeros(2, 1), torch.zeros(len(logits["s"])).long(), torch.zeros(2)),
        "model_s": lambda x, is_feat, preact: ([features["s"]] * count, logits["s"]),
        "model_t": lambda x, is_feat, preact: ([features["t"]] * count, logits["t"]),
        "criterion_cls": F.cross_entropy, "criterion_div": F.mse_loss, "optimizer": MagicMock(),
        "accuracy": lambda *_, **__: ([0.0], [0.0]),
        **dict.fromkeys(("data_time", "losses", "losses_ce", "losses_norm", "top1", "top5"), MagicMock()),
    }  # fmt: skip
    kept, Tensor.float = Tensor.float, lambda self: self  # type: ignore[method-assign,assignment]
    try:
        return code(names)  # type: ignore[no-any-return]
    finally:
        Tensor.float = kept  # type: ignore[method-assign]


NORM_LOOP = (*NORM, "helper/loops.py", "for idx, data in enumerate(train_loader)")
REFERENCES = {
    "norm_cifar": Reference(*NORM_LOOP, lambda code, given, values: norm(code, given, parts_of(given))["loss_norm"]),
    "norm_imagenet": Reference(
        *NORM_LOOP, lambda code, given, values: norm(code, given, parts_of(given), dataset="imagenet")["loss_norm"]
    ),
    "byot": Reference(
        *BYOT, "train.py", "feature_loss_function", lambda code, given, values: code(given["student"], given["teacher"])
    ),
    "ofa": Reference(
        *OFA,
        "distillers/ofa.py",
        "ofa_loss",
        lambda code, given, values: code(
            given["student"],
            given["teacher"],
            F.one_hot(given["target"], given["student"].shape[1]),
            values["eps"],
            values["temperature"],
        ),
    ),
}


def parts_of(given: Tensors) -> dict[str, Any]:
    """N: how many times the teacher's channels the student has."""
    return {"parts": given["student"].shape[1] // given["teacher"].shape[1]}


def labels(*classes: int) -> Input:
    return Input((len(classes),), 0, whole=True, numbers=classes)


CASES = {
    "active_features": [
        Case("byot", pair(shape, seed=690 + i), {}) for i, shape in enumerate(((4, 6), (2, 3, 2), (1, 5)))
    ],
    "many_to_one": [
        Case("norm_cifar", pair((3, 6, 4, 4), (3, 2, 4, 4), seed=700), {}),
        Case("norm_cifar", pair((2, 12, 3, 2), (2, 3, 3, 2), seed=702), {}),
        Case("norm_cifar", pair((2, 4, 2, 2), (2, 2, 4, 4), seed=704), {}),
        Case("norm_cifar", pair((1, 5, 3, 3), (1, 5, 9, 9), seed=706), {}),
        Case("norm_imagenet", pair((2, 8, 4, 4), (2, 4, 2, 2), seed=708), {}),
        Case("norm_imagenet", pair((3, 2, 6, 6), (3, 2, 6, 6), seed=710), {}),
    ],
    "ofa": [
        Case("ofa", {**pair((4, 6), seed=720, low=-4.0, high=4.0), "target": labels(0, 5, 2, 2)}, values)
        for values in (
            {"eps": 1.0, "temperature": 1.0},
            {"eps": 1.5, "temperature": 2.0},
            {"eps": 0.7, "temperature": 4.0},
        )
    ]
    + [
        Case("ofa", {**pair((1, 2), seed=722), "target": labels(1)}, {"eps": 1.2, "temperature": 1.5}),
        Case("ofa", {**pair((5, 3), seed=724), "target": labels(1, 0, 2, 2, 0)}, {"eps": 2.0, "temperature": 0.5}),
    ],
}
"""NORM's loop detaches the teacher, whose gradient is therefore not recorded."""


class Standardised(nn.Module):
    """What NORM's loop makes of the student's logits."""

    def __init__(self, code: Any, scale: float) -> None:
        super().__init__()
        self.code, self.scale = code, scale

    def forward(self, logits: Tensor) -> Tensor:
        given = {"logits": logits, "teacher_logits": torch.ones_like(logits)}
        return norm(self.code, given, {"scale": self.scale})["logit_s"]  # type: ignore[no-any-return]


class Distiller(nn.Module):
    """The base class of OFA-KD's distillers."""

    def __init__(self, student: Any, teacher: Any, criterion: Any, args: Any) -> None:
        super().__init__()
        self.student, self.teacher, self.criterion, self.args = student, teacher, criterion, args


UTILS = "distillers/utils.py"
HELPERS = ("SepConv", "init_weights", "set_module_dict", "is_cnn_model")
BRANCH = Reference(*OFA, "distillers/ofa.py", "OFA", uncalled, needs=tuple((name, UTILS) for name in HELPERS))


def branch(code: Any, stage: int, channels: tuple[int, int, int, int], vectors: tuple[int, int], classes: int) -> Any:
    """The branch that OFA-KD's distiller makes for one of four stages; ``vectors``: widths of student and teacher."""
    student = SimpleNamespace(stage_info=lambda stage: (0, (channels[stage - 1], 1, 1) if stage > 0 else vectors[0]))
    teacher = SimpleNamespace(stage_info=lambda stage: (0, vectors[1]))
    args = SimpleNamespace(ofa_stage=[stage], ofa_eps=[1.0], num_classes=classes)
    return code(student, teacher, None, args).projector[str(stage)]


def of_branch(stage: int, sizes: tuple[int, int], vectors: tuple[int, int], seed: int) -> Adapter:
    """A branch of the stage ``stage``, whose map has the first of two heights; the second is the deepest map's."""
    channels = (2, 4, 8, 10)
    maps = (Input((3, channels[stage - 1], sizes[0], sizes[0]), seed), Input((3, channels[3], sizes[1], sizes[1]), 0))
    widths = (Input((3, vectors[0]), 0), Input((3, vectors[1]), 0))
    return Adapter(
        "ofa_branch",
        (*maps, *widths),
        BRANCH,
        lambda code: branch(code, stage, channels, vectors, 5),
        lambda module, given: {"": module(given[0]) + 0 * sum(each.sum() for each in given[1:])},
        like=(3, 5),
    )


def of_byot(size: int, deepest: int, seed: int) -> Adapter:
    """Its branch, ``branchBottleNeck``, and the pooling after it."""
    return Adapter(
        "byot_branch",
        (Input((3, 5, size, size), seed),),
        Reference(*BYOT, "models/resnet.py", "branchBottleNeck", uncalled),
        lambda code: nn.Sequential(code(5, 8, size // deepest), nn.AdaptiveAvgPool2d(1)),
        lambda module, given: {"": module(given[0])},
        like=(3, 8, deepest, deepest),
    )


ADAPTERS = [
    of_byot(8, 2, 730),
    of_byot(4, 2, 732),
    Adapter(
        "standardize",
        (Input((3, 4), 740),),
        Reference(*NORM_LOOP, uncalled),
        lambda code: Standardised(code, 2.5),
        lambda module, given: {"": module(given[0])},
        values={"scale": 2.5, "eps": 1e-7},
    ),
    of_branch(1, (8, 1), (10, 6), 750),
    of_branch(2, (6, 2), (10, 12), 752),
    of_branch(3, (4, 2), (14, 6), 754),
    of_branch(4, (3, 3), (10, 11), 756),
]


def load(reference: Reference, repos: Path) -> Any:
    """The statements of a loop, or a function or class."""
    if reference.symbol.startswith("for "):
        return loop(reference, repos)
    return load_part(reference, repos, BaseDistiller=Distiller, trunc_normal_=nn.init.trunc_normal_)


def expansion_record(seed: int, channels: int, width: int, parts: int, repos: Path) -> dict[str, Any]:
    """NORM's two layers after the last stage of a student: the statements of its forward, other layers left out."""
    reference = Reference(*NORM, "models/cifar/resnet_student.py", "ResNet", uncalled)
    model = load_whole(reference, repos)(8, [channels] * 4, num_classes=2, co_sponge=parts, channel_t=width)
    layers = nn.ModuleList([model.layer31, model.layer32]).train()
    weigh(layers, 400)
    features = Input((3, channels, 2, 3), seed)
    given = features.tensor().requires_grad_()

    def same(x: Tensor) -> Tensor:
        return x

    names = dict.fromkeys(("conv1", "bn1", "relu", "avgpool", "fc"), same)
    names |= dict.fromkeys(("layer1", "layer2", "layer3"), lambda x: (x, x))
    stand_in = SimpleNamespace(**names, layer31=model.layer31, layer32=model.layer32, co_sponge=parts)
    every, _ = type(model).forward(stand_in, given.clone(), is_feat=True)
    outputs = {"expand": every[3], "": every[4].view_as(given)}
    sum(each.square().mean() for each in outputs.values()).backward()  # type: ignore[union-attr]
    return {
        **where(reference),
        "inputs": [asdict(features)],
        "values": {"channels": channels, "teacher_channels": width, "parts": parts},
        "outputs": {name: digits(each) for name, each in outputs.items()},
        "gradients": [digits(given.grad)],
        "of_weights": [digits(each.grad) for each in layers.parameters()],
    }


def vkd_record(seed: int, student: tuple[int, int, int], teacher: tuple[int, int, int, int], repos: Path) -> Any:
    """VkD's distillation loss of one step: tokens (B, L, D) of the student, a map (B, C, H, W) of the teacher."""
    reference = Reference(*VKD, "engine.py", "train_one_epoch", uncalled)
    code = load_part(reference, repos, np=MagicMock(), time=time, math=math, AverageMeter=MagicMock, dist=MagicMock())
    inputs = {"student": Input(student, seed), "teacher": Input(teacher, seed + 1)}
    given = {name: each.tensor().requires_grad_() for name, each in inputs.items()}
    weights = {name: Input((teacher[1], student[2]), seed + n, -1.0, 1.0) for n, name in ((2, "start"), (3, "learned"))}
    projector = orthogonal(nn.Linear(student[2], teacher[1], bias=False))
    set_orthogonal(projector, *(each.tensor() for each in weights.values()))
    logits, losses = torch.zeros(student[0], 3), list[Tensor]()
    module = SimpleNamespace(
        forward_features=lambda x: (None, None, given["student"]), head=lambda x: logits, head_dist=lambda x: logits,
        projector=projector,
    )  # fmt: skip
    model = MagicMock(module=module)
    frozen = MagicMock(forward_features=lambda x: given["teacher"], forward_head=lambda x: logits)
    kept = torch.cuda.synchronize
    torch.cuda.synchronize = lambda: None  # type: ignore[assignment]
    try:
        code(
            1, None, None, model, frozen, lambda y, t: y.sum(), nn.KLDivLoss(reduction="batchmean"),
            [(torch.zeros(student[0]), torch.zeros(student[0]), None)], MagicMock(), torch.device("cpu"), 0,
            lambda loss, *_, **__: losses.append(loss), None, lr_scheduler=MagicMock(),
            args=SimpleNamespace(alpha=1.0, gamma=1.0, bce_loss=False),
        )  # fmt: skip
    finally:
        torch.cuda.synchronize = kept
    losses[0].backward()
    return {
        **where(reference),
        "inputs": {name: asdict(each) for name, each in inputs.items()},
        "weights": {name: asdict(each) for name, each in weights.items()},
        "value": losses[0].item(),
        "gradients": {"student": digits(given["student"].grad)},
        "of_weights": [digits(each.grad) for each in projector.parameters()],
    }


def set_orthogonal(projector: nn.Module, start: Tensor, learned: Tensor) -> None:
    """Let the projector begin at the orthogonal matrix nearest ``start``'s columns, and have learned ``learned``."""
    projector.weight = start
    projector.parametrizations["weight"].original.data.copy_(learned)  # type: ignore[index,union-attr,operator]


def where(reference: Reference) -> dict[str, str]:
    return {name: getattr(reference, name) for name in ("commit", "file", "symbol")} | {"repository": reference.repo}


MDISTILLER = ("megvii-research/mdistiller", "a08d46f10d6102bd6e3f258ca5ac880b020ea259")


def dot_record(seed: int, delta: float, repos: Path, **options: float) -> dict[str, Any]:
    """Four steps of DOT on three parameters: both kinds of terms reach the first, one each of the others."""
    functions = (("check_in", "mdistiller/engine/dot.py"), ("dot", "mdistiller/engine/dot.py"))
    symbol = "DistillationOrientedTrainer"
    reference = Reference(*MDISTILLER, "mdistiller/engine/dot.py", symbol, uncalled, needs=functions)
    names = {"Optimizer": torch.optim.Optimizer, "required": object(), "List": list, "Optional": Optional}
    code = load_part(reference, repos, Tensor=Tensor, **names)
    parameters = [Input((3,), seed + n).tensor().requires_grad_() for n in range(3)]
    momentum = options.pop("momentum")
    optimizer = code(parameters, momentum=momentum - delta, momentum_kd=momentum + delta, **options)
    seeds = [[seed + 10 * step + n for n in range(4)] for step in range(1, 5)]
    after = []
    for first, second, third, fourth in ([Input((3,), each).tensor() for each in row] for row in seeds):
        parameters[0].grad, parameters[1].grad, parameters[2].grad = first, None, second
        optimizer.step_kd()
        parameters[0].grad, parameters[1].grad, parameters[2].grad = third, fourth, None
        optimizer.step()
        after.append([digits(each) for each in parameters])
    return {
        **where(reference),
        "seed": seed,
        "values": {**options, "momentum": momentum, "delta": delta},
        "gradients": seeds,
        "after": after,
    }


DAVDA54 = ("davda54/sam", "3c3afdbd71cff2462ec91c734b3d1170bd0f3707")


def sam_loss(parameters: list[Tensor]) -> Tensor:
    """A loss of two parameters; the third one gets no gradient."""
    return (parameters[0] ** 4).sum() + (3 * parameters[0] * parameters[1]).sin().sum()


def sam_record(seed: int, repos: Path, **values: Any) -> dict[str, Any]:
    """Four steps of SAM on three parameters."""
    reference = Reference(*DAVDA54, "sam.py", "SAM", uncalled)
    parameters = [Input((3,), seed + n).tensor().requires_grad_() for n in range(3)]
    optimizer = load_part(reference, repos)(parameters, torch.optim.SGD, **values)
    after = []
    for _ in range(4):
        optimizer.zero_grad()
        sam_loss(parameters).backward()
        optimizer.step(lambda: sam_loss(parameters).backward())
        after.append([digits(each) for each in parameters])
    return {**where(reference), "seed": seed, "values": values, "after": after}


GOLDENS: dict[str, Golden] = {
    "methods/newer": lambda repos: [adapter_record(each, repos, load) for each in ADAPTERS],
    "methods/expansion": lambda repos: [expansion_record(760, 3, 2, 4, repos), expansion_record(762, 2, 5, 2, repos)],
    "methods/dot": lambda repos: [
        dot_record(800, 0.075, repos, lr=0.1, momentum=0.9, weight_decay=0.05),
        dot_record(860, 0.2, repos, lr=0.3, momentum=0.5, weight_decay=0.1, dampening=0.25),
        dot_record(920, 0.05, repos, lr=0.05, momentum=0.8),
    ],
    "methods/sam": lambda repos: [
        sam_record(1000, repos, lr=0.1, momentum=0.9),
        sam_record(1010, repos, lr=0.05, rho=0.5, adaptive=True, momentum=0.9, weight_decay=0.1),
    ],
    "methods/vkd": lambda repos: [
        vkd_record(770, (3, 4, 5), (3, 7, 2, 2), repos),
        vkd_record(780, (2, 3, 6), (2, 4, 3, 2), repos),
        vkd_record(790, (4, 2, 5), (4, 5, 1, 1), repos),
    ],
}

if __name__ == "__main__":
    command(globals())
