"""Makes losses/*.json of the losses on logits that read labels, transform the teacher or mix both distributions.

    python tests/golden/make_logits.py REPOS [LOSS...]

Of each file only the functions and classes that a reference names are run (recipes.py). A GPU is the CPU, casts to
float32 are casts to float64. Labels of -100 are of rows that the reference does not get.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from make_methods import Adapter, adapter_record, uncalled
from recipes import Case, Golden, Input, Reference, Tensors, command, digits, load_part, pair
from torch import Tensor, nn
from torch.nn import functional as F

MDISTILLER = ("megvii-research/mdistiller", "a08d46f10d6102bd6e3f258ca5ac880b020ea259")
STANDARDIZATION = ("sunshangquan/logit-standardization-KD", "f6e5aa5172bad618e801163c3385322eea673754")
REFINED = ("zju-SWJ/RLD", "d54578fd77cd669d6209be4d05ae773bca4109b5", "mdistiller/distillers/RLD.py")
CLS_KD = ("yzd-v/cls_KD", "1e5d48f36957ee460d39d7ebc592c6cc7f8f3d66")
DISTILLERS = "mdistiller/distillers"
SDD = ("shicaiwei123/SDD-CVPR2024", "e412036c6b7b67d8ed25418d2dedad223ab49a71")
MULTILEVEL = (
    "Jin-Ying/Multi-Level-Logit-Distillation",
    "5ee473fcf193dfb00a0598b64d0acfe6ad58a482",
    f"{DISTILLERS}/KD_ours.py",
)
TTM = ("zkxufo/TTM", "fe457b33a71ba27536ec04fe3d32c5b04963522f")
DISTILLM = ("jongwooko/distillm", "d47e77ff9d27721783b32213be38c1204230cc0a", "distillm/losses.py")
ABKD = ("ghwang-s/abkd", "df813185e69d21d1e99510272cd94e49be7250c0")
MID_LEVEL = (
    "yoshitomo-matsubara/torchdistill",
    "3e4373c45214c5c56eebac481d5bfe8b8735aa05",
    "torchdistill/losses/mid_level.py",
)
DKD = "mdistiller/distillers/DKD.py"
MASKS = ("_get_gt_mask", "_get_other_mask", "cat_mask")
UNLABELLED = -100


@contextlib.contextmanager
def replaced(**methods: Any) -> Iterator[None]:
    """Tensors with these methods, a GPU that is the CPU, and casts to float64."""
    here = lambda self, *_: self  # noqa: E731
    own = {"cuda": here, "float": Tensor.double, **methods}
    kept = {name: getattr(Tensor, name) for name in own}
    module, nn.Module.cuda = nn.Module.cuda, here  # type: ignore[method-assign,assignment]
    try:
        for name, method in own.items():
            setattr(Tensor, name, method)
        yield
    finally:
        nn.Module.cuda = module  # type: ignore[method-assign]
        for name, method in kept.items():
            setattr(Tensor, name, method)


def kept(tensor: Tensor) -> Tensor:
    """``Tensor.detach``'s stand-in where a reference stops the teacher's gradient, as its user does here."""
    return tensor


def load(reference: Reference, repos: Any) -> Any:
    """The function or class; its ``one_hot`` has as many classes as there are labels' columns in ``given``."""
    own = SimpleNamespace(**vars(F))
    own.softmax = lambda logits, dim, dtype=None: F.softmax(logits, dim)
    own.log_softmax = lambda logits, dim, dtype=None: F.log_softmax(logits, dim)
    settings = SimpleNamespace(optim=SimpleNamespace(label_smooth=False))
    own.one_hot = F.one_hot
    names = {"config": settings, "Function": torch.autograd.Function, "cosine_similarity": F.cosine_similarity}
    return load_part(reference, repos, F=own, **names)


