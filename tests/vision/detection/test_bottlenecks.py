"""Bottlenecks in the place of a ResNet's first layer: their structure, what an edit trains, and rounding."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import kd_vision.detection.models
import kd_vision.detection.task  # noqa: F401  which registers the task
from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_core.models.registry import MODELS
from kd_core.taps.edits import apply_edits
from kd_vision.detection.bottlenecks import Bottleneck, rounded

# shapes of the weights in yoshitomo-matsubara/hnd-ghnd-object-detectors at 7ebbe03, src/models/mimic/resnet_layer.py
ENCODER = {0: (64, 64), 2: (256, 64), 5: (64, 256), 7: (3, 64)}
LARGE = {2: (64, 3), 4: (128, 64), 7: (256, 128), 9: (256, 256)}
SMALL = {2: (64, 3), 4: (128, 64), 7: (64, 128), 9: (64, 64)}
NORMS = {"encoder": {1: 64, 3: 256, 6: 64}, "decoder": {0: 3, 3: 64, 5: 128}}


@pytest.mark.parametrize(("out_channels", "decoder"), [(256, LARGE), (64, SMALL)])
def test_the_state_dict_is_the_authors(out_channels: int, decoder: dict[int, tuple[int, int]]) -> None:
    state = Bottleneck(channels=3, out_channels=out_channels).state_dict()
    convolutions = {key: tuple(value.shape) for key, value in state.items() if value.ndim == 4}
    expected = {f"encoder.{number}.weight": (*shape, 2, 2) for number, shape in ENCODER.items()}
    expected |= {f"decoder.{number}.weight": (*shape, 2, 2) for number, shape in decoder.items()}
    assert convolutions == expected
    norms = {f"{part}.{number}": width for part, numbers in NORMS.items() for number, width in numbers.items()}
    norms |= dict.fromkeys(("decoder.8", "decoder.10"), out_channels)
    assert {key.removesuffix(".running_mean"): len(value) for key, value in state.items() if "mean" in key} == norms
    assert len(state) == len(expected) + 5 * len(norms)


def test_activations_come_after_every_second_convolution() -> None:
    model = Bottleneck()
    places = [
        number for part in (model.encoder, model.decoder) for number, layer in enumerate(part) if type(layer) is nn.ReLU
    ]
    assert places == [4, 1, 6, 11]
    maps = torch.rand(2, 64, 5, 7)
    assert model.encoder(maps).shape == (2, 3, 9, 11)
    assert model(maps).shape == (2, 256, 5, 7)
    assert (model(maps) >= 0).all()
    with pytest.raises(KDError, match="takes maps of 64 channels, not 3"):
        model(torch.rand(1, 3, 4, 4))


def test_an_edit_trains_what_the_config_says() -> None:
    with torch.device("meta"):
        detector: Any = MODELS.get("torchvision.fasterrcnn_resnet50_fpn")(norm="frozen", norm_eps=0.0)
    keys = list(detector.state_dict())
    frozen = ["backbone.body.layer[234]*", "backbone.fpn", "rpn", "roi_heads"]
    edits: list[dict[str, Any]] = [{"replace": "backbone.body.layer1", "with": None}, {"freeze": frozen}]
    apply_edits(detector, edits, lambda value: Bottleneck(channels=3))
    trained = {name.rpartition(".")[0] for name, value in detector.named_parameters() if value.requires_grad}
    assert all(name.startswith(("backbone.body.conv1", "backbone.body.layer1.")) for name in trained)
    assert [key for key in detector.state_dict() if "layer1" not in key] == [key for key in keys if "layer1" not in key]


def test_rounding_is_for_evaluation() -> None:
    torch.manual_seed(0)
    plain, coarse, half = Bottleneck(), Bottleneck(bits=8), Bottleneck(bits=16)
    for other in (coarse, half):
        other.load_state_dict(plain.state_dict())
    maps = torch.rand(1, 64, 6, 6)
    with torch.no_grad():
        trained = [model.train()(maps) for model in (plain, coarse, half)]
        assert all(torch.equal(value, trained[0]) for value in trained)
        exact, eight, sixteen = (model.eval()(maps) for model in (plain, coarse, half))
    assert not torch.equal(exact, eight)
    assert (sixteen - exact).abs().max() < (eight - exact).abs().max() < 0.1


def reference(values: Tensor) -> Tensor:
    """torchdistill's affine quantisation (torchdistill/common/tensor_util.py), there and back, in plain numbers."""
    low, high = values.min().item(), values.max().item()
    step = (high - low) / 255
    zero = int(min(max(-low / step, 0.0), 255.0))
    return torch.tensor([(round(min(max(zero + value / step, 0.0), 255.0)) - zero) * step for value in values.tolist()])


