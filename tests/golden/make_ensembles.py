"""Makes the goldens of the losses on several models: peers that teach each other, and teachers that are weighted.

    python tests/golden/make_ensembles.py REPOS [NAME...]

The losses of several teachers stand in a training loop: its statements up to the backward pass are run, with stand-ins
for the models, whose outputs are given. Deep mutual learning's few functions of TensorFlow are torch's.
"""

from __future__ import annotations

import ast
import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
from recipes import Case, Golden, Input, Reference, Tensors, command, digits, load_part, pair, records, source, weigh
from sklearn.svm import OneClassSVM
from torch import Tensor, nn
from torch.nn import functional as F

MUTUAL = ("YingZhangDUT/Deep-Mutual-Learning", "34a20583debe4e0dab1d9856db69bed278c5c011")
CONFIDENCE = ("Rorozhl/CA-MKD", "c2f39a9f13c1998e9971815760364587222581ce")
ADAPTIVE = ("AnTuo1998/AE-KD", "68f490e76b63e250c30a449e2a507eb91cf8a24f")
ONE = ("Lan1991Xu/ONE_NeurIPS2018", "54afde30fe039c8bd66668f0d17944b451b8b189")
OPEN = "for idx, data in enumerate(train_loader)"
CLASSES = 8
Step = Callable[[dict[str, Any]], dict[str, Any]]


def tensorflow() -> Any:
    """The functions of TensorFlow that a tower's loss needs; all else does nothing."""
    tf = MagicMock()
    tf.nn.softmax = lambda logits: logits.softmax(1)
    tf.reduce_mean, tf.log = torch.mean, torch.log
    tf.add_n, tf.identity = (lambda values, name: sum(values)), (lambda value: value)
    tf.reduce_sum = lambda values, axis: values.sum(axis)
    tf.losses.softmax_cross_entropy = lambda **_: 0.0
    tf.get_collection = lambda *_, **__: []
    return tf


def towers(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """The sum of the losses of all networks, each for its own weights: the others' outputs are ``teacher``."""
    number = len(given) // 2
    code.__globals__["FLAGS"].num_networks = number
    losses: list[Any] = []
    for own in range(number):
        outputs = [given[f"student/{i}" if i == own else f"teacher/{i}"] for i in range(number)]
        networks = {str(i): lambda images, scope, i=i: (outputs[i], {"Predictions": None}) for i in range(number)}  # noqa: B023
        losses.append(code(networks, None, None)[0][str(own)])
    total: Tensor = sum(losses)
    return total / (number - 1) if values["others"] == "mean" else total


@contextlib.contextmanager
def on_the_cpu() -> Iterator[None]:
    """A GPU that is the CPU, and casts to float32 that are casts to float64."""
    kept = Tensor.cuda, Tensor.float
    Tensor.cuda, Tensor.float = (lambda self: self), (lambda self: self.double())  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Tensor.cuda, Tensor.float = kept  # type: ignore[method-assign]


def precise(kernel: str, nu: float, tol: float) -> OneClassSVM:
    """scikit-learn's support vector machine as far as its float32 goes, not to the 1e-6 that is asked for."""
    return OneClassSVM(kernel=kernel, nu=nu, tol=tol * 1e-7)


def loop(reference: Reference, repos: Path) -> Step:
    """The statements, up to the backward pass, of the loop over batches in the function that ``symbol`` names."""
    text = source(reference.repo, reference.commit, reference.file, repos)
    (function,) = (n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == reference.symbol)
    (found,) = (n for n in function.body if isinstance(n, ast.For) and ast.unparse(n).startswith(OPEN))
    texts = [ast.unparse(statement) for statement in found.body]
    found.body = found.body[: texts.index("loss.backward()")]
    code = compile(ast.unparse(found), reference.file, "exec")
    svm = {"np": np, "ssvm": precise}
    part = (reference.repo, reference.commit, "helper/optimization.py", "find_optimal_svm", reference.call)
    names = {"find_optimal_svm": load_part(Reference(*part), repos, **svm)}
    for symbol, file in reference.needs:
        names[symbol] = load_part(Reference(*part[:2], file, symbol, reference.call), repos, np=np)

    def run(given: dict[str, Any]) -> dict[str, Any]:
        around: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "Variable": lambda value, requires_grad: value}
        around |= names | given
        with on_the_cpu():
            exec(code, around)
        return around

    return run


