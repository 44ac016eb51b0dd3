"""Shipped configs with something wrong in them: `check` and `train` run or refuse them, and never end in a traceback.

The mutants are a function of the seed: keys are dropped, doubled and misspelt, values change and take another type,
wires change places.
"""

from __future__ import annotations

import copy
import os
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kd_core.config import dump, load, loads
from kd_core.config.syntax.methods import METHODS
from kd_core.errors import KDError
from kd_core.experiment import Experiment

ROOT = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(path for path in ROOT.glob("*/*.yaml") if not path.name.startswith(("_", "sweep_", "compare_")))
TINY = [
    ROOT / "vision" / "digits_alone.yaml",
    ROOT / "vision" / "digits_teacher.yaml",
    ROOT / "vision" / "digits_kd.yaml",
]
SMALL = {
    "data": {"name": "digits", "limit": 40, "val": 8, "augment": "shift", "workers": 0},
    "epochs": 1,
    "batch_size": 16,
}
VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 10**9, 0.0, -0.5, 0.5, 1e-9, 1e9, float("inf"), float("nan"), "", "x", "auto"),
    *("student.output", "teacher.layers", "batch.target", "adapters.x", [], [1], ["x"], {}, {"x": 1}, "!run", "é" * 40),
]
COUNT = int(os.environ.get("KD_MUTANTS", "0"))
"""How many mutants of each kind; 0: as many as stand below."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place below the top."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def mutated(data: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """The data with one to three things wrong."""
    data = copy.deepcopy(data)
    for _ in range(draw.choice((1, 1, 2, 3))):
        spots = list(places(data))
        if not spots:
            break
        path = draw.choice(spots)
        parent, key = at(data, path[:-1]), path[-1]
        action = draw.choice(("drop", "rename", "value", "value", "value", "swap", "double", "scale"))
        if action == "drop":
            del parent[key]
        elif action == "rename" and isinstance(parent, dict):
            text = str(key)
            place = draw.randrange(len(text) + 1)
            parent[text[:place] + draw.choice("aexyz_1.") + text[place + draw.randrange(2) :]] = parent.pop(key)
        elif action == "double" and isinstance(parent, dict):
            parent[f"{key}_2"] = copy.deepcopy(parent[key])
        elif action == "swap":
            other = draw.choice(spots)
            if other[: len(path)] != path and path[: len(other)] != other:
                place, name = at(data, other[:-1]), other[-1]
                parent[key], place[name] = place[name], parent[key]
        elif action == "scale" and isinstance(parent[key], (int, float)):
            parent[key] = parent[key] * draw.choice((-1, 0, 3, 1000)) if not isinstance(parent[key], bool) else 7
        else:
            parent[key] = copy.deepcopy(draw.choice(VALUES))
    return data


def mutant(source: dict[str, Any], seed: int, path: Path) -> Path | None:
    """A file with a mutant; None where it cannot be written as YAML."""
    try:
        path.write_text(dump(mutated(source, random.Random(seed))), encoding="utf-8")
    except (KDError, ValueError, TypeError, AttributeError):
        return None
    return path


def small(config: Path) -> dict[str, Any]:
    """A config of the digits with a run of a blink."""
    data: dict[str, Any] = load(config).data
    data["data"] = {**data["data"], **SMALL["data"]}  # type: ignore[dict-item]
    data["data"] |= {"labelled": 8} if "labelled" in data["data"] else {}
    data["models"]["student"]["width"] = 2
    if "teacher" in data["models"]:
        data["models"]["teacher"] = {"arch": "cnn", "width": 2, "weights": None}
    for stage in data["stages"].values():
        stage.pop("steps", None)
        stage |= {"epochs": 1, "batch_size": 16}
    return data


def checked(path: Path) -> Experiment | None:
    """The experiment, None where check refuses it."""
    try:
        experiment = Experiment.load(path)
        experiment.check()
    except KDError:
        return None
    return experiment


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("seed", [0])
def test_mutants_of_every_config_through_check(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(ROOT.parent)
    sources = [load(config).data for config in CONFIGS]
    seen = {"ok": 0, "refused": 0}
    for number in range(COUNT or 1700):
        source = sources[number % len(sources)]
        if (path := mutant(source, seed * 10**6 + number, tmp_path / "mutant.yaml")) is not None:
            seen["refused" if checked(path) is None else "ok"] += 1
    print(seen)
    assert seen["refused"] > seen["ok"] / 10


METHODS_OF = """
task: image_classification
data: {name: digits, limit: 48, augment: none, workers: 0}
models: {student: {arch: cnn, width: 4}, teacher: {arch: cnn, width: 4, weights: null}}
stages: {distill: {steps: 2, batch_size: 16, optimizer: !call:torch.optim.SGD {lr: 0.01}}}
"""


def some_method(draw: random.Random) -> Any:
    """A method by name, or with odd values of some of its parameters."""
    name = draw.choice(METHODS.names())
    options = {key: draw.choice([option.default, *VALUES]) for key, option in METHODS.get(name).options.items()}
    chosen = {key: value for key, value in options.items() if draw.random() < 0.5}
    return {"method": name, **chosen} if draw.random() < 0.5 else name


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("seed", [0])
def test_methods_with_odd_values_through_check(tmp_path: Path, seed: int) -> None:
    torch.set_num_threads(1)
    seen = {"ok": 0, "refused": 0}
    for number in range(COUNT or 1700):
        draw = random.Random(seed * 10**6 + number)
        data = loads(METHODS_OF).data
        stage = data["stages"]["distill"]
        if draw.random() < 0.6:
            stage["method"] = some_method(draw)
        else:
            stage["methods"] = [some_method(draw) for _ in range(draw.randint(1, 3))]
        if draw.random() < 0.3:
            data["stages"]["more"] = {"method": some_method(draw)}
        path = tmp_path / "methods.yaml"
        path.write_text(dump(data), encoding="utf-8")
        seen["refused" if checked(path) is None else "ok"] += 1
    print(seen)
    assert min(seen.values()) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("seed", [0])
def test_mutants_of_tiny_configs_through_train(tmp_path: Path, seed: int) -> None:
    """What check lets through starts: its only errors are those of the numbers of a run and of data."""
    torch.set_num_threads(1)
    sources = [small(config) for config in TINY]
    seen: dict[str, int] = {}
    late: list[tuple[int, str]] = []
    for number in range(COUNT or 900):
        path = mutant(sources[number % len(sources)], seed * 10**6 + number, tmp_path / "mutant.yaml")
        if path is None or (experiment := checked(path)) is None or too_long(experiment):
            outcome = "not trained"
        else:
            try:
                experiment.train(tmp_path / f"run{number}")
                outcome = "trained"
            except KDError as error:
                outcome = "an error of the run"
                late.append((number, str(error).splitlines()[0]))
        seen[outcome] = seen.get(outcome, 0) + 1
    print(seen, *late, sep="\n")
    assert seen["trained"] > 50 or COUNT


def too_long(experiment: Experiment) -> bool:
    """Whether a mutant would train for more than a blink."""
    stages = experiment.plan.stages
    return any((stage.spec.epochs or 0) > 5 or (stage.spec.steps or 0) > 50 for stage in stages)


@pytest.mark.parametrize("number", range(6))
@pytest.mark.filterwarnings("default")
def test_a_few_mutants(tmp_path: Path, number: int) -> None:
    with warnings.catch_warnings():
        path = mutant(small(TINY[number % 3]), 77 + number, tmp_path / "mutant.yaml")
        assert path is None or checked(path) is None or path.is_file()
