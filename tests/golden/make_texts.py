"""Makes losses/*.json of the losses for text models.

    python tests/golden/make_texts.py REPOS [LOSS...]

As make_losses.py, whose words these are. Of each file only the statement that ``symbol`` names is run: a function, also
one within another, a class, or the loop that begins so. Inputs NAME/0, NAME/1, ... are the tensors of a list. Goldens
are in float64: the references' casts to narrower types do nothing here.
"""

from __future__ import annotations

import ast
import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from recipes import Case, Input, Reference, Tensors, command, pair, source
from torch import Tensor, nn
from torch.nn import functional as F

TINYBERT = ("huawei-noah/Pretrained-Language-Model", "0598f02d7fc4eaa7b4cbc1e9d7ab18bc875c24f9")
TINYBERT_FILE = "TinyBERT/task_distill.py"
TINYBERT_LOOP = (*TINYBERT, TINYBERT_FILE, "for step, batch in enumerate(tqdm(train_dataloader")
TRL = ("huggingface/trl", "f2cd57710ae345ea6428ae95363267fcf38a3dc8")
UNLABELLED = -100


@contextlib.contextmanager
def uncast() -> Iterator[None]:
    """Casts to float32 and float16 leave a tensor as it is."""
    kept = Tensor.float, Tensor.half
    Tensor.float = Tensor.half = lambda self: self  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Tensor.float, Tensor.half = kept  # type: ignore[method-assign]


def names() -> dict[str, Any]:
    """What the references' statements find around them."""
    own = SimpleNamespace(**vars(F))
    own.softmax = lambda logits, dim, dtype=None: F.softmax(logits, dim)
    own.log_softmax = lambda logits, dim, dtype=None: F.log_softmax(logits, dim)
    quiet = SimpleNamespace(warning=lambda text: None)
    return {"torch": torch, "nn": nn, "F": own, "math": math, "logging": quiet}


def begins(node: ast.AST, symbol: str) -> bool:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return node.name == symbol
    return isinstance(node, ast.For) and ast.unparse(node).startswith(symbol)


def statement(reference: Reference, symbol: str, file: str, repos: Path) -> Any:
    """The first statement of ``file`` that ``symbol`` names."""
    tree = ast.parse(source(reference.repo, reference.commit, file, repos))
    found, *_ = (node for node in ast.walk(tree) if begins(node, symbol))
    return found


def load(reference: Reference, repos: Path) -> Any:
    """The function or class; of a loop a function of the names around it that runs its body up to the backward pass."""
    around = names()
    for symbol, file in reference.needs:
        exec(ast.unparse(statement(reference, symbol, file, repos)), around)
    found = statement(reference, reference.symbol, reference.file, repos)
    if not isinstance(found, ast.For):
        exec(ast.unparse(found), around)
        return around[reference.symbol]
    end = [ast.unparse(each) for each in found.body].index("loss.backward()")
    found.target, found.iter, found.body = ast.Name("_"), ast.List([ast.Constant(0)]), found.body[:end]
    once = ast.unparse(found)

    def run(given: dict[str, Any]) -> dict[str, Any]:
        inside = {**around, **given}
        exec(once, inside)
        return inside

    return run


def tinybert(code: Any, given: Tensors, values: dict[str, Any], term: str) -> Tensor:
    """One of the terms of a step of TinyBERT, where all layers but one are equal in both models."""
    rows = len(given["student"])
    zero = torch.zeros(1)

    def model(name: str) -> Any:
        logits, attention, states = (given[name] if term == each else zero for each in ("cls", "att", "rep"))
        return lambda *_, **__: (logits, [attention], [states, zero])

    around = {
        "batch": (torch.zeros(rows, 1),) * 5,
        "device": "cpu",
        "args": SimpleNamespace(
            train_batch_size=rows,
            pred_distill=term == "cls",
            temperature=values.get("temperature", 1.0),
            gradient_accumulation_steps=1,
        ),
        "output_mode": "classification",
        "student_model": model("student"),
        "teacher_model": model("teacher"),
        "loss_mse": nn.MSELoss(),
        "n_gpu": 1,
        "tr_att_loss": 0.0,
        "tr_rep_loss": 0.0,
        "tr_cls_loss": 0.0,
    }
    loss = code(around)[f"{term}_loss"]
    assert isinstance(loss, Tensor)
    return loss