def settings(code: Step, given: Tensors, values: dict[str, Any], method: str, distill: str = "kd") -> dict[str, Any]:
    """The names that the loop reads, for models that give what is given."""
    number = sum(name.startswith("teacher/") for name in given)
    rows = len(next(iter(given.values())))
    target = given.get("target", torch.zeros(rows)).long()
    outputs = given.get("student", torch.zeros(rows, CLASSES))
    cap = values.get("tolerance", 0.6)
    options = SimpleNamespace(
        ensemble_method=method, distill=distill, teacher_num=number, preact=False, gpu=None, dali=None, batch_size=rows,
        local_rank=0, nu=1 / (cap * number), svm_norm=values.get("normalize", False), distill_decay=False,
        alpha=1.0, beta=1.0, gamma=0.0,
    )  # fmt: skip
    meter = SimpleNamespace(update=lambda *_: None)
    zeros = [torch.zeros(rows, CLASSES)] * number
    teachers = [given[f"teacher/{i}"] for i in range(number)] if distill == "kd" else zeros
    return {
        "opt": options, "epoch": 2, "end": 0.0, "time": SimpleNamespace(time=lambda: 0.0), "data_time": meter,
        "losses": meter, "top1": meter, "top5": meter, "accuracy": lambda *_, **__: ([0.0], [0.0]),
        "optimizer": SimpleNamespace(zero_grad=lambda: None), "train_loader": [(torch.zeros(rows, 1), target)],
        "model_s": lambda *_, **__: ([torch.zeros(rows)] * 3, outputs),
        "model_t_list": [lambda *_, i=i, **__: (list(zeros), teachers[i]) for i in range(number)],
        "criterion_cls": lambda *_: torch.zeros(()),
    }  # fmt: skip


def of_logits(code: Any, given: Tensors, values: dict[str, Any], method: str) -> Tensor:
    """``loss_div`` of the loop."""
    step, kl = code
    names = settings(step, given, values, method)
    loss: Tensor = step({**names, "criterion_div": kl(values["temperature"]), "criterion_kd": None})["loss_div"]
    return loss


