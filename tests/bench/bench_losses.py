"""What each loss costs beside torchdistill's, mdistiller's or RepDistiller's: forward and backward pass, alternating.

::

    python -m pytest tests/bench/bench_losses.py --benchmark-only                    # ours alone, batch 64
    python tests/bench/bench_losses.py [REPOS] [--only NAME ...] [--batch 64 256] [--rounds 300]

REPOS/OWNER/NAME are git clones of the repositories that TREES names; without them only our side runs. With them the
losses are those that one of them has, unless others are named. Both sides get the same tensors, work on one thread in
one process, and alternate pass by pass, so that other work on the machine hits both. The teacher's tensors want no
gradient. It prints the median processor time of a pass of each side, and the median over the rounds of theirs over
ours: above 1 ours is faster.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.losses import LOSSES, loss_signature

Tensors = dict[str, Any]
Pass = Callable[[Tensors], Tensor]
CLASSES, SAMPLES = 100, 50000
LONGEST = 8
"""Seconds after which a row of the table ends, whatever the rounds."""
TORCHDISTILL, MDISTILLER, REPDISTILLER = (
    "yoshitomo-matsubara/torchdistill",
    "megvii-research/mdistiller",
    "HobbitLong/RepDistiller",
)
TREES = {TORCHDISTILL: "torchdistill", MDISTILLER: "mdistiller", REPDISTILLER: "distiller_zoo"}
"""The folder of each repository that is imported."""


@dataclass(frozen=True)
class Row:
    """A loss on tensors of these shapes (without the batch, or made from its size), and the same loss of another."""

    inputs: Mapping[str, tuple[int, ...] | Callable[[int], Any]]
    values: Mapping[str, Any] = field(default_factory=dict)
    repo: str = ""
    theirs: Callable[[Callable[[str], Any]], Pass] | None = None
    """Given a function that imports a module of the repository, the pass."""
    ours: Pass | None = None
    """The pass of several losses together, where the row is of a method."""


def labels(batch: int) -> Tensor:
    return torch.randint(CLASSES, (batch,), generator=torch.Generator().manual_seed(1))


def unit(width: int) -> Callable[[int], Tensor]:
    """Rows of length 1."""
    return lambda batch: F.normalize(torch.randn(batch, width))


def pair(student: tuple[int, ...], teacher: tuple[int, ...] | None = None) -> dict[str, Any]:
    return {"student": student, "teacher": teacher or student}


LOGITS = pair((CLASSES,))
MAPS = pair((64, 8, 8))
WIDER = pair((64, 8, 8), (256, 8, 8))
VECTORS = pair((64,), (256,))
WIRE = {
    "student_module_path": "m",
    "student_module_io": "output",
    "teacher_module_path": "m",
    "teacher_module_io": "output",
}


def torchdistills(name: str, **options: Any) -> dict[str, Any]:
    """A loss of torchdistill on what the module ``m`` of both models gives; ``...`` stands for the pair of both."""
    given = {"path": "m", "io": "output"}
    wired = {
        key: {"pair": {"student": given, "teacher": given}} if value is ... else value for key, value in options.items()
    }

    def made(load: Callable[[str], Any]) -> Pass:
        loss = getattr(load("torchdistill.losses.mid_level"), name)(**wired)
        return lambda given: loss(
            *({"m": {"output": given[key]}} for key in ("student", "teacher")), given.get("target")
        )

    return {"repo": TORCHDISTILL, "theirs": made}


def mdistillers(module: str, name: str, call: Callable[[Any, Tensors], Tensor]) -> dict[str, Any]:
    """A function of mdistiller."""

    def made(load: Callable[[str], Any]) -> Pass:
        loss = getattr(load(f"mdistiller.distillers.{module}"), name)
        return lambda given: call(loss, given)

    return {"repo": MDISTILLER, "theirs": made}


def repdistillers(name: str, call: Callable[[Any, Tensors], Tensor], *values: Any) -> dict[str, Any]:
    """A class of RepDistiller."""

    def made(load: Callable[[str], Any]) -> Pass:
        loss = getattr(load("distiller_zoo"), name)(*values)
        return lambda given: call(loss, given)

    return {"repo": REPDISTILLER, "theirs": made}


def both(loss: Any, given: Tensors) -> Tensor:
    result: Tensor = loss(given["student"], given["teacher"])
    return result


def crd_of_torchdistill(load: Callable[[str], Any]) -> Pass:
    loss = load("torchdistill.losses.mid_level").CRDLoss("n", "e", "n", 128, SAMPLES, 16384, SAMPLES)

    def step(given: Tensors) -> Tensor:
        rows = torch.randint(SAMPLES, (len(given["index"]), 16385))
        rows[:, 0] = given["index"]
        scores = loss.contrast_memory(given["student"], given["teacher"], given["index"], rows)
        return sum(loss.compute_contrast_loss(score) for score in scores).sum()  # type: ignore[union-attr]

    return step


def views(batch: int) -> Tensor:
    """Four views of a sample, one after another."""
    return torch.arange(batch) % 4


def sskd(given: Tensors) -> Tensor:
    """SSKD's terms of the student, without its cross-entropy."""
    student, teacher, rows = given["student"], given["teacher"], {"index": given["index"] // 4, "view": given["view"]}
    labels = given["target"].where(given["view"] == 0, -100)
    kd = LOSSES.get("kd")(student, teacher, given["view"] == 0)
    transformed = LOSSES.get("transformed_kd")(student, teacher, labels, **rows)
    similar = LOSSES.get("self_supervised_kd")(given["student_head"], given["teacher_head"], **rows)
    return kd + transformed + similar  # type: ignore[no-any-return]


def sskd_of_torchdistill(load: Callable[[str], Any]) -> Pass:
    names = ("student_linear", "teacher_linear", "student_ss", "teacher_ss")
    paths = {f"{name}_module_path": name.partition("_")[2] for name in names}
    temperatures = {"kl_temp": 4.0, "ss_temp": 0.5, "tf_temp": 4.0}
    weights = [0.0, 1.0, 1.0, 1.0]
    loss = load("torchdistill.losses.mid_level").SSKDLoss(
        **paths, **temperatures, ss_ratio=0.75, tf_ratio=1.0, loss_weights=weights
    )

    def step(given: Tensors) -> Tensor:
        models = (
            {"linear": {"output": given[name]}, "ss": {"output": given[f"{name}_head"]}}
            for name in ("student", "teacher")
        )
        return loss(*models, given["target"][::4])  # type: ignore[no-any-return]

    return step


def srd_kd(given: Tensors) -> Tensor:
    """SRD's two terms."""
    features: Tensor = LOSSES.get("srd")(given["student_features"], given["teacher_features"])
    logits: Tensor = LOSSES.get("kd")(given["student"], given["teacher"], temperature=1.0)
    return 2 * features + logits


def srd_of_torchdistill(load: Callable[[str], Any]) -> Pass:
    names = ("student_feature", "teacher_feature", "student_linear", "teacher_linear")
    wires = {f"{name}_module_path": name.partition("_")[2] for name in names}
    wires |= {f"{name}_module_io": "output" for name in names}
    loss = load("torchdistill.losses.mid_level").SRDLoss(**wires, exponent=4.0)
    norms = {name: nn.BatchNorm1d(64, eps=1e-4, affine=False) for name in ("student", "teacher")}

    def step(given: Tensors) -> Tensor:
        features = {name: norm(given[f"{name}_features"]) for name, norm in norms.items()}
        models = ({"feature": {"output": features[name]}, "linear": {"output": given[name]}} for name in norms)
        return loss(*models)  # type: ignore[no-any-return]

    return step


def pad_of_torchdistill(load: Callable[[str], Any]) -> Pass:
    loss = load("torchdistill.losses.mid_level").PADL2Loss("m", "m", module_path="v")
    return lambda given: loss(
        {"m": {"output": given["student"]}, "v": {"output": given["log_variance"]}}, {"m": {"output": given["teacher"]}}
    )


def boundary_of_repdistiller(load: Callable[[str], Any]) -> Pass:
    loss = load("distiller_zoo").ABLoss(1)
    return lambda given: loss([given["student"]], [given["teacher"]])[0]  # type: ignore[no-any-return]


def vid_of_repdistiller(load: Callable[[str], Any]) -> Pass:
    loss = load("distiller_zoo").VIDLoss(64, 256, 256)
    return lambda given: both(loss, given)


def lists(*shapes: tuple[int, ...]) -> Callable[[int], list[Tensor]]:
    """Feature maps of several resolutions."""
    return lambda batch: [torch.randn(batch, *shape) for shape in shapes]


def of_lists(loss: Any, given: Tensors) -> Tensor:
    result: Tensor = sum(loss(given["student"], given["teacher"]))
    return result


PYRAMID = {name: lists((16, 32, 32), (32, 16, 16), (64, 8, 8)) for name in ("student", "teacher")}
PENULTIMATE = pair((64,))


ROWS: dict[str, Row] = {
    "activation_boundary": Row(MAPS, {}, REPDISTILLER, boundary_of_repdistiller),
    "cc": Row(PENULTIMATE, {}, **repdistillers("Correlation", both)),
    "cc_kernel": Row(
        VECTORS,
        {},
        **torchdistills(
            "CCKDLoss",
            student_linear_path="m",
            teacher_linear_path="m",
            kernel_config={"type": "gaussian", "gamma": 0.4, "max_p": 2},
            reduction="batchmean",
        ),
    ),
    "dkd": Row(
        {**LOGITS, "target": labels},
        {},
        **mdistillers(
            "DKD",
            "dkd_loss",
            lambda loss, given: loss(given["student"], given["teacher"], given["target"], 1.0, 8.0, 4.0),
        ),
    ),
    "fsp": Row(PYRAMID, {}, **repdistillers("FSP", of_lists, [(1, 1)], [(1, 1)])),
    "ickd": Row(MAPS, {}, **torchdistills("ChSimLoss", feature_pairs=...)),
    "kdsvd": Row(
        PYRAMID,
        {},
        **repdistillers("KDSVD", of_lists),
    ),
    "nst": Row(
        MAPS, {}, **mdistillers("NST", "nst_loss", lambda loss, given: loss([given["student"]], [given["teacher"]]))
    ),
    "pad_l2": Row({**PENULTIMATE, "log_variance": (64,)}, {}, TORCHDISTILL, pad_of_torchdistill),
    "partial_l2": Row(
        MAPS,
        {},
        **mdistillers(
            "OFD",
            "feat_loss",
            lambda loss, given: loss(given["student"], given["teacher"], torch.full((1, 64, 1, 1), -1.0)),
        ),
    ),
    "srd_kd": Row(
        {**LOGITS, "student_features": (64,), "teacher_features": (64,)}, {}, TORCHDISTILL, srd_of_torchdistill, srd_kd
    ),
    "srd": Row(PENULTIMATE),
    "streamlined_direction": Row(LOGITS, {}, **torchdistills("SKDDirectionLoss", **WIRE)),
    "vid": Row(WIDER, {"width": 256}, REPDISTILLER, vid_of_repdistiller),
    "attention_transfer": Row(WIDER, {}, **torchdistills("ATLoss", at_pairs=...)),
    "affinity": Row(MAPS, {}, **torchdistills("AffinityLoss", student_module_path="m", teacher_module_path="m")),
    "cosine": Row(MAPS, {"dim": 1}),
    "crd": Row(
        {"student": unit(128), "teacher": unit(128), "index": torch.arange},
        {"num_samples": SAMPLES},
        TORCHDISTILL,
        crd_of_torchdistill,
    ),
    "cross_entropy": Row({"student": (CLASSES,), "target": labels}),
    "cwd": Row(MAPS),
    "dist": Row(LOGITS, {}, **torchdistills("DISTLoss", **WIRE)),
    "factor_transfer": Row(MAPS, {}, **torchdistills("FTLoss", paraphraser_path="m", translator_path="m")),
    "hierarchical_context": Row(
        MAPS,
        {},
        **mdistillers("ReviewKD", "hcl_loss", lambda loss, given: loss([given["student"]], [given["teacher"]])),
    ),
    "hint": Row(MAPS),
    "jensen_shannon": Row(LOGITS),
    "kd": Row(LOGITS, {}, **torchdistills("KDLoss", temperature=4.0, beta=1.0, **WIRE)),
    "knowledge_adaptation": Row(
        MAPS, {}, **torchdistills("KTALoss", knowledge_translator_path="m", feature_adapter_path="m")
    ),
    "l1": Row(MAPS),
    "many_to_one": Row(pair((512, 8, 8), (64, 8, 8))),
    "mgd": Row(MAPS),
    "mse": Row(MAPS, {}, **repdistillers("HintLoss", both)),
    "multilabel_kd": Row(LOGITS),
    "ofa": Row({**LOGITS, "target": labels}, {"eps": 1.5}),
    "pkt": Row(VECTORS, {}, **torchdistills("PKTLoss", **WIRE)),
    "reverse_kl": Row(LOGITS),
    "rkd_angle": Row(
        VECTORS,
        {},
        **torchdistills(
            "RKDLoss",
            student_output_path="m",
            teacher_output_path="m",
            dist_factor=0.0,
            angle_factor=1.0,
            reduction="mean",
        ),
    ),
    "rkd_distance": Row(
        VECTORS,
        {},
        **torchdistills(
            "RKDLoss",
            student_output_path="m",
            teacher_output_path="m",
            dist_factor=1.0,
            angle_factor=0.0,
            reduction="mean",
        ),
    ),
    "similarity_preserving": Row(
        WIDER, {}, **torchdistills("SPKDLoss", student_output_path="m", teacher_output_path="m", reduction="batchmean")
    ),
    "smooth_l1": Row(MAPS),
    "soft_cross_entropy": Row(LOGITS),
    "sskd": Row(
        {
            **LOGITS,
            "student_head": (64,),
            "teacher_head": (256,),
            "target": labels,
            "index": torch.arange,
            "view": views,
        },
        {},
        TORCHDISTILL,
        sskd_of_torchdistill,
        sskd,
    ),
    "total_variation": Row(LOGITS),
}
"""Losses at the sizes of CIFAR-100's tables. A loss that is not here runs at the sizes of the contract tests."""


@cache
def contracts() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parents[1] / "contracts" / "test_losses.py"))


