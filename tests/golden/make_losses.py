"""Makes losses/*.json: values and gradients of the losses' reference code.

    python tests/golden/make_losses.py REPOS [LOSS...]

REPOS/OWNER/NAME are git clones of the repositories that REFERENCES names for these losses (all, unless some are named).
Their code is run as it stands at the commit named there, in float64; nothing of it is kept. What a reference imports
beyond torch is replaced by empty modules.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from recipes import Case, Input, Reference, Tensors, command, load_part, pair, record, weigh, wide
from recipes import load as load_plain
from torch import Tensor, nn

__all__ = ["Case", "Input", "Reference", "Tensors", "load", "pair", "record", "weigh"]


def distilbert(distiller: Any, given: Tensors, values: dict[str, Any], key: str) -> Tensor:
    """The loss that ``Distiller.step`` hands to ``optimize``, with the weight of all terms but one at zero."""
    size = given["student"].shape[:2]
    mask = given.get("mask", torch.ones(size)).bool()
    outputs = {name: {"logits": torch.zeros(*size, 2), "hidden_states": [torch.zeros(*size, 2)]} for name in given}
    for name in ("student", "teacher"):
        outputs[name][key] = given[name] if key == "logits" else [given[name]]
    weights = {f"alpha_{term}": 0.0 for term in ("ce", "mlm", "clm", "mse", "cos")}
    losses: list[Tensor] = []
    trainer = SimpleNamespace(
        **{**weights, {"logits": "alpha_ce", "hidden_states": "alpha_cos"}[key]: 1.0},
        mlm=True,
        student=lambda **_: outputs["student"],
        teacher=lambda **_: outputs["teacher"],
        params=SimpleNamespace(restrict_ce_to_mask=False),
        temperature=values.get("temperature", 1.0),
        ce_loss_fct=nn.KLDivLoss(reduction="batchmean"),
        cosine_loss_fct=nn.CosineEmbeddingLoss(reduction="mean"),
        total_loss_epoch=0.0,
        n_sequences_epoch=0,
        optimize=losses.append,
    )
    distiller.step(trainer, mask, mask, mask)
    return losses[0]


def fitnets(hint_cost: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """``HintCost.expr`` where student and teacher are layers that return what is given."""
    cost = hint_cost.__new__(hint_cost)
    cost.get_data_specs = lambda model: (SimpleNamespace(validate=lambda data: None), None)
    cost.teacher = SimpleNamespace(layers=[SimpleNamespace(fprop=lambda data: given["teacher"])])
    cost.hintlayer = 0
    layer = SimpleNamespace(get_output_space=object)
    space = SimpleNamespace(axes=("b", "c", 0, 1))
    model = SimpleNamespace(input_space=space, fprop=lambda data: given["student"], layers=[layer])
    return cost.expr(model, given["student"])


REPDISTILLER = ("HobbitLong/RepDistiller", "b84f547c5db6a35318d4671d7d5c4de74c822403")
MDISTILLER = ("megvii-research/mdistiller", "a08d46f10d6102bd6e3f258ca5ac880b020ea259")
DISTILLERS = "mdistiller/distillers"
ATTENTION = ("szagoruyko/attention-transfer", "893df5488f93691799f082a70e2521a9dc2ddf2d")
RKD = ("lenscloth/RKD", "0a6c3c0c190722d428322bf71703c0ae86c25242")
TRANSFORMERS = ("huggingface/transformers-research-projects", "fccd0cdab03c1407bb7def05e1b48528fc817078")

TORCHDISTILL = ("yoshitomo-matsubara/torchdistill", "3e4373c45214c5c56eebac481d5bfe8b8735aa05")


def load(reference: Reference, repos: Path) -> Any:
    """The function or class, of torchdistill's file alone."""
    return (load_part if reference.repo == TORCHDISTILL[0] else load_plain)(reference, repos)


