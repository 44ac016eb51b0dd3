"""Makes losses/*.json of the losses on features of the CIFAR-100 tables, and methods/*.json of their adapters.

python tests/golden/make_maps.py REPOS [NAME...]
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from recipes import Case, Input, Reference, Tensors, command, digits, load_part, pair, weigh
from torch import Tensor, nn
from torch.nn import functional as F

REPDISTILLER = ("HobbitLong/RepDistiller", "b84f547c5db6a35318d4671d7d5c4de74c822403")
OVERHAUL = ("clovaai/overhaul-distillation", "76344a84a7ce23c894f41a2e05b866c9b73fd85a", "CIFAR-100/distiller.py")
MDISTILLER = ("megvii-research/mdistiller", "a08d46f10d6102bd6e3f258ca5ac880b020ea259")
SELECTIVITY = ("TuSimple/neuron-selectivity-transfer", "50dee40b8b041feffbcd34691b2be93dbc89c76b")
CATKD = ("GzyAftermath/CAT-KD", "4467073ca31b9929e7c45f5a6761e5e1b7c9442f")
SEMCKD = ("DefangChen/SemCKD", "ebe5db190d87f3e493a5fdf04a808ef3179486dc")
WKD = ("JiamingLv/WKD", "214cf8868c2b8e45781f238b8f0e47c2e4e38190", "mdistiller/distillers/WKD.py")


class Normal:
    """The function of scipy.stats.norm that a reference calls, on numbers."""

    @staticmethod
    def cdf(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2


def mxnet() -> ModuleType:
    """The symbols of mxnet that a reference builds its graph of, as functions of torch that run at once."""
    symbol = SimpleNamespace(
        L2Normalization=lambda data, eps, mode, name: data / (data.square().sum((2, 3), keepdim=True) + eps).sqrt(),
        Reshape=lambda data, shape, name: data.flatten(2),
        transpose=lambda data, axes, name: data.permute(axes),
        batch_dot=lambda lhs, rhs, name: lhs @ rhs,
        square=lambda data, name: data.square(),
        mean=lambda data, axis, name: data.mean(axis),
        MakeLoss=lambda data, grad_scale, name: data * grad_scale,
    )
    module = ModuleType("mxnet")
    module.symbol = symbol  # type: ignore[attr-defined]
    return module


@contextlib.contextmanager
def on_the_cpu() -> Iterator[None]:
    kept, Tensor.cuda = Tensor.cuda, lambda self: self  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Tensor.cuda = kept  # type: ignore[method-assign]


def load(reference: Reference, repos: Path) -> Any:
    """The reference's function or class, among the names that it looks for; what is float32 there is float64."""
    double = SimpleNamespace(**{**vars(torch), "float32": torch.float64, "FloatTensor": torch.DoubleTensor})
    rounding = SimpleNamespace(floor=math.floor, ceil=math.ceil)
    return load_part(reference, repos, torch=double, math=math, norm=Normal, np=rounding, mx=mxnet())


def listed(given: Tensors, name: str) -> list[Tensor]:
    """The tensors NAME/0, NAME/1, ..."""
    return [tensor for key, tensor in given.items() if key.startswith(f"{name}/")]