def row_of(name: str) -> Row:
    shared = contracts()
    return ROWS.get(name) or Row(shared["EXAMPLES"][name], shared["SMALL"].get(name, {}))


def ours(name: str, row: Row, batch: int) -> Pass:
    """Our loss; what only a run knows is made up."""
    if row.ours is not None:
        return row.ours
    loss: Any = LOSSES.get(name)
    values = dict(row.values)
    if inspect.isclass(loss):
        needed = loss_signature(loss).values
        values = {key: value for key, value in contracts()["FROM_RUN"].items() if key in needed} | values
        if "num_samples" in values:
            values["num_samples"] = max(values["num_samples"], batch)
        build = getattr(loss, "from_inputs", None)
        module = loss(**values) if build is None else build(tensors(row, batch)(), **values)
        return lambda given: module(**given)  # type: ignore[no-any-return]
    return lambda given: loss(**given, **values)  # type: ignore[no-any-return]


def fresh(value: Any, *, wanted: bool = False) -> Any:
    """A tensor, or a list of them, without a history; with a gradient where it is ``wanted`` or was before."""
    if isinstance(value, list):
        return [fresh(item, wanted=wanted) for item in value]
    return value.detach().requires_grad_(value.is_floating_point() and (wanted or value.requires_grad))


def joined(given: Tensors) -> Tensors:
    """NAME/0, NAME/1, ... as one list NAME."""
    listed: dict[str, Any] = {}
    for key, value in given.items():
        name, _, number = key.partition("/")
        if number:
            listed.setdefault(name, []).append(value)
        else:
            listed[name] = value
    return listed