def rows(given: Tensors) -> tuple[Tensor, ...]:
    """Logits (N, C) of both models and labels (N,) of what is labelled."""
    counts = given["target"] != UNLABELLED
    student, teacher = (given[name].movedim(1, -1)[counts] for name in ("student", "teacher"))
    return student, teacher, given["target"][counts]


def dkd(code: Any, given: Tensors, values: dict[str, Any], *standardize: bool) -> Tensor:
    loss = code(*rows(given), values["alpha"], values["beta"], values["temperature"], *standardize)
    assert isinstance(loss, Tensor)
    return loss


def nkd(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    with replaced(detach=kept):
        loss = code("", True, temp=values["temperature"], gamma=values["gamma"])(*rows(given))
    assert isinstance(loss, Tensor)
    return loss


def wsld(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """The soft loss, without the hard one."""
    student, teacher, target = rows(given)
    names = code.forward.__globals__
    names["F"].one_hot = lambda labels, num_classes: F.one_hot(labels, student.shape[1])
    with replaced():
        distiller = code(lambda _: teacher, lambda _: student)
        distiller.T, distiller.alpha = values["temperature"], 1.0
        distiller.hard_loss = nn.MSELoss()
        distiller.hard_loss.forward = lambda *_: 0.0
        loss = distiller(None, target)[1]
    assert isinstance(loss, Tensor)
    return loss


def rld(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    loss = code(
        *rows(given),
        values["alpha"],
        values["beta"],
        values["temperature"],
        values.get("standardize", False),
        values["confidence_temperature"],
    )
    assert isinstance(loss, Tensor)
    return loss


def uskd(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """Its weak logits are given, and not made by its linear layer."""
    student, weak, target = rows({**given, "teacher": given["weak"]})
    with replaced():
        loss = code("", True, channel=1, num_classes=student.shape[1], **values)
        loss.fc = nn.Identity()
        value = loss(weak, student, target)
    assert isinstance(value, Tensor)
    return value


def tf_kd(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    student, _, target = rows({**given, "teacher": given["student"]})
    with replaced():
        settings = SimpleNamespace(reg_alpha=1.0, reg_temperature=values["temperature"], multiplier=1.0)
        loss = code(student, target, settings)
    assert isinstance(loss, Tensor)
    return loss


def regions(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """Regions stand behind the classes in the reference, its samples are those that are labelled."""
    counts = given["target"] != UNLABELLED
    student, teacher = (given[name][counts].transpose(1, 2) for name in ("student", "teacher"))
    target = given["target"][counts]
    with replaced():
        if "alpha" in values:
            loss = code(student, teacher, target, values["alpha"], values["beta"], values["temperature"])
        else:
            loss = code(student, teacher, values["temperature"], target)
    assert isinstance(loss, Tensor)
    return loss


def ctkd(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    reverse = code.forward.__globals__["GradientReversalFunction"].apply
    score = reverse(given["score"], values["reversal"])
    temperature = values["start"] + values["width"] * torch.sigmoid(score)
    with replaced():
        loss = code()(given["student"], given["teacher"], temperature)
    assert isinstance(loss, Tensor)
    return loss


def at_temperatures(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    losses = [code(given["student"], given["teacher"], each) for each in values["temperatures"]]
    return torch.stack(losses).sum()


def powered(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    loss = code(values["power"])(given["student"], given["teacher"])
    assert isinstance(loss, Tensor)
    return loss


def counted(given: Tensors) -> dict[str, Tensor]:
    """Labels of the positions that count, as language models have them."""
    return {"label": torch.where(given["mask"] != 0, 1, UNLABELLED)}


def skewed(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    student, teacher = (given[name] / values.get("temperature", 1.0) for name in ("student", "teacher"))
    loss = code(student, teacher, counted(given), lam=values["skew"])
    assert isinstance(loss, Tensor)
    return loss


def alpha_beta(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    settings = SimpleNamespace(kd_T=values["temperature"], ab_alpha=values["alpha"], ab_beta=values["beta"])
    loss = code(settings)(given["student"], given["teacher"])[0]
    assert isinstance(loss, Tensor)
    return loss


def alpha_beta_text(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    with replaced():
        loss = code(given["student"], given["teacher"], counted(given), values["alpha"], values["beta"])
    assert isinstance(loss, Tensor)
    return loss


def plus(code: Any, given: Tensors, values: dict[str, Any], relation: str) -> Tensor:
    """One minus its channel relation, whose sign is wrong; its spatial relation as it is."""
    value = getattr(code(*[""] * 8), relation)(given["student"], given["teacher"])
    assert isinstance(value, Tensor)
    return 1 - value if relation == "channel_relation" else value


def functions(file: str, *names: str) -> tuple[tuple[str, str], ...]:
    """What a reference needs of its own file."""
    return tuple((name, file) for name in names)


REFERENCES = {
    "dkd": Reference(*MDISTILLER, DKD, "dkd_loss", dkd, needs=functions(DKD, *MASKS)),
    "dkd_standardized": Reference(
        *STANDARDIZATION,
        DKD,
        "dkd_loss",
        lambda code, given, values: dkd(code, given, values, values["standardize"]),
        needs=functions(DKD, "normalize", *MASKS),
    ),
    "nkd": Reference(*CLS_KD, "mmcls/models/dis_losses/nkd.py", "NKDLoss", nkd),
    "wsld": Reference(
        "bellymonster/Weighted-Soft-Label-Distillation",
        "67820dd7c3c733d5331b78b1e66ef8a990391d5e",
        "knowledge_distiller.py",
        "WSLDistiller",
        wsld,
    ),
    "uskd": Reference(*CLS_KD, "mmcls/models/dis_losses/uskd.py", "USKDLoss", uskd),
    "tf_kd": Reference(
        "yuanli2333/Teacher-free-Knowledge-Distillation",
        "d000ab378a409535a5f5f645b473e05e27529a02",
        "my_loss_function.py",
        "loss_kd_regularization",
        tf_kd,
    ),
    "sdd_kd": Reference(*SDD, f"{DISTILLERS}/KD.py", "sdd_kd_loss", regions),
    "sdd_dkd": Reference(
        *SDD,
        f"{DISTILLERS}/SDD_DKD.py",
        "multi_dkd",
        regions,
        needs=functions(f"{DISTILLERS}/SDD_DKD.py", "dkd_loss", *MASKS),
    ),
    "ctkd": Reference(
        "zhengli97/CTKD",
        "7d5252241259ae70d38a832371fed9697d15fc14",
        "distiller_zoo/KD.py",
        "DistillKL",
        ctkd,
        needs=functions("models/temp_global.py", "GradientReversalFunction"),
    ),
    "mlkd_instance": Reference(*MULTILEVEL, "kd_loss", at_temperatures),
    "mlkd_batch": Reference(*MULTILEVEL, "bc_loss", at_temperatures),
    "mlkd_class": Reference(*MULTILEVEL, "cc_loss", at_temperatures),
    "ttm": Reference(*TTM, "distiller_zoo/ttm.py", "TTM", powered),
    "wttm": Reference(*TTM, "distiller_zoo/wttm.py", "WTTM", powered),
    "skewed_kl": Reference(*DISTILLM, "skewed_forward_kl", skewed),
    "skewed_reverse_kl": Reference(*DISTILLM, "skewed_reverse_kl", skewed),
    "ab_classification": Reference(*ABKD, "standard_classification/distiller_zoo/abkl.py", "ABKL", alpha_beta),
    "ab_text": Reference(*ABKD, "distillation_llm/distillm/losses.py", "ab_div", alpha_beta_text),
    "dist_channel": Reference(
        *MID_LEVEL,
        "DISTPlusLoss",
        lambda code, given, values: plus(code, given, values, "channel_relation"),
        needs=functions(MID_LEVEL[2], "DISTLoss"),
    ),
    "dist_spatial": Reference(
        *MID_LEVEL,
        "DISTPlusLoss",
        lambda code, given, values: plus(code, given, values, "spatial_relation"),
        needs=functions(MID_LEVEL[2], "DISTLoss"),
    ),
    "rld": Reference(*REFINED, "rld_loss", rld, needs=functions(REFINED[2], "normalize", "_get_ge_mask", *MASKS)),
}


def labels(*numbers: int, shape: tuple[int, ...] | None = None) -> dict[str, Input]:
    return {"target": Input(shape or (len(numbers),), 0, whole=True, numbers=numbers)}


def labelled(seed: int) -> list[dict[str, Input]]:
    """Logits with labels: one a row, some of them missing, maps, and a batch of one."""
    return [
        {**pair((5, 6), seed=seed, low=-6.0, high=6.0), **labels(0, 5, 2, 2, 3)},
        {**pair((4, 3), seed=seed + 2, low=-3.0, high=3.0), **labels(1, UNLABELLED, 0, 2)},
        {**pair((2, 4, 1, 3), seed=seed + 4, low=-4.0, high=4.0), **labels(3, 0, 1, 2, -100, 0, shape=(2, 1, 3))},
        {**pair((1, 7), seed=seed + 6), **labels(4)},
    ]


STUDENT = ("student",)
"""Whose gradient is kept where the reference's for the teacher is NaN: it takes the logarithm of 0 times 0."""


def each(reference: str, seed: int, *values: dict[str, Any], gradients: bool | tuple[str, ...] = True) -> list[Case]:
    """A case for each of :func:`labelled` with one of ``values`` in turn."""
    given = labelled(seed)
    return [Case(reference, inputs, values[i % len(values)], gradients) for i, inputs in enumerate(given)]


def padded(shape: tuple[int, ...], seed: int, *lengths: int) -> dict[str, Input]:
    """Logits (B, L, C) of sequences of these lengths."""
    mask = [int(position < length) for length in lengths for position in range(shape[1])]
    return {**pair(shape, seed=seed, low=-4.0, high=4.0), "mask": Input(shape[:2], 0, whole=True, numbers=mask)}


def texts(reference: str, seed: int, *values: dict[str, Any]) -> list[Case]:
    given = (padded((3, 4, 5), seed, 4, 1, 3), padded((2, 3, 4), seed + 2, 3, 2), padded((1, 2, 7), seed + 4, 2))
    return [Case(reference, inputs, {"dim": -1, **values[i % len(values)]}) for i, inputs in enumerate(given)]


def images(reference: str, seed: int, *values: dict[str, Any], **how: Any) -> list[Case]:
    """Logits (B, C) with ``values`` in turn."""
    shapes = ((5, 6), (4, 3), (1, 4), (3, 8))
    more = range(max(len(shapes), len(values)))
    return [
        Case(reference, pair(shapes[i % 4], seed=seed + 2 * i, low=-4.0, high=4.0, **how), values[i % len(values)])
        for i in more
    ]


def areas(reference: str, seed: int, *values: dict[str, Any], gradients: bool | tuple[str, ...] = True) -> list[Case]:
    """Logits of regions (B, R, C) with labels."""
    given = [
        {**pair((4, 5, 3), seed=seed, low=-3.0, high=3.0), **labels(1, 0, 2, 1)},
        {**pair((3, 21, 4), seed=seed + 2, low=-3.0, high=3.0), **labels(3, UNLABELLED, 0)},
        {**pair((1, 5, 6), seed=seed + 4, low=-3.0, high=3.0), **labels(4)},
    ]
    return [Case(reference, inputs, values[i % len(values)], gradients) for i, inputs in enumerate(given)]


def student_alone(inputs: dict[str, Input], name: str | None = None) -> dict[str, Input]:
    """Without the teacher, or with another ``name`` for it."""
    renamed = {name or key: value for key, value in inputs.items() if key == "teacher" and name}
    return {key: value for key, value in inputs.items() if key != "teacher"} | renamed


CASES: dict[str, list[Case]] = {
    "uskd": [
        Case("uskd", student_alone(inputs, "weak"), values)
        for inputs, values in zip(
            [labelled(1060)[i] for i in (0, 1, 3)],
            (
                {"alpha": 1.0, "beta": 0.1, "mu": 0.005},
                {"alpha": 0.1, "beta": 0.4, "mu": 0.1},
                {"alpha": 0.5, "beta": 2.0, "mu": 1.0},
            ),
            strict=True,
        )
    ],
    "tf_kd": [
        Case("tf_kd", student_alone(inputs), {"temperature": temperature})
        for inputs, temperature in zip(labelled(1070), (20.0, 1.0, 0.3, 5.0), strict=True)
    ],
    "sdd_kd": areas("sdd_kd", 1080, {"temperature": 4.0}, {"temperature": 1.0}),
    "sdd_dkd": areas(
        "sdd_dkd",
        1090,
        {"alpha": 1.0, "beta": 8.0, "temperature": 4.0},
        {"alpha": 0.4, "beta": 2.0, "temperature": 1.0},
        gradients=STUDENT,
    ),
    "ctkd": [
        Case("ctkd", {**pair(shape, seed=1100 + 3 * i), "score": Input(size, 1102 + 3 * i)}, values)
        for i, (shape, size, values) in enumerate(
            (
                ((5, 6), (1,), {"start": 1.0, "width": 20.0, "reversal": -1.0}),
                ((4, 3), (1,), {"start": 2.0, "width": 5.0, "reversal": -0.3}),
                ((3, 4), (1,), {"start": 0.5, "width": 1.0, "reversal": 1.0}),
            )
        )
    ],
    **{
        f"mlkd_{level}": images(
            f"mlkd_{level}", seed, {"temperatures": [2.0, 3.0, 4.0, 5.0, 6.0]}, {"temperatures": [1.0, 0.5]}
        )
        for level, seed in (("instance", 1110), ("batch", 1120), ("class", 1130))
    },
    **{
        name: images(name, seed, {"power": 0.1}, {"power": 1.0}, {"power": 0.4}, {"power": 2.0})
        for name, seed in (("ttm", 1140), ("wttm", 1150))
    },
    "skewed_kl": texts("skewed_kl", 1160, {"skew": 0.1}, {"skew": 0.5, "temperature": 2.0}, {"skew": 0.8}),
    "skewed_reverse_kl": texts(
        "skewed_reverse_kl", 1170, {"skew": 0.1}, {"skew": 0.5, "temperature": 2.0}, {"skew": 0.8}
    ),
    "ab_divergence": [
        *images(
            "ab_classification",
            1180,
            {"alpha": 0.8, "beta": 0.3, "temperature": 4.0},
            {"alpha": 0, "beta": 0, "temperature": 2.0},
            {"alpha": 0, "beta": 0.7, "temperature": 1.0},
            {"alpha": 0.7, "beta": 0, "temperature": 0.5},
            {"alpha": 0.5, "beta": -0.5, "temperature": 3.0},
            {"alpha": 1.5, "beta": -0.4, "temperature": 1.0},
            {"alpha": 1, "beta": 0, "temperature": 2.0},
        ),
        *texts("ab_text", 1200, {"alpha": 0.2, "beta": 0.7}, {"alpha": 0, "beta": 1}, {"alpha": -0.5, "beta": 0.5}),
    ],
    "dist_channel": [
        Case("dist_channel", pair(shape, seed=1210 + 2 * i), {})
        for i, shape in enumerate(((3, 4, 2, 5), (1, 6, 3, 3), (4, 3, 1, 2)))
    ],
    "dist_spatial": [
        Case("dist_spatial", pair(student, teacher, seed=1220 + 2 * i), {})
        for i, (student, teacher) in enumerate((((4, 3, 2, 5), (4, 6, 2, 5)), ((3, 2, 3, 3), (3, 2, 3, 3))))
    ],
    "dkd": [
        *each(
            "dkd",
            1000,
            {"alpha": 1.0, "beta": 8.0, "temperature": 4.0},
            {"alpha": 0.5, "beta": 2.0, "temperature": 1.0},
            {"alpha": 2.0, "beta": 0.3, "temperature": 0.5},
            gradients=STUDENT,
        ),
        *each(
            "dkd_standardized",
            1010,
            {"alpha": 1.0, "beta": 8.0, "temperature": 2.0, "standardize": True},
            {"alpha": 3.0, "beta": 0.5, "temperature": 1.0, "standardize": True},
            gradients=STUDENT,
        ),
    ],
    "nkd": each("nkd", 1020, {"gamma": 1.5, "temperature": 1.0}, {"gamma": 3.5, "temperature": 3.0}),
    "wsld": each("wsld", 1030, {"temperature": 2.0}, {"temperature": 4.0}, {"temperature": 1.0}),
    "rld": [
        *each(
            "rld",
            1040,
            {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "confidence_temperature": 1.0},
            {"alpha": 0.5, "beta": 2.0, "temperature": 1.0, "confidence_temperature": 3.0},
            gradients=STUDENT,
        ),
        *each(
            "rld",
            1050,
            {"alpha": 1.0, "beta": 8.0, "temperature": 2.0, "confidence_temperature": 2.0, "standardize": True},
            gradients=STUDENT,
        ),
    ],
}


REGIONS = Reference(*SDD, "mdistiller/models/cifar/utils.py", "SPP", uncalled)
ADAPTERS = [
    Adapter(
        "region_pool",
        (Input(shape, 1230 + i),),
        REGIONS,
        lambda code, scales=scales: code(M=str(scales).replace(" ", "")),
        lambda module, given: {"": module(given[0])[0].transpose(1, 2)},
        values={"scales": scales},
    )
    for i, (shape, scales) in enumerate((((2, 3, 5, 6), [1, 2, 4]), ((1, 2, 8, 8), [1, 2]), ((3, 2, 4, 4), [1])))
]


def mlkd_record(seed: int, batch: int, classes: int, repos: Any) -> dict[str, Any]:
    """The whole loss of MLKD's step, for logits of a weak and of a strong view of both models."""
    losses = tuple((name, MULTILEVEL[2]) for name in ("kd_loss", "cc_loss", "bc_loss"))
    reference = Reference(*MULTILEVEL, "KD_ours", uncalled, needs=losses)
    module = load_part(reference, repos, Distiller=nn.Module, np=np)
    views = [f"{model}_{view}" for model in ("student", "teacher") for view in ("weak", "strong")]
    inputs = {name: Input((batch, classes), seed + number, -4.0, 4.0) for number, name in enumerate(views)}
    given = {name: each.tensor().requires_grad_(name.startswith("student")) for name, each in inputs.items()}
    distiller = SimpleNamespace(
        student=lambda view: (given[f"student_{view}"], None), teacher=lambda view: (given[f"teacher_{view}"], None),
        temperature=4.0, ce_loss_weight=0.1, kd_loss_weight=0.9,
    )  # fmt: skip
    target = [(3 * row) % classes for row in range(batch)]
    _, terms = module.forward_train(distiller, "weak", "strong", torch.tensor(target))
    loss = sum(terms.values())
    loss.backward()
    return {
        "repository": reference.repo,
        "commit": reference.commit,
        "file": reference.file,
        "symbol": reference.symbol,
        "inputs": {name: asdict(each) for name, each in inputs.items()},
        "target": target,
        "value": loss.item(),
        "gradients": {name: digits(each.grad) for name, each in given.items() if each.requires_grad},
    }


GOLDENS: dict[str, Golden] = {
    "methods/mlkd": lambda repos: [mlkd_record(1400, 6, 8, repos), mlkd_record(1410, 2, 4, repos)],
    "methods/logits": lambda repos: [adapter_record(each, repos, load) for each in ADAPTERS],
}

if __name__ == "__main__":
    command(globals())