def adaptive(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """The same for AEKD, whose loop adds gradients of its own to what its tensors hold: those of copies."""
    copies = {name: tensor.detach().clone().requires_grad_() for name, tensor in given.items()}
    loss = of_logits(code, copies, values, "AEKD")
    for copy in copies.values():
        copy.grad = None
    loss.backward()
    linear = [
        (given[name] - given[name].detach()) * copy.grad for name, copy in copies.items() if copy.grad is not None
    ]
    return loss.detach() + sum(part.sum() for part in linear)


def of_features(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """``loss_kd`` of the loop for CA-MKD, where what it makes of the student's features is given."""
    step, camkd = code
    names = settings(step, given, values, "CAMKD", "inter")
    number = names["opt"].teacher_num
    ours, theirs, logits = ([given[f"{name}/{i}"] for i in range(number)] for name in ("student", "teacher", "logits"))
    features = [
        lambda *_, i=i, **__: ([theirs[i], torch.zeros(1)], torch.zeros(len(logits[0]), CLASSES)) for i in range(number)
    ]
    names |= {"model_t_list": features, "module_list": [None, lambda *_: (ours, logits)], "criterion_kd": camkd()}
    loss: Tensor = step({**names, "criterion_div": lambda *_, **__: torch.zeros(len(logits[0]))})["loss_kd"]
    return loss


def ensemble(code: Any, given: Tensors, values: dict[str, Any]) -> Tensor:
    """A branch's distance from the ensemble of all, which it detaches; its temperature is 3."""
    with on_the_cpu():
        loss: Tensor = code()(given["student"], given["teacher"])
    return loss


KL = (("DistillKL", "distiller_zoo/KD.py"),)
LOOP = ("helper/loops.py", "train_distill_multi_teacher")
ADAPTIVE_LOOP = ("helper/loops.py", "train_distill_Multi_teacher")
FEATURES = (("CAMKD", "distiller_zoo/CAMKD.py"),)


def named(method: str) -> Callable[[Any, Tensors, dict[str, Any]], Tensor]:
    return lambda code, given, values: of_logits(code, given, values, method)


REFERENCES = {
    "zhang_mutual": Reference(
        *MUTUAL, "train_models.py", "_tower_loss", towers, needs=(("kl_loss_compute", "train_models.py"),)
    ),
    "camkd_average": Reference(*CONFIDENCE, *LOOP, named("AVERAGE_LOSS"), needs=KL),
    "aekd_average": Reference(*ADAPTIVE, *ADAPTIVE_LOOP, named("AVERAGE_LOSS"), needs=KL),
    "camkd_entropy": Reference(*CONFIDENCE, *LOOP, named("EBKD"), needs=KL),
    "camkd_logits": Reference(*CONFIDENCE, *LOOP, named("CAMKD"), needs=KL),
    "camkd_features": Reference(*CONFIDENCE, *LOOP, of_features, needs=FEATURES),
    "lan_ensemble": Reference(*ONE, "loss/kl_loss.py", "KLLoss", ensemble),
    "aekd_adaptive": Reference(*ADAPTIVE, *ADAPTIVE_LOOP, adaptive, needs=KL),
}


def load(reference: Reference, repos: Path) -> Any:
    """A tower's loss; or a loop's statements with the criterion that they are given."""
    if reference.symbol == "_tower_loss":
        return load_part(reference, repos, tf=tensorflow(), FLAGS=SimpleNamespace(label_smoothing=0.0))
    if reference.symbol == "KLLoss":
        return load_part(reference, repos, Variable=lambda value, requires_grad: value)
    ((symbol, file),) = reference.needs
    criterion = Reference(reference.repo, reference.commit, file, symbol, reference.call)
    return loop(reference, repos), load_part(criterion, repos)


def several(name: str, number: int, shape: tuple[int, ...], *, seed: int, size: float = 4.0) -> dict[str, Input]:
    return {f"{name}/{i}": Input(shape, seed + i, -size, size) for i in range(number)}


def teachers(number: int, shape: tuple[int, ...], *, seed: int, labels: tuple[int, ...] = ()) -> dict[str, Input]:
    """A student, its teachers, and labels where there are some."""
    given = {"student": Input(shape, seed, -4.0, 4.0), **several("teacher", number, shape, seed=seed + 1)}
    return {**given, "target": Input((len(labels),), 0, whole=True, numbers=labels)} if labels else given


SIZES = ((2, (4, 6), 4.0), (3, (7, 3), 1.0), (5, (1, 5), 2.5))
LABELS = {(4, 6): (0, 5, 2, 2), (7, 3): (0, 1, 2, 2, 1, 0, 1), (1, 5): (3,)}
CASES: dict[str, list[Case]] = {
    "mutual": [
        Case(
            "zhang_mutual",
            {
                **several("student", number, shape, seed=900 + 20 * i),
                **several("teacher", number, shape, seed=910 + 20 * i),
            },
            {"others": others},
        )
        for i, (number, shape, others) in enumerate(
            ((2, (4, 6), "mean"), (3, (7, 3), "sum"), (4, (1, 5), "mean"), (5, (3, 4), "sum"))
        )
    ],
    "ensemble_kd": [
        Case(reference, teachers(number, shape, seed=1000 + 20 * i), {"temperature": temperature})
        for reference in ("camkd_average", "aekd_average")
        for i, (number, shape, temperature) in enumerate(SIZES)
    ],
    "entropy_weighted_kd": [
        Case("camkd_entropy", teachers(number, shape, seed=1100 + 20 * i), {"temperature": temperature})
        for i, (number, shape, temperature) in enumerate(SIZES)
    ],
    "confidence_weighted_kd": [
        Case("camkd_logits", teachers(number, shape, seed=1200 + 20 * i, labels=LABELS[shape]), {"temperature": t})
        for i, (number, shape, t) in enumerate(SIZES)
    ],
    "confidence_weighted_mse": [
        Case(
            "camkd_features",
            {
                **{
                    f"{name}/{n}": Input((len(LABELS[shape]), width + n, 2, 3), 1300 + 40 * i + 10 * j + n)
                    for n in range(number)
                    for j, name in enumerate(("student", "teacher"))
                },
                **several("logits", number, shape, seed=1330 + 40 * i),
                "target": Input((len(LABELS[shape]),), 0, whole=True, numbers=LABELS[shape]),
            },
            {},
        )
        for i, (number, shape, width) in enumerate(((2, (4, 6), 3), (3, (7, 3), 1), (5, (1, 5), 2)))
    ],
}
ADAPTIVE_CASES = [
    Case("aekd_adaptive", teachers(number, shape, seed=1400 + 20 * i), values)
    for i, (number, shape, values) in enumerate(
        (
            (2, (4, 6), {"temperature": 4.0, "tolerance": 0.6, "normalize": False}),
            (3, (7, 3), {"temperature": 1.0, "tolerance": 0.6, "normalize": False}),
            (5, (6, 8), {"temperature": 2.0, "tolerance": 0.3, "normalize": False}),
            (4, (5, 7), {"temperature": 2.0, "tolerance": 1.0, "normalize": True}),
            (3, (1, 5), {"temperature": 2.5, "tolerance": 0.5, "normalize": True}),
        )
    )
]


def embeddings(repos: Path) -> dict[str, Any]:
    """CA-MKD's embeddings for two teachers, whose weights are made by formula."""
    given = {
        "student": Input((3, 4, 4, 4), 1500),
        "teachers/0": Input((3, 5, 2, 2), 1501),
        "teachers/1": Input((3, 2, 2, 2), 1502),
    }
    file = "models/util.py"
    where = Reference(*CONFIDENCE, file, "CalWeight", towers, needs=(("Embed", file),))
    tensors = {name: each.tensor().requires_grad_() for name, each in given.items()}
    teachers = [tensors["teachers/0"], tensors["teachers/1"]]
    code = load_part(where, repos)
    module = code(tensors["student"], teachers, SimpleNamespace(factor=2, convs=False)).train()
    weigh(module, 400)
    pool = SimpleNamespace(distill_seq=lambda: [lambda features: features.mean((2, 3))])  # before the classifier
    features, pooled = module(tensors["student"], teachers, [pool, pool])
    lists = {"features": features, "pooled": pooled}
    outputs = {f"{name}/{i}": each for name, several in lists.items() for i, each in enumerate(several)}
    return adapter_record("teacher_embeddings", where, given, tensors, outputs, module)


def gated(repos: Path) -> dict[str, Any]:
    """ONE's gate, in its network without the layers before and behind it."""
    given = {"features": Input((4, 32, 2, 2), 1510), **several("branches", 3, (4, 5), seed=1511)}
    file = "models/cifar/resnet.py"
    where = Reference(*ONE, file, "ONE_ResNet", towers, needs=(("conv3x3", file), ("BasicBlock", file)))
    tensors = {name: each.tensor().requires_grad_() for name, each in given.items()}
    network = load_part(where, repos, math=math, Bottleneck=None)(8, 5).train()
    for name in ("conv1", "bn1", "relu", "layer1", "layer2", "avgpool"):
        setattr(network, name, nn.Identity())
    network.avgpool_c = nn.AdaptiveAvgPool2d(1)
    for i in range(3):
        setattr(network, f"layer3_{i + 1}", Constant(tensors[f"branches/{i}"]))
        setattr(network, f"classfier3_{i + 1}", nn.Identity())
    gate = nn.ModuleList([network.control_v1, network.bn_v1])
    weigh(gate, 400)
    outputs = {"output": network(tensors["features"])[3]}
    return adapter_record("gate", where, given, tensors, outputs, gate)


class Constant(nn.Module):
    """Gives the same whatever it gets."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, ignored: Tensor) -> Tensor:
        return self.value


def adapter_record(
    name: str,
    reference: Reference,
    given: dict[str, Input],
    tensors: Tensors,
    outputs: Tensors,
    module: nn.Module,
) -> dict[str, Any]:
    """An adapter's outputs, and the gradients of the sum of their mean squares."""
    total: Any = sum(each.square().mean() for each in outputs.values())
    total.backward()
    return {
        "adapter": name,
        "repository": reference.repo,
        "commit": reference.commit,
        "file": reference.file,
        "symbol": reference.symbol,
        "inputs": {key: asdict(each) for key, each in given.items()},
        "outputs": {key: digits(each) for key, each in outputs.items()},
        "gradients": {key: digits(each.grad) for key, each in tensors.items() if each.grad is not None},
        "of_weights": [digits(each.grad) for each in module.parameters()],
    }


ONE_CASES = [
    Case("lan_ensemble", pair(shape, seed=1600 + 2 * i), {"temperature": 3.0})
    for i, shape in enumerate(((4, 6), (7, 3), (1, 5)))
]
GOLDENS: dict[str, Golden] = {
    "methods/one": lambda repos: records(ONE_CASES, REFERENCES, load, repos),
    "methods/ensemble_adapters": lambda repos: [embeddings(repos), gated(repos)],
    "methods/adaptive_ensemble_kd": lambda repos: records(ADAPTIVE_CASES, REFERENCES, load, repos),
}


if __name__ == "__main__":
    command(globals())