def tensors(row: Row, batch: int) -> Callable[[], Tensors]:
    """New tensors at each call; all but the teacher's want a gradient."""

    def made() -> Tensors:
        given = {key: kind(batch) if callable(kind) else torch.randn(batch, *kind) for key, kind in row.inputs.items()}
        return joined({key: fresh(value, wanted=not key.startswith("teacher")) for key, value in given.items()})

    return made


def seconds(step: Pass, given: Tensors) -> float:
    start = time.process_time()
    step(given).backward()
    return time.process_time() - start


def compared(name: str, batch: int, rounds: int, load: Callable[[str, str], Any] | None) -> str:
    """A line of the table."""
    row = row_of(name)
    make, sides = tensors(row, batch), [ours(name, row, batch)]
    if load is not None and row.theirs is not None:
        sides.append(row.theirs(lambda module: load(row.repo, module)))
    times: list[list[float]] = [[] for _ in sides]
    end = time.monotonic() + LONGEST
    while len(times[0]) < 4 or (len(times[0]) < rounds and time.monotonic() < end):
        taken = [0.0 for _ in sides]
        for order in (range(len(sides)), reversed(range(len(sides)))):
            given = make()
            for side in order:
                copies = {key: fresh(value) for key, value in given.items()}
                taken[side] += seconds(sides[side], copies) / 2
        for each, value in zip(times, taken, strict=True):
            each.append(value)
    medians = [1000 * statistics.median(each) for each in times]
    line = f"{name:24} {batch:5} {medians[0]:10.3f}"
    if len(sides) == 1:
        return line
    ratio = statistics.median(theirs / ours for ours, theirs in zip(*times, strict=True))
    return f"{line} {medians[1]:10.3f} {ratio:7.2f}  {row.repo.partition('/')[2]}"


