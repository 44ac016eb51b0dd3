"""Makes losses/*.json of the losses of whole methods, and methods/*.json of adapters and of CRD's memory.

    python tests/golden/make_methods.py REPOS [NAME...]

As make_losses.py, whose words these are. Scripts without functions are run too: the statements of one of their loops,
with stand-ins for the models. Weights of modules are made by formula, in the order of their parameters.
"""

from __future__ import annotations

import ast
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torchvision  # noqa: F401  what a reference imports: not from among the stand-ins
from make_losses import REPDISTILLER
from recipes import Case, Golden, Input, Reference, Tensors, command, digits, pair, source, weigh
from recipes import load as load_plain
from torch import Tensor, nn
from torch.nn import functional as F

FACTORS = ("Jangho-Kim/Factor-Transfer-pytorch", "19cce265ebe51c751481041e223a13be2e684322")
REVIEW = ("dvlab-research/ReviewKD", "cede6ea6387ae9b6127de0e561507177bf19c11e")
SSKD = ("xuguodong03/SSKD", "661b972c124a83c32dcd0e203390ba637075fe92")
SIMKD = ("DefangChen/SimKD", "2b389c31ed7779aea31e7aaf0bb0f2d8b6ac2f01")
VIEWS = 4


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Modules beside the references that their losses do not need, and a GPU that is the CPU."""
    names = {
        "resnet": [],
        "mobilenet": [],
        "shufflenetv1": ["ShuffleV1"],
        "shufflenetv2": ["ShuffleV2"],
        "resnet_cifar": ["build_resnet_backbone", "build_resnetx4_backbone"],
        "wide_resnet_cifar": ["wrn"],
    }
    for name, symbols in names.items():
        module = sys.modules[f"reference.{name}"] = ModuleType(name)
        module.__dict__.update(dict.fromkeys(symbols))
    kept, Tensor.cuda = Tensor.cuda, lambda self: self  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Tensor.cuda = kept  # type: ignore[method-assign]
        for name in names:
            sys.modules.pop(f"reference.{name}", None)


def load(reference: Reference, repos: Path) -> Any:
    """The reference's function or class; of a script the body of a loop, as :func:`loop` finds it."""
    with stand_ins():
        return loop(reference, repos) if reference.symbol.startswith("for ") else load_plain(reference, repos)


