"""Makes losses/*.json of IFVD, DIST, MGD and CIRKD, and regions/*.json of CIRKD's memory and MGD's block.

    python tests/golden/make_regions.py REPOS [NAME...]

As make_losses.py, whose words these are. Of each file only the functions and classes that a reference names are run,
without their decorators. Casts to float32 are casts to float64, and a GPU is the CPU.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import torch
from recipes import Case, Golden, Input, Reference, Tensors, command, digits, load_part, pair, weigh
from torch import Tensor, nn
from torch.nn import functional as F

VOID = -100
load = load_part
CIRKD = ("winycg/CIRKD", "dab64dbb5e4172141166cf8434a80ce55d9d3aa7")
MGD = ("yzd-v/MGD", "2c9da0b28625eb948db57afc02c824452c3910fe")
DIST_SEGMENTATION = ("hunto/DIST_KD", "2418f18b1fedd7c2646a7b1b9a27d5c674c2170b", "segmentation/losses/dist_kd.py")
DIST = (
    "hunto/image_classification_sota",
    "6f7a70a1dd57fd88413d83909d3d53243068f701",
    "lib/models/losses/dist_kd.py",
)
PEARSON = ("cosine_similarity", "pearson_correlation", "inter_class_relation", "intra_class_relation")


@contextlib.contextmanager
def replaced() -> Iterator[None]:
    """Casts to float64, and a GPU that is the CPU."""
    kept = Tensor.float, Tensor.cuda
    Tensor.float, Tensor.cuda = Tensor.double, lambda self: self  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Tensor.float, Tensor.cuda = kept  # type: ignore[method-assign]


def ifvd(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    student, teacher = ([None, None, given[name]] for name in ("student", "teacher"))
    with replaced():
        loss = code(values["num_classes"])(student, teacher, given["target"])
    assert isinstance(loss, Tensor)
    return loss


def minibatch(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    with replaced():
        loss = code(values["temperature"])(given["student"], given["teacher"])
    assert isinstance(loss, Tensor)
    return loss


def dist(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """Of the predictions that count alone, where there is a mask."""
    own = {{"temperature": "tau"}.get(name, name): value for name, value in values.items()}
    student, teacher = given["student"], given["teacher"]
    if "mask" in given:
        student, teacher = (each.movedim(1, -1)[given["mask"] != 0] for each in (student, teacher))
    loss = code(**own)(student, teacher)
    assert isinstance(loss, Tensor)
    return loss


def unmasked(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """MGD of what has been generated: its block changes nothing, and nothing is masked."""
    channels = given["student"].shape[1]
    loss = code(channels, channels, "mgd", alpha_mgd=1.0, lambda_mgd=0.0)
    loss.generation = nn.Identity()
    value = loss(given["student"], given["teacher"])
    assert isinstance(value, Tensor)
    return value


BLOCKS = {
    "places": Reference(*MGD, "seg/mmseg/distillation/losses/mgd.py", "FeatureLoss", unmasked),
    "channels": Reference(*MGD, "cls/mmcls/distillation/losses/mgd.py", "MGDLoss", unmasked),
}
REFERENCES = {
    "ifvd": Reference(
        "YukangWang/IFVD", "950a7a5fd8686ceed87a6976c49143462fcb823a", "utils/criterion.py", "CriterionIFV", ifvd
    ),
    "cirkd_minibatch": Reference(*CIRKD, "losses/cirkd_mini_batch.py", "CriterionMiniBatchCrossImagePair", minibatch),
    "dist": Reference(*DIST, "DIST", dist, needs=tuple((name, DIST[2]) for name in PEARSON)),
    "dist_segmentation": Reference(
        *DIST_SEGMENTATION, "DIST", dist, needs=tuple((name, DIST_SEGMENTATION[2]) for name in PEARSON)
    ),
    "mgd": BLOCKS["places"],
}


def labels(*shape: int, classes: int, seed: int, void: float = 0.2) -> Input:
    """Labels in blobs of 2 x 2 pixels, some of them void."""
    random = Random(seed)
    images, height, width = shape
    numbers: list[int] = []
    for _ in range(images):
        coarse = [
            [VOID if random.random() < void else random.randrange(classes) for _ in range(width)] for _ in range(height)
        ]
        numbers += [coarse[row // 2][column // 2] for row in range(height) for column in range(width)]
    return Input(shape, 0, whole=True, numbers=numbers)


def mask(*shape: int, seed: int) -> Input:
    return Input(shape, seed, low=0.0, whole=True)


CASES: dict[str, list[Case]] = {
    "ifvd": [
        Case(
            "ifvd", {**pair((2, 3, 4, 5), seed=700), "target": labels(2, 8, 10, classes=3, seed=1)}, {"num_classes": 3}
        ),
        Case(
            "ifvd",
            {**pair((3, 4, 3, 3), (3, 2, 3, 3), seed=702, low=-0.5), "target": labels(3, 7, 10, classes=5, seed=2)},
            {"num_classes": 4},
        ),
        Case(
            "ifvd", {**pair((1, 2, 4, 4), seed=704), "target": labels(1, 4, 4, classes=2, seed=3)}, {"num_classes": 21}
        ),
    ],
    "cirkd_minibatch": [
        Case("cirkd_minibatch", pair(student, teacher, seed=710 + 2 * i), {"temperature": temperature})
        for i, (student, teacher, temperature) in enumerate(
            (((2, 3, 4, 5), (2, 6, 4, 5), 0.1), ((3, 4, 2, 3), (3, 4, 2, 3), 1.0), ((1, 2, 3, 3), (1, 5, 3, 3), 0.3))
        )
    ],
    "dist": [
        *(
            Case("dist", pair(shape, seed=720 + 2 * i, low=-5.0, high=5.0), values)
            for i, (shape, values) in enumerate(
                (
                    ((6, 5), {}),
                    ((4, 3), {"beta": 2.0, "gamma": 0.5, "temperature": 4.0}),
                    ((1, 4), {}),
                )
            )
        ),
        Case("dist_segmentation", pair((2, 4, 3, 5), seed=730, low=-5.0, high=5.0), {}),
        Case("dist_segmentation", pair((3, 2, 2, 2), seed=732), {"beta": 0.5, "gamma": 3.0}),
        Case(
            "dist_segmentation",
            {**pair((2, 4, 3, 5), seed=734, low=-5.0, high=5.0), "mask": mask(2, 3, 5, seed=736)},
            {"gamma": 2.0},
        ),
        Case(
            "dist",
            {**pair((3, 3, 2, 4), seed=738, low=-5.0, high=5.0), "mask": mask(3, 2, 4, seed=740)},
            {"temperature": 2.0},
        ),
    ],
    "mgd": [Case("mgd", pair(shape, seed=750 + 2 * i), {}) for i, shape in enumerate(((3, 2, 4, 5), (1, 4, 2, 2)))],
}


def origin(reference: Reference) -> dict[str, str]:
    return {
        "repository": reference.repo,
        "commit": reference.commit,
        "file": reference.file,
        "symbol": reference.symbol,
    }


def plain(each: Input) -> dict[str, Any]:
    return {name: getattr(each, name) for name in ("shape", "seed", "low", "high", "whole", "numbers")}


def block(repos: Path, student: tuple[int, ...], teacher: tuple[int, ...], over: str, ratio: float, seed: int) -> Any:
    """MGD's masked block and loss on one pass, with the numbers that decide on the mask by formula."""
    inputs = pair(student, teacher, seed=seed)
    size = (student[0], teacher[1], 1, 1) if over == "channels" else (student[0], 1, *student[2:])
    drawn = Input(size, seed + 2, low=0.0, high=1.0)
    names = {**vars(torch), "rand": lambda shape: drawn.tensor()}
    code = load_part(BLOCKS[over], repos, torch=SimpleNamespace(**names))
    loss = code(student[1], teacher[1], "mgd", alpha_mgd=1.0, lambda_mgd=ratio)
    weigh(loss, 400)
    given = {name: each.tensor().requires_grad_() for name, each in inputs.items()}
    value = loss(given["student"], given["teacher"])
    value.backward()
    return {
        **origin(BLOCKS[over]),
        "inputs": {name: plain(each) for name, each in inputs.items()},
        "drawn": plain(drawn),
        "values": {"over": over, "ratio": ratio},
        "value": value.item(),
        "gradients": {name: digits(each.grad) for name, each in given.items()},
        "of_weights": [digits(each.grad) for each in loss.parameters()],
    }