def importer(repos: Path, folder: Path) -> Callable[[str, str], Any]:
    """A function that imports a module of a repository, from its newest commit."""
    there: set[str] = set()

    def load(repo: str, module: str) -> Any:
        if repo not in there:
            tree = folder / repo.replace("/", "+")
            tree.mkdir()
            archive = subprocess.run(
                ["git", "-C", str(repos / repo), "archive", "HEAD", TREES[repo]], check=True, capture_output=True
            )
            subprocess.run(["tar", "-x", "-C", str(tree)], input=archive.stdout, check=True)
            sys.path.append(str(tree))
            there.add(repo)
        return importlib.import_module(module)

    return load


NAMES = sorted({*LOSSES.names(), *ROWS})


@pytest.mark.parametrize("name", NAMES)
def test_pass(benchmark: Any, name: str) -> None:
    row = row_of(name)
    step, make = ours(name, row, 64), tensors(row, 64)
    benchmark.pedantic(lambda given: step(given).backward(), setup=lambda: ((make(),), {}), warmup_rounds=2, rounds=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repos", nargs="?", type=Path, metavar="REPOS")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--batch", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'loss':24} {'batch':>5} {'ours, ms':>10} {'theirs, ms':>10} {'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        load = importer(options.repos, Path(folder)) if options.repos else None
        beside = [name for name in NAMES if row_of(name).theirs] if load else NAMES
        for name in options.only or beside:
            for batch in options.batch:
                print(compared(name, batch, options.rounds, load), flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