REFERENCES = {
    "repdistiller_kd": Reference(
        *REPDISTILLER,
        "distiller_zoo/KD.py",
        "DistillKL",
        lambda code, given, values: code(values["temperature"])(given["student"], given["teacher"]),
    ),
    "mdistiller_kd": Reference(
        *MDISTILLER,
        f"{DISTILLERS}/KD.py",
        "kd_loss",
        lambda code, given, values: code(given["student"], given["teacher"], values["temperature"]),
        needs=(("reference._base", f"{DISTILLERS}/_base.py"),),
    ),
    "sun_kd": Reference(
        "sunshangquan/logit-standardization-KD",
        "f6e5aa5172bad618e801163c3385322eea673754",
        f"{DISTILLERS}/KD.py",
        "kd_loss",
        lambda code, given, values: code(given["student"], given["teacher"], values["temperature"], True),
        needs=(("reference._base", f"{DISTILLERS}/_base.py"),),
    ),
    "matsubara_kd": Reference(
        *TORCHDISTILL,
        "torchdistill/losses/mid_level.py",
        "LogitStdKDLoss",
        lambda code, given, values: (
            values["temperature"] ** 2
            * code("", "output", "", "output", values["temperature"], alpha=0, beta=1)(
                {"": {"output": given["student"]}}, {"": {"output": given["teacher"]}}
            )
        ),
    ),
    "zagoruyko_kd": Reference(
        *ATTENTION,
        "utils.py",
        "distillation",
        lambda code, given, values: code(
            given["student"], given["teacher"], torch.zeros(len(given["student"])).long(), values["temperature"], 1.0
        ),
    ),
    "distilbert_kd": Reference(
        *TRANSFORMERS,
        "distillation/distiller.py",
        "Distiller",
        lambda code, given, values: distilbert(code, given, values, "logits"),
    ),
    "distilbert_cosine": Reference(
        *TRANSFORMERS,
        "distillation/distiller.py",
        "Distiller",
        lambda code, given, values: distilbert(code, given, values, "hidden_states"),
    ),
    "l2d_mld": Reference(
        "penghui-yang/L2D",
        "ea7fa5581de3cd0dba2f4d5ba3e3aaed78837a58",
        "criterion/distiller_zoo/logits_based/mld.py",
        "MLD",
        lambda code, given, values: code()(given["student"], given["teacher"]),
    ),
    "fitnets_hint": Reference(
        "adri-romsor/FitNets", "0f633b1bbe85ee431c24ea277a8f1f8cb5fef6a7", "costs/HintCost.py", "HintCost", fitnets
    ),
    "repdistiller_hint": Reference(
        *REPDISTILLER,
        "distiller_zoo/FitNet.py",
        "HintLoss",
        lambda code, given, values: code()(given["student"], given["teacher"]),
    ),
    "zagoruyko_at": Reference(
        *ATTENTION, "utils.py", "at_loss", lambda code, given, values: code(given["student"], given["teacher"])
    ),
    "repdistiller_at": Reference(
        *REPDISTILLER,
        "distiller_zoo/AT.py",
        "Attention",
        lambda code, given, values: code(values["p"])([given["student"]], [given["teacher"]])[0],
    ),
    "repdistiller_sp": Reference(
        *REPDISTILLER,
        "distiller_zoo/SP.py",
        "Similarity",
        lambda code, given, values: code()([given["student"]], [given["teacher"]])[0],
    ),
    "passalis_pkt": Reference(
        "passalis/probabilistic_kt",
        "a58fd1b0c62491f55a78189daf835e3558f96176",
        "nn/pkt.py",
        "cosine_similarity_loss",
        lambda code, given, values: code(given["student"], given["teacher"]),
    ),
    "park_distance": Reference(
        *RKD,
        "metric/loss.py",
        "RkdDistance",
        lambda code, given, values: code()(given["student"], given["teacher"]),
        needs=(("metric.utils", "metric/utils.py"),),
    ),
    "park_angle": Reference(
        *RKD,
        "metric/loss.py",
        "RKdAngle",
        lambda code, given, values: code()(given["student"], given["teacher"]),
        needs=(("metric.utils", "metric/utils.py"),),
    ),
}