class Permutations:
    """torch.randperm's stand-in: what it returns is told beforehand."""

    def __init__(self) -> None:
        self.next: list[list[int]] = []

    def __call__(self, size: int) -> Tensor:
        return torch.tensor(self.next.pop(0))


def pixels_of(target: Tensor, size: tuple[int, int], seed: int) -> list[dict[int, list[int]]]:
    """For each image the places of each of its classes at ``size``, in random order."""
    near = F.interpolate(target[:, None].double(), size, mode="nearest").flatten(1).long()
    places: list[dict[int, list[int]]] = []
    for image in near:
        found = {int(label): (image == label).nonzero().flatten().tolist() for label in image.unique() if label >= 0}
        for each in found.values():
            Random(seed + len(each)).shuffle(each)
        places.append(found)
    return places


def untouched(loss: Any, permutations: Permutations, places: list[list[int]], *given: Tensor) -> dict[str, list[int]]:
    """The slots of each memory that adding a batch leaves as they are, for all classes."""
    after = copy.deepcopy(loss)
    permutations.next = [*places]
    after._dequeue_and_enqueue(*given)
    kept = {}
    for name in ("pixel", "segment"):
        memories = [getattr(each, f"teacher_{name}_queue") for each in (loss, after)]
        same = (memories[0] == memories[1]).all(2).all(0)
        kept[name] = same.nonzero().flatten().tolist()
    return kept


