"""Makes losses/*.json of the losses for detectors, and detection/*.json of their adapters.

    python tests/golden/make_detection.py REPOS [NAME...]

As make_losses.py, whose words these are. Of each file only the functions and classes that a reference names are run,
without their decorators; what is of mmcv or mmdet they do not have.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Union

from recipes import Case, Golden, Input, Reference, Tensors, command, digits, load_part, pair, weigh
from torch import Tensor

FGD = ("yzd-v/FGD", "c03a6cf3b3cb3cbfd5554dbf4766e7135747d22d", "mmdet/distillation/losses/fgd.py")
MMRAZOR = ("open-mmlab/mmrazor", "90c7af1fdf35a606a2fceaaeb4b6be2f0dac4eb7")


def load(reference: Reference, repos: Any) -> Any:
    """The reference, with mmcv's initial values, which count for nothing here, as nothing."""
    names: dict[str, Any] = {"Tuple": tuple, "Union": Union}
    for initial in ("constant_init", "kaiming_init"):
        names[initial] = lambda *_, **__: None
    return load_part(reference, repos, **names)


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


REFERENCES = {
    "fgd": Reference(*FGD, "FeatureLoss", focal),
    "pkd": Reference(
        *MMRAZOR,
        "mmrazor/models/losses/pkd_loss.py",
        "PKDLoss",
        lambda code, given, values: code()(given["student"], given["teacher"]),
    ),
}

FRACTIONS = {"low": 0.0, "high": 1.0}
CASES: dict[str, list[Case]] = {
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


GOLDENS: dict[str, Golden] = {
    "detection/fgd": lambda repos: [
        whole(repos, (2, 3, 4, 5), (2, 4, 4, 5), 6, 1100, {"lambda_fgd": 0.3, "alpha_fgd": 0.1, "beta_fgd": 0.2}),
        whole(repos, (1, 4, 3, 3), (1, 4, 3, 3), 4, 1110, {"lambda_fgd": 0.05, "temp": 0.8}),
    ],
}


if __name__ == "__main__":
    command(globals())
