"""The landmarks of the zoo's models are the feature maps of the tables' code (made by make_features.py)."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kd_zoo.models
from kd_core.models.registry import MODELS
from kd_core.taps.paths import resolve_path
from kd_core.taps.wires import parse_tap
from kd_core.taps.wrappers import ForwardWrapper

HERE = Path(__file__).parent
RECIPE = runpy.run_path(str(HERE / "make_features.py"))
FILL, IMAGES = RECIPE["RECIPE"]["fill"], RECIPE["RECIPE"]["images"]
GOLDENS: dict[str, dict[str, Any]] = json.loads((HERE / "features.json").read_text(encoding="utf-8"))
SLOW = {"cifar-resnet50", "resnet32x4", "resnet56", "vgg11", "vgg13", "vgg16", "vgg19", "wrn-40-2-benchmark"}
"""Made of the same blocks as a smaller one."""


def at(name: str, num_classes: int = 100, images: Tensor | None = None) -> dict[str, list[Tensor]]:
    """What a model gives at its landmarks and as its output, of two small images where no others are given."""
    model = MODELS.get(name)(num_classes=num_classes).eval()
    told = model.landmarks()
    places = {key: told[key] for key in ("features", "preactivations")}
    places |= {"penultimate": [f"{told['classifier']}:in"], "last_map": [told["last_map"]], "output": ["output"]}
    taps = {key: [parse_tap(place) for place in places[key]] for key in places}
    with torch.no_grad():
        FILL(model)
        capture = ForwardWrapper(model, [tap for each in taps.values() for tap in each])(
            IMAGES() if images is None else images
        )
    return {key: [capture.at[tap] for tap in each] for key, each in taps.items()}


def channels_of_norms(name: str) -> list[int]:
    """The channels of the batch norms that a model tells of."""
    model = MODELS.get(name)()
    norms = [resolve_path(model, path)[-1][1] for path in model.landmarks()["norms"]]
    assert all(isinstance(norm, nn.BatchNorm2d) for norm in norms)
    return [norm.num_features for norm in norms]


@pytest.mark.parametrize("name", ["resnet20", "wrn-40-2-benchmark", "vgg8", "mobilenetv2-half", "mobilenetv1"])
def test_norms_are_those_of_the_feature_maps(name: str) -> None:
    shapes = [value[0] for value in GOLDENS[name]["features"]]
    assert channels_of_norms(name) == [channels for _, channels, _, _ in shapes]


def check(golden: dict[str, Any], found: dict[str, list[Tensor]]) -> None:
    """Shapes, means and mean squares of all that a golden has."""
    assert list(golden)[:3] == ["features", "preactivations", "penultimate"]
    for key, expected in golden.items():
        assert [list(value.shape) for value in found[key]] == [shape for shape, _, _ in expected], key
        for value, (_, *moments) in zip(found[key], expected, strict=True):
            assert RECIPE["summary"](value)[1:] == pytest.approx(moments, abs=2e-6, rel=1e-5), key
    torch.testing.assert_close(found["last_map"][0].mean((2, 3)), found["penultimate"][0])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in RECIPE["MODELS"]]
)
def test_landmarks_are_the_benchmarks_feature_maps(name: str) -> None:
    check(GOLDENS[name], at(name))


def test_mobilenet_is_mdistillers() -> None:
    golden = dict(GOLDENS["mobilenetv1"])
    with torch.device("meta"):
        lines = RECIPE["RECIPE"]["shapes"](MODELS.get("mobilenetv1")())
    assert RECIPE["RECIPE"]["digest"](lines) == golden.pop("shapes_sha256")
    check(golden, at("mobilenetv1", 1000, RECIPE["images"]()))


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("wrn-16-2", [[2, 32, 32, 32], [2, 64, 16, 16], [2, 128, 8, 8]]),
        ("densenet-bc-k12-d100", [[2, 216, 32, 32], [2, 300, 16, 16], [2, 342, 8, 8]]),
        ("cifar-resnet18", [[2, 64, 32, 32], [2, 128, 16, 16], [2, 256, 8, 8], [2, 512, 4, 4]]),
    ],
)
def test_models_outside_the_benchmark_have_theirs(name: str, shapes: list[list[int]]) -> None:
    found = at(name)
    assert [list(value.shape) for value in found["features"]] == shapes
    assert [list(value.shape) for value in found["preactivations"]] == shapes
    assert [list(value.shape) for value in found["penultimate"]] == [shapes[-1][:2]]


def test_every_architecture_of_the_zoo_tells_its_landmarks() -> None:
    assert [name for name in kd_zoo.models.__all__ if not hasattr(getattr(kd_zoo.models, name), "landmarks")] == []