SHAPES = ((4, 6), (7, 3), (1, 5))
CASES: dict[str, list[Case]] = {
    "kd": [
        *(
            Case(reference, pair(shape, seed=seed, low=-6.0, high=6.0), {"temperature": temperature})
            for reference in ("repdistiller_kd", "mdistiller_kd", "zagoruyko_kd")
            for seed, (shape, temperature) in enumerate(zip(SHAPES, (4.0, 1.0, 2.5), strict=True))
        ),
        Case("mdistiller_kd", pair((2, 3, 4, 5), seed=10), {"temperature": 3.0}),
        *(
            Case("sun_kd", pair(shape, seed=15 + i, low=-6.0), {"temperature": temperature, "standardize": True})
            for i, (shape, temperature) in enumerate((((4, 6), 2.0), ((5, 3), 1.0), ((1, 5), 3.0)))
        ),
        Case("matsubara_kd", pair((6, 4), seed=18, low=-6.0), {"temperature": 2.0, "standardize": True}),
        Case("distilbert_kd", pair((2, 4, 5), seed=11), {"temperature": 2.0, "dim": -1}),
        Case(
            "distilbert_kd",
            {**pair((3, 4, 5), seed=12), "mask": Input((3, 4), 14, low=0.0, whole=True)},
            {"temperature": 2.0, "dim": -1},
        ),
    ],
    "multilabel_kd": [
        Case("l2d_mld", pair(shape, seed=20 + i, low=-8.0, high=8.0), {"temperature": 1.0})
        for i, shape in enumerate(SHAPES)
    ],
    "mse": [
        Case("repdistiller_hint", pair(shape, seed=30 + i), {})
        for i, shape in enumerate(((4, 6), (2, 3, 4, 4), (1, 2, 5)))
    ],
    "hint": [
        Case("fitnets_hint", pair(shape, seed=40 + i), {}) for i, shape in enumerate(((4, 6), (2, 3, 4, 5), (1, 7)))
    ],
    "cosine": [
        *(
            Case("distilbert_cosine", pair(shape, seed=50 + i), {})
            for i, shape in enumerate(((2, 3, 8), (1, 1, 4), (3, 2, 5)))
        ),
        Case(
            "distilbert_cosine",
            {**pair((3, 4, 5), seed=55), "mask": Input((3, 4), 57, low=0.0, whole=True)},
            {},
        ),
    ],
    "attention_transfer": [
        *(
            Case("zagoruyko_at", pair(student, teacher, seed=60 + i), {"p": 2.0})
            for i, (student, teacher) in enumerate(
                (((3, 2, 4, 4), (3, 5, 4, 4)), ((2, 4, 3, 5), (2, 4, 3, 5)), ((1, 3, 2, 2), (1, 1, 2, 2)))
            )
        ),
        *(
            Case("repdistiller_at", pair((3, 2, 4, 4), (3, 5, 4, 4), seed=70 + int(p), low=0.0), {"p": p})
            for p in (1.0, 2.0, 3.0, 4.0)
        ),
        *(
            Case("repdistiller_at", pair(student, teacher, seed=75 + 2 * i), {"p": 2.0})
            for i, (student, teacher) in enumerate((((2, 3, 6, 6), (2, 4, 4, 4)), ((2, 3, 2, 2), (2, 2, 4, 4))))
        ),
    ],
    "similarity_preserving": [
        Case("repdistiller_sp", pair(student, teacher, seed=80 + i), {})
        for i, (student, teacher) in enumerate((((4, 6), (4, 3)), ((5, 2, 3, 3), (5, 4, 2, 2)), ((1, 4), (1, 4))))
    ],
    "pkt": [
        Case("passalis_pkt", pair(student, teacher, seed=90 + i, **how), {})
        for i, (student, teacher, how) in enumerate(
            (
                ((4, 6), (4, 3), {}),
                ((8, 2), (8, 5), {"low": 0.0}),
                ((1, 4), (1, 4), {}),
                ((5, 3), (5, 3), {"twins": True}),
            )
        )
    ],
    "rkd_distance": [
        *(
            Case("park_distance", pair(student, teacher, seed=100 + i), {})
            for i, (student, teacher) in enumerate((((4, 6), (4, 3)), ((8, 2), (8, 5)), ((2, 4), (2, 4))))
        ),
        Case("park_distance", wide((5, 3), (5, 4), seed=108, twins=True), {}),
    ],
    "rkd_angle": [
        *(
            Case("park_angle", pair(student, teacher, seed=110 + i), {})
            for i, (student, teacher) in enumerate((((4, 6), (4, 3)), ((6, 2), (6, 5)), ((3, 4), (3, 4))))
        ),
        Case("park_angle", wide((5, 3), (5, 4), seed=118, twins=True), {}, gradients=False),
    ],
}


if __name__ == "__main__":
    command(globals())