class Attentive:
    """A model of one layer, whose queries and keys are given."""

    def __init__(self, vectors: list[Tensor]) -> None:
        first, last = vectors[0], vectors[-1]
        attention = {"query": lambda _: first, "key": lambda _: last, "value": lambda _: last}
        layer = SimpleNamespace(attention=SimpleNamespace(self=SimpleNamespace(**attention)))
        self.encoder = SimpleNamespace(layer=[layer])
        self.config = SimpleNamespace(hidden_size=first.shape[-1])
        self.train = self.eval = lambda: None
        self.parameters = list

    def __call__(self, **inputs: Any) -> Any:
        return SimpleNamespace(hidden_states=[None])


def minilm(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """Bloomberg's loss with one relation: of the queries with the keys, or of the only vectors with themselves."""
    models = {
        role: Attentive([tensor for name, tensor in given.items() if name.startswith(role)])
        for role in ("teacher", "student")
    }
    relation = (1, 2) if "student/0" in given else (1, 1)
    model = code(**models, L=1, M=1, relations={relation: 1.0}, A_r=values["heads"])
    size = next(iter(given.values())).shape[:2]
    (loss,) = model(None, None, given.get("mask", torch.ones(size).long()))
    assert isinstance(loss, Tensor)
    return loss


def pkd(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """Patience of the layers, stacked behind the batch as the authors do."""
    layers = {
        role: torch.stack([tensor for name, tensor in given.items() if name.startswith(role)], dim=1)
        for role in ("teacher", "student")
    }
    with uncast():
        loss = code(layers["teacher"], layers["student"], True)
    assert isinstance(loss, Tensor)
    return loss


def labels(given: Tensors) -> Tensor:
    """Labels of the positions that count, as language models have them."""
    rows = given["student"].shape[:-1]
    return torch.where(given["mask"] != 0, 1, UNLABELLED) if "mask" in given else torch.ones(rows).long()


def gkd(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    known = {name: values[name] for name in ("beta", "temperature") if name in values}
    loss = code(given["student"], given["teacher"], labels(given), **known)
    assert isinstance(loss, Tensor)
    return loss


GKD = (*TRL, "trl/experimental/gkd/gkd_trainer.py", "generalized_jsd_loss")
REFERENCES = {
    "tinybert_attention": Reference(*TINYBERT_LOOP, lambda code, given, values: tinybert(code, given, values, "att")),
    "tinybert_hidden": Reference(*TINYBERT_LOOP, lambda code, given, values: tinybert(code, given, values, "rep")),
    "tinybert_prediction": Reference(
        *TINYBERT_LOOP,
        lambda code, given, values: tinybert(code, given, values, "cls"),
        needs=(("soft_cross_entropy", TINYBERT_FILE),),
    ),
    "bloomberg_minilm": Reference(
        "bloomberg/minilmv2.bb", "0d78e201a8cd02dbf10de414ec418dd12afc37cd", "minilmv2/minilmv2.py", "MiniLM", minilm
    ),
    "pkd_patience": Reference(
        "intersun/PKD-for-BERT-Model-Compression",
        "9e9e860997ad4815f6ac655d1beb26a85ddd70bb",
        "src/KD_loss.py",
        "patience_loss",
        pkd,
    ),
    "trl_gkd": Reference(*GKD, gkd),
    "trl_reverse": Reference(*GKD, lambda code, given, values: gkd(code, given, {**values, "beta": 1})),
    "distillm_reverse": Reference(
        "jongwooko/distillm",
        "d47e77ff9d27721783b32213be38c1204230cc0a",
        "distillm/losses.py",
        "reverse_kl",
        lambda code, given, values: code(given["student"], given["teacher"], {"label": labels(given)}),
    ),
    "wen_tvd": Reference(
        "MANGA-UOFA/fdistill",
        "8e2ff7cdcea99db8cbbb87c4ebe80413e948969a",
        "chat/kd.py",
        "calc_tvd_loss",
        lambda code, given, values: code(None, labels(given) != UNLABELLED, given["student"], given["teacher"]),
    ),
}


def layered(student: tuple[int, ...], teacher: tuple[int, ...], *, layers: int, seed: int) -> dict[str, Input]:
    """Lists of ``layers`` tensors each."""
    shapes = {"student": student, "teacher": teacher}
    return {
        f"{name}/{layer}": Input(each, seed + 10 * layer + (name == "teacher"))
        for name, each in shapes.items()
        for layer in range(layers)
    }


def padding(*lengths: int, to: int) -> dict[str, Input]:
    """The mask of sequences of these lengths."""
    numbers = [int(position < length) for length in lengths for position in range(to)]
    return {"mask": Input((len(lengths), to), 0, whole=True, numbers=numbers)}


TOKENS = {"dim": -1}
CASES: dict[str, list[Case]] = {
    "attention_mse": [
        *(
            Case("tinybert_attention", pair(shape, seed=500 + i), {})
            for i, shape in enumerate(((3, 2, 4, 4), (1, 3, 2, 2)))
        ),
        Case("tinybert_attention", pair((2, 2, 4, 4), seed=503, low=-250.0, high=50.0), {}),
    ],
    "attention_kl": [
        Case("bloomberg_minilm", pair((2, 4, 6), (2, 4, 12), seed=510), {"heads": 3}),
        Case("bloomberg_minilm", pair((1, 3, 4), (1, 3, 4), seed=512), {"heads": 1}),
        Case("bloomberg_minilm", {**pair((3, 5, 8), seed=514), **padding(5, 2, 1, to=5)}, {"heads": 4}),
        Case("bloomberg_minilm", layered((2, 4, 6), (2, 4, 8), layers=2, seed=516), {"heads": 2}),
        Case(
            "bloomberg_minilm",
            {**layered((3, 4, 4), (3, 4, 8), layers=2, seed=518), **padding(2, 4, 3, to=4)},
            {"heads": 2},
        ),
    ],
    "hidden_mse": [
        Case("tinybert_hidden", pair(shape, seed=530 + i), {}) for i, shape in enumerate(((3, 4, 5), (1, 1, 6)))
    ],
    "patience": [
        *(Case("pkd_patience", pair(shape, seed=540 + i), {}) for i, shape in enumerate(((4, 6), (1, 3)))),
        Case("pkd_patience", layered((3, 5), (3, 5), layers=3, seed=545), {}),
    ],
    "soft_cross_entropy": [
        Case("tinybert_prediction", pair(shape, seed=550 + i), {"temperature": temperature})
        for i, (shape, temperature) in enumerate((((4, 6), 1.0), ((7, 2), 2.5), ((1, 3), 4.0)))
    ],
    "reverse_kl": [
        *(
            Case(reference, {**pair((3, 4, 5), seed=560, low=-6.0, high=6.0), **padding(4, 1, 3, to=4)}, TOKENS)
            for reference in ("distillm_reverse", "trl_reverse")
        ),
        *(Case("distillm_reverse", pair(shape, seed=562 + i), {}) for i, shape in enumerate(((4, 6), (1, 2)))),
        Case("trl_reverse", pair((4, 3), seed=565), {"temperature": 2.0}),
    ],
    "jensen_shannon": [
        *(
            Case("trl_gkd", pair((4, 6), seed=570 + i, low=-6.0, high=6.0), {"beta": beta, "temperature": temperature})
            for i, (beta, temperature) in enumerate(((0.5, 1.0), (0.1, 2.0), (0.9, 0.5), (0, 2.0), (1, 1.0)))
        ),
        Case("trl_gkd", {**pair((3, 4, 5), seed=577), **padding(4, 1, 3, to=4)}, TOKENS),
    ],
    "total_variation": [
        *(Case("wen_tvd", pair(shape, seed=580 + i), TOKENS) for i, shape in enumerate(((2, 3, 5), (1, 1, 4)))),
        Case("wen_tvd", {**pair((3, 4, 5), seed=584), **padding(4, 1, 3, to=4)}, TOKENS),
    ],
}


if __name__ == "__main__":
    command(globals())