def loop(reference: Reference, repos: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The statements up to the backward pass of the loop that ``symbol`` opens with, as a function of the names."""
    tree = ast.parse(source(reference.repo, reference.commit, reference.file, repos))
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For)]
    (found,) = (node for node in loops if ast.unparse(node).startswith(reference.symbol))
    texts = [ast.unparse(statement) for statement in found.body]
    code = compile("\n".join(texts[: texts.index("loss.backward()")]), reference.file, "exec")

    def run(names: dict[str, Any]) -> dict[str, Any]:
        names = {"torch": torch, "F": F, "optimizer": SimpleNamespace(zero_grad=lambda: None), **names}
        with stand_ins():
            exec(code, names)
        return names

    return run


def sskd(code: Any, given: Tensors, values: dict[str, Any], term: str) -> Tensor:
    """One of the terms of SSKD's student; rows are views of a sample in turn."""
    logits = {
        name: given[name] if term == "loss3" else torch.zeros(len(given[name]), 3) for name in ("student", "teacher")
    }
    heads = {name: given[name] for name in ("student", "teacher")}
    args = SimpleNamespace(
        kd_T=1.0, tf_T=values["temperature"], ss_T=values["temperature"], ratio_tf=values["keep"],
        ratio_ss=values["keep"], ce_weight=0.0, kd_weight=0.0, tf_weight=0.0, ss_weight=0.0,
    )  # fmt: skip
    samples = len(given["student"]) // VIEWS
    names = {
        "args": args,
        "x": torch.zeros(samples, VIEWS, 1, 1, 1),
        "target": given["target"][::VIEWS] if "target" in given else torch.zeros(samples).long(),
        "s_model": lambda x, bb_grad: (logits["student"], heads["student"], None),
        "t_model": lambda x: (logits["teacher"], heads["teacher"], None),
    }
    names = code(names)
    assert isinstance(names[term], Tensor)
    return names[term]


def sskd_head(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """The loss that trains the head on the teacher's features."""
    names = {
        "t_optimizer": SimpleNamespace(zero_grad=lambda: None),
        "x": torch.zeros(len(given["input"]) // VIEWS, VIEWS, 1, 1, 1),
        "t_model": lambda x, bb_grad: (None, given["input"], None),
    }
    loss = code(names)["loss"]
    assert isinstance(loss, Tensor)
    return loss


REFERENCES = {
    "kim_factors": Reference(
        *FACTORS,
        "utils.py",
        "FT",
        lambda code, given, values: F.l1_loss(code(given["student"]), code(given["teacher"])),
    ),
    "repdistiller_factors": Reference(
        *REPDISTILLER,
        "distiller_zoo/FT.py",
        "FactorTransfer",
        lambda code, given, values: code()(given["student"], given["teacher"]),
    ),
    "chen_hcl": Reference(
        *REVIEW,
        "CIFAR-100/model/reviewkd.py",
        "hcl",
        lambda code, given, values: code([given["student"]], [given["teacher"]]),
    ),
    "sskd_transformed": Reference(
        *SSKD,
        "student.py",
        "for x, target in train_loader",
        lambda code, given, values: sskd(code, given, values, "loss3"),
    ),
    "sskd_similarity": Reference(
        *SSKD,
        "student.py",
        "for x, target in train_loader",
        lambda code, given, values: sskd(code, given, values, "loss4"),
    ),
    "sskd_head": Reference(*SSKD, "student.py", "for x, _ in train_loader", sskd_head),
}


def views(samples: int, *, labels: tuple[int, ...] = ()) -> dict[str, Input]:
    """``index`` and ``view`` of rows that are the views of a sample in turn, and ``target`` of view 0."""
    rows = range(VIEWS * samples)
    numbers = {"index": [7 * (row // VIEWS) for row in rows], "view": [row % VIEWS for row in rows]}
    if labels:
        numbers["target"] = [-100 if row % VIEWS else labels[row // VIEWS] for row in rows]
    return {name: Input((len(rows),), 0, whole=True, numbers=each) for name, each in numbers.items()}


CASES = {
    "factor_transfer": [
        *(
            Case("kim_factors", pair(shape, seed=200 + i), {})
            for i, shape in enumerate(((3, 4, 2, 2), (2, 1, 3, 5), (1, 6)))
        ),
        *(
            Case("repdistiller_factors", pair(student, teacher, seed=204 + 2 * i), {"pool_channels": True})
            for i, (student, teacher) in enumerate((((3, 4, 2, 2), (3, 4, 2, 2)), ((2, 3, 6, 6), (2, 3, 4, 4))))
        ),
    ],
    "hierarchical_context": [
        Case("chen_hcl", pair(shape, seed=210 + i), {})
        for i, shape in enumerate(((2, 3, 8, 8), (3, 2, 4, 4), (2, 3, 2, 2), (2, 5, 1, 1), (1, 2, 3, 3)))
    ],
    "transformed_kd": [
        Case(
            "sskd_transformed",
            {**pair((16, 5), seed=220 + i, low=-4.0, high=4.0), **views(4, labels=(0, 4, 2, 1))},
            {"temperature": temperature, "keep": keep},
        )
        for i, (temperature, keep) in enumerate(((4.0, 1.0), (2.0, 0.0), (3.0, 0.5)))
    ],
    "self_supervised_kd": [
        Case(
            "sskd_similarity",
            {**pair((VIEWS * samples, 6), (VIEWS * samples, 3), seed=230 + i), **views(samples)},
            {"temperature": temperature, "keep": keep},
        )
        for i, (samples, temperature, keep) in enumerate(((4, 0.5, 1.0), (3, 1.0, 0.0), (1, 0.5, 0.75), (5, 0.5, 0.75)))
    ],
    "view_contrast": [
        Case("sskd_head", {"input": Input((VIEWS * samples, 5), 240 + samples), **views(samples)}, {})
        for samples in (1, 4)
    ],
}


@dataclass(frozen=True)
class Adapter:
    """One adapter (``name``, ``values``, ``to``, the shape it is to be like) beside a reference's module.

    ``make`` builds that module, ``run`` gives its outputs by the names of our fields ("" for a bare tensor).
    """

    name: str
    inputs: tuple[Input, ...]
    reference: Reference
    make: Callable[[Any], nn.Module]
    run: Callable[[Any, list[Tensor]], dict[str, Tensor]]
    to: int | None = None
    like: tuple[int, ...] | None = None
    values: dict[str, Any] = field(default_factory=dict)


def uncalled(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    raise AssertionError("a module, not a loss")


FEATURES = Reference(*FACTORS, "Models/FeatureProjection.py", "Paraphraser", uncalled)
ABF = Reference(*REVIEW, "CIFAR-100/model/reviewkd.py", "ABF", uncalled)
ADAPTERS = [
    Adapter(
        "paraphraser",
        (Input((2, 4, 3, 3), 300),),
        FEATURES,
        lambda code: code(4, 2),
        lambda module, given: {"factor": module(given[0], 1), "reconstruction": module(given[0], 0)},
        values={"rate": 0.5},
    ),
    Adapter(
        "translator",
        (Input((2, 3, 3, 3), 301),),
        Reference(*FACTORS, "Models/FeatureProjection.py", "Translator", uncalled),
        lambda code: code(3, 2),
        lambda module, given: {"": module(given[0])},
        to=2,
    ),
    Adapter(
        "fusion",
        (Input((3, 4, 2, 2), 302),),
        ABF,
        lambda code: code(4, 4, 6, False),
        lambda module, given: dict(zip(("output", "residual"), module(given[0], out_shape=2), strict=True)),
        like=(3, 6, 2, 2),
    ),
    Adapter(
        "fusion",
        (Input((2, 3, 4, 4), 303), Input((2, 5, 2, 2), 304)),
        ABF,
        lambda code: code(3, 5, 4, True),
        lambda module, given: dict(zip(("output", "residual"), module(*given, 4, 4), strict=True)),
        like=(2, 4, 4, 4),
    ),
    Adapter(
        "fusion",
        (Input((2, 3, 4, 4), 305), Input((2, 5, 2, 2), 306)),
        ABF,
        lambda code: code(3, 5, 4, True),
        lambda module, given: dict(zip(("output", "residual"), module(*given, 4, 8), strict=True)),
        like=(2, 4, 8, 8),
    ),
    Adapter(
        "simkd_projector",
        (Input((2, 3, 4, 4), 307),),
        Reference(*SIMKD, "models/util.py", "SimKD", uncalled),
        lambda code: code(s_n=3, t_n=6, factor=2),
        lambda module, given: {"": module(given[0], torch.zeros(2, 6, 2, 2), lambda rows: rows)[0]},
        like=(2, 6, 2, 2),
    ),
    Adapter(
        "projection_head",
        (Input((4, 5), 308),),
        Reference(*SSKD, "wrapper.py", "wrapper", uncalled),
        lambda code: code(nn.Sequential(nn.Linear(5, 2))).proj_head,
        lambda module, given: {"": module(given[0])},
    ),
]


def adapter_record(adapter: Adapter, repos: Path, load: Callable[[Reference, Path], Any] = load) -> dict[str, Any]:
    """One pass of an adapter's reference and the gradients of the mean squares of its outputs."""
    module = adapter.make(load(adapter.reference, repos)).train()
    weigh(module, 400)
    given = [each.tensor().requires_grad_() for each in adapter.inputs]
    outputs = adapter.run(module, given)
    sum(each.square().mean() for each in outputs.values()).backward()  # type: ignore[union-attr]
    return {
        "adapter": adapter.name,
        "repository": adapter.reference.repo,
        "commit": adapter.reference.commit,
        "file": adapter.reference.file,
        "symbol": adapter.reference.symbol,
        "inputs": [asdict(each) for each in adapter.inputs],
        "to": adapter.to,
        "like": adapter.like,
        "values": adapter.values,
        "outputs": {name: digits(each) for name, each in outputs.items()},
        "gradients": [digits(each.grad) for each in given],
        "of_weights": [digits(each.grad) for each in module.parameters()],
    }


CRD = Reference(*REPDISTILLER, "crd/criterion.py", "CRDLoss", uncalled, needs=(("reference.memory", "crd/memory.py"),))


def crd_record(seed: int, batch: int, widths: tuple[int, int, int], samples: int, negatives: int, repos: Path) -> Any:
    """Two passes of the same batch, the second with the memories the first one left: embedding, scores and loss."""
    student, teacher, dim = widths
    options = {"s_dim": student, "t_dim": teacher, "feat_dim": dim, "n_data": samples}
    with stand_ins():
        loss = load(CRD, repos)(SimpleNamespace(**options, nce_k=negatives, nce_t=0.07, nce_m=0.5))
    inputs = {"student": Input((batch, student), seed), "teacher": Input((batch, teacher), seed + 1)}
    memories = {
        "student_memory": Input((samples, dim), seed + 2, -0.3, 0.3),
        "teacher_memory": Input((samples, dim), seed + 3, -0.3, 0.3),
    }
    draws = [Input((batch, negatives), seed + 4 + n, 0.0, float(samples), whole=True) for n in range(2)]
    index = [(3 * row + 1) % samples for row in range(batch)]
    loss.contrast.memory_v1.copy_(memories["student_memory"].tensor())
    loss.contrast.memory_v2.copy_(memories["teacher_memory"].tensor())
    weigh(loss.embed_s, seed + 10)
    weigh(loss.embed_t, seed + 20)
    given = {name: each.tensor().requires_grad_() for name, each in inputs.items()}
    rows, values = torch.tensor(index), []
    for draw in draws:
        contrast = torch.cat([rows[:, None], draw.tensor().long()], dim=1)
        values.append(loss(given["student"], given["teacher"], rows, contrast).sum())
    sum(values).backward()  # type: ignore[union-attr]
    return {
        "repository": CRD.repo,
        "commit": CRD.commit,
        "file": CRD.file,
        "symbol": CRD.symbol,
        "inputs": {name: asdict(each) for name, each in inputs.items()},
        "memories": {name: asdict(each) for name, each in memories.items()},
        "draws": [asdict(each) for each in draws],
        "index": index,
        "weights": {"student": seed + 10, "teacher": seed + 20},
        "values": [value.item() for value in values],
        "gradients": {name: digits(each.grad) for name, each in given.items()},
        "after": {"student_memory": digits(loss.contrast.memory_v1), "teacher_memory": digits(loss.contrast.memory_v2)},
    }


GOLDENS: dict[str, Golden] = {
    "methods/adapters": lambda repos: [adapter_record(each, repos) for each in ADAPTERS],
    "methods/crd": lambda repos: [
        crd_record(500, 4, (5, 6, 3), 20, 7, repos),
        crd_record(540, 1, (4, 4, 8), 9, 16, repos),
    ],
}

if __name__ == "__main__":
    command(globals())
