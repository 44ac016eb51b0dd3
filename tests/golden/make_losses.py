"""Makes losses/*.json: values and gradients of the losses' reference code.

    python tests/golden/make_losses.py REPOS [LOSS...]

REPOS/OWNER/NAME are git clones of the repositories that REFERENCES names for these losses (all, unless some are named).
Their code is run as it stands at the commit named there, in float64; nothing of it is kept. What a reference imports
beyond torch is replaced by empty modules.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Input:
    """A tensor by formula. ``twins``: the second row is a copy of the first. ``whole``: rounded down.

    ``numbers`` are whole numbers in the place of random ones.
    """

    shape: tuple[int, ...]
    seed: int
    low: float = -2.0
    high: float = 2.0
    twins: bool = False
    whole: bool = False
    numbers: Sequence[int] = ()

    def tensor(self) -> Tensor:
        if self.numbers:
            return torch.tensor(self.numbers).reshape(self.shape)
        random = Random(self.seed)
        span = self.high - self.low
        flat = [self.low + span * random.random() for _ in range(prod(self.shape))]
        tensor = torch.tensor(flat, dtype=torch.float64).reshape(self.shape)
        if self.twins:
            tensor[1] = tensor[0]
        return tensor.floor() if self.whole else tensor


@dataclass(frozen=True)
class Reference:
    """Where the code stands, which files it needs first (module name -> file), and how its loss is called."""

    repo: str
    commit: str
    file: str
    symbol: str
    call: Callable[[Any, Tensors, dict[str, Any]], Tensor]
    needs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Case:
    """One set of inputs and hyperparameters (ours) for one reference."""

    reference: str
    inputs: dict[str, Input]
    values: dict[str, Any]
    gradients: bool = True


def weigh(module: nn.Module, seed: int) -> None:
    """Parameters by formula, in their order: those that scale around 1, all others around 0."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            values = Input(tuple(parameter.shape), seed, low=-0.5, high=0.5).tensor()
            parameter.data = values + 1 if isinstance(part, nn.BatchNorm2d) and name == "weight" else values
            seed += 1


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


def pair(
    student: tuple[int, ...], teacher: tuple[int, ...] | None = None, *, seed: int, **how: Any
) -> dict[str, Input]:
    return {"student": Input(student, seed, **how), "teacher": Input(teacher or student, seed + 1, **how)}


def wide(student: tuple[int, ...], teacher: tuple[int, ...], *, seed: int, **how: Any) -> dict[str, Input]:
    """Student only with ``how``: twins in the student, say."""
    return {"student": Input(student, seed, **how), "teacher": Input(teacher, seed + 1)}


SHAPES = ((4, 6), (7, 3), (1, 5))
CASES: dict[str, list[Case]] = {
    "kd": [
        *(
            Case(reference, pair(shape, seed=seed, low=-6.0, high=6.0), {"temperature": temperature})
            for reference in ("repdistiller_kd", "mdistiller_kd", "zagoruyko_kd")
            for seed, (shape, temperature) in enumerate(zip(SHAPES, (4.0, 1.0, 2.5), strict=True))
        ),
        Case("mdistiller_kd", pair((2, 3, 4, 5), seed=10), {"temperature": 3.0}),
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


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Modules that references import and their losses do not need; theano's few functions are torch's."""
    tensor = ModuleType("theano.tensor")
    tensor.sum = lambda x, axis: x.sum(axis)  # type: ignore[attr-defined]
    tensor.mean = torch.mean  # type: ignore[attr-defined]
    named = {"theano.tensor": tensor, "theano": ModuleType("theano"), "metric": ModuleType("metric")}
    named["theano"].tensor = tensor  # type: ignore[attr-defined]
    named["reference"] = ModuleType("reference")
    names = """nested_dict psutil tqdm grouped_batch_sampler lm_seqs_dataset transformers utils cPickle
        torch.utils.tensorboard theano.compat theano.compat.python2x
        pylearn2 pylearn2.costs pylearn2.costs.cost pylearn2.models pylearn2.models.mlp"""
    for name in names.split():
        named[name] = ModuleType(name)
        named[name].__getattr__ = lambda attribute: type(attribute, (), {})  # type: ignore[method-assign]
    kept = {name: sys.modules.get(name) for name in named}
    sys.modules.update(named)
    yield
    for name, module in kept.items():
        sys.modules.pop(name)
        if module is not None:
            sys.modules[name] = module


def load(reference: Reference, repos: Path) -> Any:
    """The reference's function or class."""
    with stand_ins():
        for name, file in (*reference.needs, ("reference.loss", reference.file)):
            where = ["git", "-C", str(repos / reference.repo), "show", f"{reference.commit}:{file}"]
            source = subprocess.run(where, check=True, capture_output=True, text=True).stdout
            module = ModuleType(name)
            module.__package__ = name.rpartition(".")[0]
            module.__file__ = file
            sys.modules[name] = module
            exec(compile(source.expandtabs(8), f"{reference.repo}/{file}", "exec"), module.__dict__)
        return getattr(module, reference.symbol)


def record(case: Case, code: Any, reference: Reference) -> dict[str, Any]:
    """One case with its value and gradients, as JSON keeps it."""
    given = {name: each.tensor().requires_grad_(not each.whole) for name, each in case.inputs.items()}
    value = reference.call(code, given, case.values).sum()
    value.backward()
    gradients = {name: each.grad for name, each in given.items() if each.grad is not None} if case.gradients else {}
    return {
        "repository": reference.repo,
        "commit": reference.commit,
        "file": reference.file,
        "symbol": reference.symbol,
        "inputs": {name: asdict(each) for name, each in case.inputs.items()},
        "values": case.values,
        "value": value.item(),
        "gradients": {name: [float(f"{x:.12g}") for x in each.flatten().tolist()] for name, each in gradients.items()},
    }


def main(repos: Path, *names: str) -> None:
    torch.set_default_dtype(torch.float64)
    for loss in names or CASES:
        cases = CASES[loss]
        references = [REFERENCES[case.reference] for case in cases]
        lines = [json.dumps(record(case, load(r, repos), r)) for case, r in zip(cases, references, strict=True)]
        file = Path(__file__).parent / "losses" / f"{loss}.json"
        file.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
        print(file.name, len(cases))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
