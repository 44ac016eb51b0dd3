"""What a golden is made with: inputs by formula, where its reference code stands, and the record that is kept.

A script of a family, ``make_FAMILY.py`` beside this file, has ``REFERENCES`` (name -> :class:`Reference`), ``CASES``
(loss -> :class:`Case`s) and, where its references are loaded in a way of its own, ``load``. What is no golden of a loss
stands in its ``GOLDENS`` ("FOLDER/NAME" -> a function of the repositories' folder that makes the file's records).
``make.py`` finds them all; each script runs alone too: ``python tests/golden/make_FAMILY.py REPOS [NAME...]``.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import prod
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).parent
ROUNDING = 1e-10
"""Below it two runs of the same code on two machines differ."""
Tensors = dict[str, Tensor]
Golden = Callable[[Path], list[Any]]
"""Makes the records of one golden from the folder of repositories."""


class MissingError(Exception):
    """A repository that is not in the folder, or does not have the commit."""


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
    """One set of inputs and hyperparameters (ours) for one reference.

    ``gradients`` are kept of all inputs, of those that are named, or (False) of none.
    """

    reference: str
    inputs: dict[str, Input]
    values: dict[str, Any]
    gradients: bool | Sequence[str] = True


def weigh(module: nn.Module, seed: int) -> None:
    """Parameters by formula, in their order: those that scale around 1, all others around 0."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            values = Input(tuple(parameter.shape), seed, low=-0.5, high=0.5).tensor()
            parameter.data = values + 1 if isinstance(part, nn.BatchNorm2d) and name == "weight" else values
            seed += 1


def pair(
    student: tuple[int, ...], teacher: tuple[int, ...] | None = None, *, seed: int, **how: Any
) -> dict[str, Input]:
    return {"student": Input(student, seed, **how), "teacher": Input(teacher or student, seed + 1, **how)}


def wide(student: tuple[int, ...], teacher: tuple[int, ...], *, seed: int, **how: Any) -> dict[str, Input]:
    """Student only with ``how``: twins in the student, say."""
    return {"student": Input(student, seed, **how), "teacher": Input(teacher, seed + 1)}


def source(repo: str, commit: str, file: str, repos: Path) -> str:
    """A file of a repository at a commit. MissingError where REPOS/OWNER/NAME is no clone that has it."""
    if not (repos / repo).is_dir():
        raise MissingError(f"{repos} has no folder {repo}")
    show = ["git", "-C", str(repos / repo), "show", f"{commit}:{file}"]
    found = subprocess.run(show, capture_output=True, text=True, check=False)
    if found.returncode:
        raise MissingError(f"{repo} has no {file} at {commit}: {found.stderr.strip()}")
    return found.stdout


STAND_INS = """nested_dict psutil tqdm grouped_batch_sampler lm_seqs_dataset transformers utils cPickle
    torch.utils.tensorboard theano.compat theano.compat.python2x
    pylearn2 pylearn2.costs pylearn2.costs.cost pylearn2.models pylearn2.models.mlp"""
"""Modules that references import and their losses do not need."""


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Empty modules in the place of STAND_INS; theano's few functions are torch's."""
    tensor = ModuleType("theano.tensor")
    tensor.sum = lambda x, axis: x.sum(axis)  # type: ignore[attr-defined]
    tensor.mean = torch.mean  # type: ignore[attr-defined]
    named = {"theano.tensor": tensor, "theano": ModuleType("theano"), "metric": ModuleType("metric")}
    named["theano"].tensor = tensor  # type: ignore[attr-defined]
    named["reference"] = ModuleType("reference")
    for name in STAND_INS.split():
        named[name] = ModuleType(name)
        named[name].__getattr__ = lambda attribute: type(attribute, (), {})  # type: ignore[method-assign]
    kept = {name: sys.modules.get(name) for name in named}
    sys.modules.update(named)
    try:
        yield
    finally:
        for name, module in kept.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def load(reference: Reference, repos: Path) -> Any:
    """The reference's function or class, its whole file run among stand-ins."""
    with stand_ins():
        for name, file in (*reference.needs, ("reference.loss", reference.file)):
            text = source(reference.repo, reference.commit, file, repos)
            module = ModuleType(name)
            module.__package__ = name.rpartition(".")[0]
            module.__file__ = file
            sys.modules[name] = module
            exec(compile(text.expandtabs(8), f"{reference.repo}/{file}", "exec"), module.__dict__)
        return getattr(module, reference.symbol)