def memory(
    repos: Path,
    student: tuple[int, ...],
    teacher: tuple[int, ...],
    target: tuple[int, int],
    values: dict[str, Any],
    seed: int,
) -> Any:
    """CIRKD's memory over passes, its random choices told beforehand.

    Its code takes, for pixels of a class, those with the drawn numbers in the whole image; told the class's own places
    it takes these. It adds a batch to the memory before it contrasts with it: the slots drawn are others than those.
    """
    permutations = Permutations()
    stand_in = SimpleNamespace(**{**vars(torch), "randperm": permutations})
    norm = SimpleNamespace(**{**vars(nn), "SyncBatchNorm": nn.BatchNorm2d})
    reference = Reference(*CIRKD, "losses/cirkd_memory.py", "StudentSegContrast", unmasked)
    loss = load_part(reference, repos, torch=stand_in, nn=norm)(
        num_classes=values["num_classes"],
        pixel_memory_size=values["pixel_memory"],
        region_memory_size=values["region_memory"],
        pixel_contrast_size=values["pixel_contrast"] // values["num_classes"] + 1,
        region_contrast_size=values["region_contrast"] // values["num_classes"] + 1,
        contrast_kd_temperature=values["kd_temperature"],
        contrast_temperature=values["temperature"],
        s_channels=student[1],
        t_channels=teacher[1],
        ignore_label=VOID,
    )
    loss.pixel_update_freq = values["update"]
    loss.concat_all_gather = lambda tensor: tensor
    weigh(loss.project_head, 400)
    memories = {
        "pixels": Input((values["num_classes"], values["pixel_memory"], teacher[1]), seed + 90),
        "regions": Input((values["num_classes"], values["region_memory"], teacher[1]), seed + 91),
    }
    loss.teacher_pixel_queue = F.normalize(memories["pixels"].tensor(), dim=2)
    loss.teacher_segment_queue = F.normalize(memories["regions"].tensor(), dim=2)
    passes = [one_pass(loss, permutations, student, teacher, target, values, seed + 10 * i) for i in range(3)]
    after = {"pixels": loss.teacher_pixel_queue, "regions": loss.teacher_segment_queue}
    return {
        **origin(reference),
        "values": {**values, "dim": teacher[1]},
        "memories": {name: plain(each) for name, each in memories.items()},
        "passes": passes,
        "after": {name: digits(each) for name, each in after.items()},
        "next": {"next_pixel": loss.pixel_queue_ptr.tolist(), "next_region": loss.segment_queue_ptr.tolist()},
        "of_weights": [digits(each.grad) for each in loss.project_head.parameters()],
    }