def test_rounded_numbers_are_torchdistills() -> None:
    values = torch.randn(200, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rounded(values), reference(values), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rounded(values + 9), reference(values + 9), rtol=1e-5, atol=1e-6)
    assert torch.equal(rounded(torch.full((3,), 2.0)), torch.full((3,), 2.0))


CONFIG = """
task: object_detection
data: {name: scenes, limit: 12}
models:
  student:
    arch: retinanet
    backbone: resnet18
    norm: frozen
    pyramid_channels: 8
    min_size: 64
    max_size: 64
    edit: [{replace: backbone.body.layer1, with: !call:kd_vision.detection.bottlenecks.Bottleneck {out_channels: 64}}]
  teacher:
    {arch: retinanet, backbone: resnet18, norm: frozen, pyramid_channels: 8, min_size: 64, max_size: 64, weights: null}
stages:
  distill:
    epochs: 1
    batch_size: 2
    validate: {every_steps: 6}
    train: [student.backbone.body.conv1, student.backbone.body.layer1]
    losses:
      layer1: {loss: squared_error, student: student.backbone.body.layer1, teacher: teacher.backbone.body.layer1}
      layer4: {loss: squared_error, student: student.backbone.body.layer4, teacher: teacher.backbone.body.layer4}
    optimizer: !call:torch.optim.Adam {lr: 1.0e-3}
"""


@pytest.mark.slow
def test_nothing_else_of_a_student_changes_nor_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its heads run in the first step, when it is not known yet what comes after the maps, and in validation."""
    (tmp_path / "ghnd.yaml").write_text(CONFIG)
    built: list[tuple[Any, dict[str, Tensor]]] = []
    runs: list[Any] = []
    make = MODELS.get("retinanet")

    def keeping(**values: Any) -> Any:
        model: Any = make(**values)
        built.append((model, {key: value.clone() for key, value in model.state_dict().items()}))
        model.head.register_forward_pre_hook(lambda module, args: runs.append(model) if model.training else None)
        return model

    monkeypatch.setitem(MODELS._items, "retinanet", keeping)
    keeping.__signature__ = inspect.signature(make)  # type: ignore[attr-defined]
    Experiment.load(tmp_path / "ghnd.yaml").train(tmp_path / "run")
    trained = load_file(tmp_path / "run" / "student" / "model.safetensors")
    real = [(model, state) for model, state in built if not model.backbone.body.conv1.weight.is_meta]
    moved = {
        model: {key for key, value in trained.items() if key in state and not torch.equal(value, state[key])}
        for model, state in real
    }  # those that a check or the teacher's part made have other weights
    students = [model for model, keys in moved.items() if keys == {"backbone.body.conv1.weight"}]
    (ran,) = (count for count in (sum(each is student for each in runs) for student in students) if count)
    assert ran < 6  # steps, of which the last ones end at the maps


@pytest.mark.parametrize("values", [{"channels": 0}, {"bits": 4}])
def test_wrong_values_are_errors(values: dict[str, int]) -> None:
    with pytest.raises(KDError, match="must be"):
        Bottleneck(**values)  # type: ignore[arg-type]
