"""Makes losses/*.json of the losses for dense outputs, dense/pixelwise.json and dense/adapters.json.

    python tests/golden/make_dense.py REPOS [NAME...]

As make_losses.py, whose words these are. Of each file only the functions and classes that a reference names are run,
without their decorators.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from make_methods import Adapter, adapter_record, uncalled
from make_texts import uncast
from recipes import Case, Golden, Input, Reference, Tensors, command, load_part, pair, records
from torch import Tensor, nn

SKD = ("irfanICMLL/structure_knowledge_distillation", "ce208e1e5ba9177ecfc42519a2c64148d396fb71", "utils/criterion.py")
TORCHDISTILL = ("yoshitomo-matsubara/torchdistill", "3e4373c45214c5c56eebac481d5bfe8b8735aa05")
MID_LEVEL = (*TORCHDISTILL, "torchdistill/losses/mid_level.py")
WRAPPER = (*TORCHDISTILL, "torchdistill/models/wrapper.py")
SIMILARITY = tuple((name, "utils/utils.py") for name in ("L2", "similarity", "sim_dis_compute"))


def load(reference: Reference, repos: Path, **names: Any) -> Any:
    """The function or class, run after those it needs, with ``names`` around them."""
    around = {"AuxiliaryModelWrapper": nn.Module, "wrap_if_distributed": lambda module, *rest, **named: module}
    return load_part(reference, repos, **{**around, **names})


def channel_wise(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    loss = code("channel", values.get("divergence", "kl"), values["temperature"])(given["student"], given["teacher"])
    assert isinstance(loss, Tensor)
    return loss


def pairwise(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    with uncast():
        loss = code(values["scale"], 0)([given["student"]], [given["teacher"]])
    assert isinstance(loss, Tensor)
    return loss


def hooked(given: Tensors) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the reference's hooks catch of both models, at the path "here"."""
    return {"here": {"output": given["student"]}}, {"here": {"output": given["teacher"]}}


def student_adapters(code: Any, channels: int, width: int) -> Any:
    """The adapters of a student as the configuration of COCO 2017 has them, at other widths."""
    convolution = {"in_channels": channels, "out_channels": width, "kernel_size": 3, "stride": 1, "padding": 1}
    feature = {"conv_kwargs": convolution, "bn_kwargs": {"num_features": width}, "relu_kwargs": {"inplace": True}}
    return code(nn.Identity(), "here", feature, {"conv_kwargs": convolution}, None, None, False)


REFERENCES = {
    "shu_cwd": Reference(
        "irfanICMLL/TorchDistiller",
        "78bac7cbe50634e0b880ef37eb8cd7e2560806e4",
        "SemSeg-distill/utils/criterion.py",
        "CriterionCWD",
        channel_wise,
        needs=(("ChannelNorm", "SemSeg-distill/utils/criterion.py"),),
    ),
    "liu_pairwise": Reference(*SKD, "CriterionPairWiseforWholeFeatAfterPool", pairwise, needs=SIMILARITY),
    "liu_pixelwise": Reference(
        *SKD, "CriterionPixelWise", lambda code, given, values: code()([given["student"]], [given["teacher"]])
    ),
    "matsubara_adaptation": Reference(
        *MID_LEVEL,
        "KTALoss",
        lambda code, given, values: code(**values, knowledge_translator_path="here", feature_adapter_path="here")(
            *hooked(given)
        ),
    ),
    "matsubara_affinity": Reference(
        *MID_LEVEL, "AffinityLoss", lambda code, given, values: code("here", "here")(*hooked(given))
    ),
    "matsubara_penalty": Reference(
        *MID_LEVEL,
        "RegularizationLoss",
        lambda code, given, values: code("here", **values)({"here": {"output": given["input"]}}, None),
    ),
}
CASES: dict[str, list[Case]] = {
    "cwd": [
        *(
            Case("shu_cwd", pair(shape, seed=600 + 2 * i, low=-6.0, high=6.0), {"temperature": temperature})
            for i, (shape, temperature) in enumerate((((2, 3, 4, 5), 4.0), ((1, 2, 3, 3), 1.0), ((3, 1, 1, 4), 0.5)))
        ),
        Case("shu_cwd", pair((2, 3, 3, 4), seed=606), {"temperature": 1.0, "divergence": "mse"}),
    ],
    "skd_pairwise": [
        Case("liu_pairwise", pair(ours, theirs, seed=610 + 2 * i), {"scale": scale})
        for i, (ours, theirs, scale) in enumerate(
            (
                ((2, 3, 6, 4), (2, 5, 6, 4), 0.5),
                ((1, 2, 5, 7), (1, 2, 5, 7), 0.5),
                ((2, 4, 6, 6), (2, 3, 6, 6), 0.2),
            )
        )
    ],
    "knowledge_adaptation": [
        Case("matsubara_adaptation", pair(shape, seed=620 + 2 * i), {"p": p, "q": q})
        for i, (shape, p, q) in enumerate(
            (((2, 3, 4, 4), 1, 2), ((1, 2, 3, 5), 1, 1), ((3, 2, 2, 2), 2, 2), ((2, 5), 3, 4))
        )
    ],
    "affinity": [
        Case("matsubara_affinity", pair(shape, seed=630 + 2 * i, low=low), {})
        for i, (shape, low) in enumerate((((2, 3, 4, 4), -2.0), ((1, 2, 3, 5), 1.0), ((3, 1, 2, 2), -2.0)))
    ],
    "norm_penalty": [
        Case("matsubara_penalty", {"input": Input(shape, 640 + i)}, {"p": p})
        for i, (shape, p) in enumerate((((2, 3, 4, 4), 1), ((1, 2, 3, 3), 2), ((3, 4), 3)))
    ],
}
PIXELWISE = [
    Case("liu_pixelwise", pair(shape, seed=650 + 2 * i, low=-5.0, high=5.0), {})
    for i, shape in enumerate(((2, 3, 4, 5), (1, 4, 2, 2), (3, 2, 1, 3)))
]
STUDENT = Reference(*WRAPPER, "Student4KTAAD", uncalled)
ADAPTERS = [
    Adapter(
        "paraphraser",
        (Input((2, 5, 3, 4), 660),),
        Reference(*WRAPPER, "Paraphraser4FactorTransfer", uncalled),
        lambda code: code(0.5, 5, uses_bn=True),
        lambda module, given: {"factor": module.encoder(given[0]), "reconstruction": module(given[0])},
        to=2,
        values={"norm": True},
    ),
    Adapter(
        "projector",
        (Input((2, 5, 3, 4), 661),),
        STUDENT,
        lambda code: student_adapters(code, 5, 2).feature_adapter,
        lambda module, given: {"": module(given[0])},
        like=(2, 2, 3, 4),
        values={"kernel": 3, "norm": True, "activation": "relu"},
    ),
    Adapter(
        "projector",
        (Input((1, 3, 4, 3), 662),),
        STUDENT,
        lambda code: student_adapters(code, 3, 4).affinity_adapter,
        lambda module, given: {"": module(given[0])},
        like=(1, 4, 4, 3),
        values={"kernel": 3},
    ),
]


GOLDENS: dict[str, Golden] = {
    "dense/pixelwise": lambda repos: records(PIXELWISE, REFERENCES, load, repos),
    "dense/adapters": lambda repos: [adapter_record(each, repos, load) for each in ADAPTERS],
}

if __name__ == "__main__":
    command(globals())