def one_pass(
    loss: Any,
    permutations: Permutations,
    student: tuple[int, ...],
    teacher: tuple[int, ...],
    target: tuple[int, int],
    values: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """A pass of CIRKD's memory, whose gradients add up in the projection head."""
    height, width = student[2:]
    inputs = {
        **pair(student, teacher, seed=seed),
        "target": labels(student[0], *target, classes=values["num_classes"], seed=seed),
    }
    given = {name: each.tensor() for name, each in inputs.items()}
    given["student"].requires_grad_()
    places = pixels_of(given["target"], (height, width), seed)
    order = [image[label] for image in places for label in sorted(image)]
    near = F.interpolate(given["target"][:, None].double(), (height, width), mode="nearest")[:, 0].long()
    kept = untouched(loss, permutations, order, F.normalize(given["teacher"], dim=1), near)
    slots = {name: Random(seed).sample(each, len(each)) for name, each in kept.items()}
    permutations.next = [*order, slots["pixel"], slots["segment"]]
    with replaced():
        pixel, region = loss(given["student"], given["teacher"], given["target"], near)
    (values["pixel_weight"] * pixel + values["region_weight"] * region).backward()
    assert not permutations.next
    assert len(slots["pixel"]) > values["pixel_contrast"] // values["num_classes"]
    assert len(slots["segment"]) > values["region_contrast"] // values["num_classes"]
    return {
        "inputs": {name: plain(each) for name, each in inputs.items()},
        "places": [{str(label): each for label, each in image.items()} for image in places],
        "pixel_slots": slots["pixel"],
        "region_slots": slots["segment"],
        "value": (values["pixel_weight"] * pixel + values["region_weight"] * region).item(),
        "gradient": digits(given["student"].grad),
    }


SHARP = {"temperature": 0.1, "kd_temperature": 1.0, "pixel_weight": 1.0, "region_weight": 1.0}
SOFT = {"temperature": 0.5, "kd_temperature": 2.0, "pixel_weight": 0.1, "region_weight": 0.3}
THREE = {"num_classes": 3, "pixel_memory": 19, "region_memory": 5, "pixel_contrast": 8, "region_contrast": 5}
FOUR = {"num_classes": 4, "pixel_memory": 13, "region_memory": 7, "pixel_contrast": 7, "region_contrast": 6}
GOLDENS: dict[str, Golden] = {
    "regions/generation": lambda repos: [
        block(repos, (2, 3, 4, 5), (2, 4, 4, 5), "places", 0.75, 760),
        block(repos, (1, 2, 3, 3), (1, 2, 3, 3), "places", 0.4, 764),
        block(repos, (2, 3, 3, 2), (2, 4, 3, 2), "channels", 0.5, 768),
    ],
    "regions/cirkd_memory": lambda repos: [
        memory(repos, (2, 3, 4, 5), (2, 4, 4, 5), (8, 10), {**THREE, **SHARP, "update": 4}, 800),
        memory(repos, (3, 2, 3, 3), (3, 5, 3, 3), (3, 3), {**FOUR, **SOFT, "update": 2}, 850),
    ],
}


if __name__ == "__main__":
    command(globals())