def selectivity(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """The mean over the batch, and the constant that the reference leaves out: that of the teacher with itself."""
    teacher = given["teacher"].detach()
    value = code(given["student"], teacher, 0.0, 1.0, "") - code(teacher, teacher, 0.0, 1.0, "")
    assert isinstance(value, Tensor)
    return value.mean()


def overhaul(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """The sum over layers of ``Distiller.forward`` over the batch, for teachers that have passed their margins."""
    students, teachers = listed(given, "student"), listed(given, "teacher")
    losses = [code(s, t, torch.tensor(-torch.inf)) for s, t in zip(students, teachers, strict=True)]
    total = sum(loss / 2 ** (len(losses) - number - 1) for number, loss in enumerate(losses))
    assert isinstance(total, Tensor)
    return total / len(students[0])


def singular(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """The sum of the losses, without a gradient for the teacher: part of it is detached there."""
    losses = code(values["k"])(listed(given, "student"), [each.detach() for each in listed(given, "teacher")])
    value = sum(losses)
    assert isinstance(value, Tensor)
    return value


def semantic(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """``SemCKDLoss`` of what ``SelfA``, which is loaded beside it, gives."""
    students, teachers = listed(given, "student"), listed(given, "teacher")
    widths = [[each.shape[1] for each in layers] for layers in (students, teachers)]
    attention = code.forward.__globals__["SelfA"](
        len(students), len(teachers), values["batch_size"], *widths, values["factor"]
    )
    weigh(attention, 400)
    with on_the_cpu():
        loss = code()(*attention(students, teachers))
    assert isinstance(loss, Tensor)
    return loss


def semantic_with_temperature(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """The same of SimKD's ``SelfA``, whose unused layers have no weights by formula, and whose keys come last."""
    students, teachers = listed(given, "student"), listed(given, "teacher")
    widths = [[each.shape[1] for each in layers] for layers in (students, teachers)]
    build = code.forward.__globals__["SelfA"]
    attention = build(values["batch_size"], *widths, values["temperature"], values["factor"])
    kinds = [("key", len(teachers)), ("query", len(students))]
    embeddings = [getattr(attention, f"{kind}_{number}") for kind, count in kinds for number in range(count)]
    projections = [getattr(attention, f"regressor{i}{j}") for i in range(len(students)) for j in range(len(teachers))]
    layers = [nn.ModuleList([embedding.linear1, embedding.linear2]) for embedding in embeddings]
    weigh(nn.ModuleList([*layers, *projections]), 400)
    with on_the_cpu():
        loss = code()(*attention(students, teachers))
    assert isinstance(loss, Tensor)
    return loss


def costs(prototypes: Tensor, sharpness: float) -> Tensor:
    """The statements of ``WKD.__init__`` on a classifier's weight."""
    rows = F.normalize(prototypes, p=2, dim=-1)
    return 1 - torch.exp(-sharpness * (1 - rows.matmul(rows.transpose(-1, -2))))


def wasserstein(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """Without a gradient for the teacher, which part of it detaches."""
    loss = code(
        given["student"],
        given["teacher"].detach(),
        given["target"].long(),
        values["temperature"],
        values["gamma"],
        costs(given["prototypes"].detach(), values["sharpness"]),
        values["regularization"],
        values["iterations"],
    )
    assert isinstance(loss, Tensor)
    return loss


def gaussian(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    mean, deviation = code(given["student"], given["teacher"], eps=values["epsilon"], grid=values["grid"])
    loss = values["mean_weight"] * mean + deviation
    assert isinstance(loss, Tensor)
    return loss


def one(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """A loss of one pair of maps; RepDistiller detaches what the teacher alone gives."""
    loss = code().nst_loss(given["student"], given["teacher"].detach())
    assert isinstance(loss, Tensor)
    return loss


def maps(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    loss = code(given["student"], given["teacher"], values["size"], values["normalize"])
    assert isinstance(loss, Tensor)
    return loss


UTIL = "models/util.py"
REFERENCES = {
    "huang_nst": Reference(*SELECTIVITY, "symbol/transfer.py", "mmd_poly", selectivity),
    "repdistiller_nst": Reference(*REPDISTILLER, "distiller_zoo/NST.py", "NSTLoss", one),
    "heo_overhaul": Reference(*OVERHAUL, "distillation_loss", overhaul),
    "mdistiller_overhaul": Reference(
        *MDISTILLER,
        "mdistiller/distillers/OFD.py",
        "feat_loss",
        lambda code, given, values: code(given["student"], given["teacher"], torch.tensor(-1e6)),
    ),
    "repdistiller_kdsvd": Reference(*REPDISTILLER, "distiller_zoo/KDSVD.py", "KDSVD", singular),
    "guo_cat": Reference(
        *CATKD, "mdistiller/distillers/CAT_KD.py", "CAT_loss", maps,
        needs=(("_Normalize", "mdistiller/distillers/CAT_KD.py"),),
    ),
    "chen_semckd": Reference(
        *SEMCKD, "distiller_zoo/SemCKD.py", "SemCKDLoss", semantic,
        needs=tuple((name, UTIL) for name in ("Normalize", "MLPEmbed", "AAEmbed", "SelfA")),
    ),
    "chen_simkd": Reference(
        "DefangChen/SimKD",
        "2b389c31ed7779aea31e7aaf0bb0f2d8b6ac2f01",
        "distiller_zoo/SemCKD.py",
        "SemCKDLoss",
        semantic_with_temperature,
        needs=tuple((name, UTIL) for name in ("Normalize", "MLPEmbed", "Proj", "SelfA")),
    ),
    "lv_logits": Reference(
        *WKD, "wkd_logit_loss_with_speration", wasserstein,
        needs=tuple((name, WKD[2]) for name in ("sinkhorn", "wkd_logit_loss")),
    ),
    "lv_features": Reference(
        *WKD, "wkd_feature_loss", gaussian, needs=(("adaptive_avg_std_pool2d", WKD[2]),)
    ),
}  # fmt: skip


def layers(*shapes: tuple[tuple[int, ...], tuple[int, ...]], seed: int, **how: Any) -> dict[str, Input]:
    """Lists of maps of student and teacher."""
    named = {}
    for number, (student, teacher) in enumerate(shapes):
        named[f"student/{number}"] = Input(student, seed + 2 * number, **how)
        named[f"teacher/{number}"] = Input(teacher, seed + 2 * number + 1, **how)
    return named


def logits(samples: int, classes: int, width: int, *, seed: int) -> dict[str, Input]:
    return {
        **pair((samples, classes), seed=seed, low=-5.0, high=5.0),
        "target": Input((samples,), seed + 2, low=0.0, high=float(classes), whole=True),
        "prototypes": Input((classes, width), seed + 3),
    }


CASES: dict[str, list[Case]] = {
    "nst": [
        *(
            Case("huang_nst", pair(student, teacher, seed=900 + 2 * i), {})
            for i, (student, teacher) in enumerate(
                (((3, 2, 4, 4), (3, 5, 4, 4)), ((2, 4, 3, 5), (2, 4, 3, 5)), ((1, 3, 2, 2), (1, 1, 2, 2)))
            )
        ),
        *(
            Case("repdistiller_nst", pair(student, teacher, seed=910 + 2 * i, low=-1.0), {})
            for i, (student, teacher) in enumerate(
                (((3, 2, 4, 4), (3, 5, 4, 4)), ((2, 3, 6, 6), (2, 4, 4, 4)), ((2, 3, 3, 3), (2, 2, 5, 5)))
            )
        ),
    ],
    "partial_l2": [
        *(
            Case("heo_overhaul", layers(*((shape, shape) for shape in shapes), seed=920 + 10 * i), {})
            for i, shapes in enumerate(
                (((3, 2, 4, 4), (3, 4, 2, 2), (3, 1, 1, 3)), ((2, 3, 5, 4),), ((1, 2, 3, 3),) * 2)
            )
        ),
        Case("mdistiller_overhaul", pair((3, 4, 2, 5), seed=948), {}),
    ],
    "kdsvd": [
        Case("repdistiller_kdsvd", layers(*((shape, shape) for shape in shapes), seed=950 + 10 * i, low=0.0), {"k": k})
        for i, (shapes, k) in enumerate(
            (
                (((3, 5, 4, 4), (3, 6, 2, 2)), 1),
                (((2, 4, 3, 3), (2, 8, 3, 3), (2, 5, 2, 2)), 1),
                (((1, 6, 4, 4), (1, 7, 3, 3)), 2),
            )
        )
    ],
    "class_attention": [
        Case("guo_cat", pair(student, teacher, seed=980 + 2 * i), {"size": size, "normalize": normalize})
        for i, (student, teacher, size, normalize) in enumerate(
            (
                ((3, 5, 4, 4), (3, 5, 8, 8), 2, False),
                ((2, 4, 6, 6), (2, 4, 4, 4), 2, True),
                ((1, 3, 4, 4), (1, 3, 5, 5), 3, True),
                ((2, 7, 2, 2), (2, 7, 2, 2), 1, False),
            )
        )
    ],
    "semckd": [
        Case(
            "chen_simkd",
            layers(((4, 3, 4, 4), (4, 2, 2, 2)), ((4, 5, 2, 2), (4, 4, 2, 2)), seed=1020),
            {"batch_size": 4, "factor": 2, "temperature": 0.5},
        ),
        *(
            Case("chen_semckd", layers(*shapes, seed=1000 + 10 * i), {"batch_size": samples, "factor": factor})
            for i, (samples, factor, shapes) in enumerate(
                (
                    (4, 2, (((4, 3, 4, 4), (4, 2, 4, 4)), ((4, 5, 2, 2), (4, 4, 2, 2)))),
                    (6, 3, (((6, 2, 3, 3), (6, 4, 6, 6)), ((6, 4, 2, 2), (6, 3, 3, 3)), ((6, 3, 2, 2), (6, 2, 1, 1)))),
                )
            )
        ),
    ],
    "wasserstein_logits": [
        Case(
            "lv_logits",
            logits(samples, classes, width, seed=1040 + 10 * i),
            {"temperature": t, "gamma": gamma, "sharpness": sharpness, "regularization": reg, "iterations": steps},
        )
        for i, (samples, classes, width, t, gamma, sharpness, reg, steps) in enumerate(
            ((4, 5, 3, 8.0, 600.0, 1.0, 0.05, 10), (7, 3, 4, 2.0, 10.0, 2.0, 0.5, 4), (1, 6, 2, 1.0, 1.0, 0.5, 0.1, 30))
        )
    ],
    "wasserstein_features": [
        Case("lv_features", pair(shape, seed=1080 + 2 * i), {"mean_weight": weight, "grid": grid, "epsilon": epsilon})
        for i, (shape, weight, grid, epsilon) in enumerate(
            (((3, 4, 4, 4), 4.0, 1, 1e-5), ((2, 3, 5, 7), 2.0, 2, 1e-3), ((1, 2, 8, 8), 0.5, 4, 1e-5))
        )
    ],
}

MARGINS = Reference(*OVERHAUL, "get_margin_from_BN", lambda code, given, values: code(**given))


def margins(repos: Path) -> list[Any]:
    """The margins of batch norms by formula; of some channels nothing is negative."""
    code, made = load(MARGINS, repos), []
    for seed, channels in ((1100, 5), (1110, 8)):
        inputs = {"weight": Input((channels,), seed, low=-1.0, high=1.0), "bias": Input((channels,), seed + 1)}
        norm = nn.BatchNorm2d(channels)
        norm.weight.data, norm.bias.data = inputs["weight"].tensor(), inputs["bias"].tensor()
        recipes = {name: asdict(each) for name, each in inputs.items()}
        about = {"repository": MARGINS.repo, "commit": MARGINS.commit, "file": MARGINS.file, "symbol": MARGINS.symbol}
        made.append({**about, "inputs": recipes, "margins": digits(code(norm))})
    return made


GOLDENS = {"methods/margins": margins}


if __name__ == "__main__":
    command(globals())