def load_part(reference: Reference, repos: Path, *, keep: Sequence[str] = (), **names: Any) -> Any:
    """The reference's function or class, run alone after those it ``needs`` (symbol -> file).

    It has no decorators but those that ``keep`` names. ``names`` are what they find around them, besides torch, nn
    and F.
    """
    around: dict[str, Any] = {"torch": torch, "nn": nn, "F": functional, **names}
    for symbol, file in (*reference.needs, (reference.symbol, reference.file)):
        tree = ast.parse(source(reference.repo, reference.commit, file, repos))
        kinds = (ast.FunctionDef, ast.ClassDef)
        (found,) = (node for node in tree.body if isinstance(node, kinds) and node.name == symbol)
        found.decorator_list = [each for each in found.decorator_list if isinstance(each, ast.Name) and each.id in keep]
        exec(ast.unparse(found), around)
    return around[reference.symbol]


def number(value: float) -> float:
    """``value``. ValueError where it is NaN or infinite, which no golden may hold."""
    if not math.isfinite(value):
        raise ValueError(f"the reference gives {value}")
    return value


def digits(tensor: Tensor | None) -> list[float]:
    """The elements to 12 digits. ValueError where one is NaN or infinite."""
    assert tensor is not None
    return [number(float(f"{x:.12g}")) for x in tensor.detach().flatten().tolist()]


def record(case: Case, code: Any, reference: Reference) -> dict[str, Any]:
    """One case with its value and gradients, as JSON keeps it. ValueError where one is NaN or infinite."""
    given = {name: each.tensor().requires_grad_(not each.whole) for name, each in case.inputs.items()}
    value = reference.call(code, given, case.values).sum()
    value.backward()
    chosen = given.keys() if case.gradients is True else case.gradients or ()
    gradients = {name: given[name].grad for name in chosen if given[name].grad is not None}
    return {
        "repository": reference.repo,
        "commit": reference.commit,
        "file": reference.file,
        "symbol": reference.symbol,
        "inputs": {name: asdict(each) for name, each in case.inputs.items()},
        "values": case.values,
        "value": number(value.item()),
        "gradients": {name: digits(each) for name, each in gradients.items()},
    }


def records(
    cases: Sequence[Case], references: Mapping[str, Reference], load: Callable[[Reference, Path], Any], repos: Path
) -> list[Any]:
    """A record of each case."""
    chosen = [(case, references[case.reference]) for case in cases]
    return [record(case, load(reference, repos), reference) for case, reference in chosen]


def goldens(family: Mapping[str, Any]) -> dict[str, Golden]:
    """What a family's script can make, from its global names: "FOLDER/NAME" -> the function that makes its records."""
    references, own = family.get("REFERENCES", {}), family.get("load", load)
    losses = {
        f"losses/{name}": partial(records, cases, references, own) for name, cases in family.get("CASES", {}).items()
    }
    return {**losses, **family.get("GOLDENS", {})}


def difference(first: Any, second: Any) -> float:
    """How far two parsed files are from each other at most, relative to 1; infinite where more than numbers differ."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return max((difference(first[key], second[key]) for key in first), default=0.0)
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return max((difference(*pair) for pair in zip(first, second, strict=True)), default=0.0)
    if isinstance(first, float) and isinstance(second, float):
        return abs(first - second)
    return 0.0 if first == second else math.inf


def write(file: Path, made: list[Any]) -> None:
    """Write the records, one a line, unless they are there but for rounding. ValueError where one is not finite."""
    text = "[\n" + ",\n".join(json.dumps(each, allow_nan=False) for each in made) + "\n]\n"
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    away = difference(known, json.loads(text))
    if away > ROUNDING:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    changed = f"written again, numbers {away:.0e} away" if math.isfinite(away) else "written again"
    state = "new" if known is None else changed if away > ROUNDING else "as it was"
    print(f"{file.relative_to(HERE)}: {len(made)} cases, {state}")


def make(found: Mapping[str, Golden], repos: Path, *names: str) -> int:
    """Make the goldens of these names ("kd" or "losses/kd"), or all; how many were asked for and could not be made."""
    torch.set_default_dtype(torch.float64)
    chosen = {key: golden for key, golden in found.items() if not names or {key, key.rpartition("/")[2]} & {*names}}
    unknown = {*names} - {*chosen, *(key.rpartition("/")[2] for key in chosen)}
    if unknown:
        sys.exit(f"no script here makes {', '.join(sorted(unknown))}; they make {', '.join(sorted(found))}")
    left = 0
    for key, golden in chosen.items():
        try:
            write(HERE / f"{key}.json", golden(repos))
        except MissingError as reason:
            print(f"{key}.json: left as it is: {reason}")
            left += 1
    return left if names else 0


def command(family: Mapping[str, Any]) -> None:
    """``python make_FAMILY.py REPOS [NAME...]``."""
    repos, *names = sys.argv[1:]
    sys.exit(1 if make(goldens(family), Path(repos).resolve(), *names) else 0)
