"""Landmarks: how wires name them, what models tell of themselves, and what one pass shows of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from kd_core.errors import KDError
from kd_core.taps.inference import infer_landmarks, know_landmarks
from kd_core.taps.landmarks import Landmarks, declared, places
from kd_core.taps.paths import module_at
from kd_core.taps.wires import Tap, parse_wire
from kd_core.taps.wrappers import ForwardWrapper, Teacher


def plain(model: nn.Module, inputs: Any) -> Any:
    return model(inputs)


@pytest.mark.parametrize(
    ("text", "tap", "fields"),
    [
        ("student.@features", Tap("@features"), ()),
        ("student.@features/1", Tap("@features/1"), ()),
        ("student.@features/-1", Tap("@features/-1"), ()),
        ("student.@preactivations/0", Tap("@preactivations/0"), ()),
        ("student.@penultimate", Tap("@penultimate"), ()),
        ("student.@classifier", Tap("@classifier"), ()),
        ("student.@classifier:in", Tap("@classifier", "in"), ()),
        ("student.@classifier:weight", Tap("@classifier", "weight"), ()),
        ("student.@norms:bias/1", Tap("@norms/1", "bias"), ()),
        ("student.@last_map", Tap("@last_map"), ()),
        ("student.@classifier/logits", Tap("@classifier"), ("logits",)),
    ],
)
def test_wires_name_landmarks(text: str, tap: Tap, fields: tuple[str, ...]) -> None:
    wire = parse_wire(text, ["student"])
    assert (wire.tap, wire.fields) == (tap, fields)
    assert parse_wire(str(wire), ["student"]) == wire


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("student.@feature/1", "there is no landmark @feature", "did you mean '@features'?"),
        ("student.@features:in", "only @norms and @classifier have a side", "write student.@features"),
        ("student.@classifier:1", "only @norms and @classifier have a side", "write student.@classifier"),
        ("student.@features/last", "@features are numbered", "write student.@features/0"),
    ],
)
def test_wrong_landmarks(text: str, message: str, hint: str) -> None:
    with pytest.raises(KDError, match=message) as caught:
        parse_wire(text, ["student"])
    assert hint in str(caught.value)


class Block(nn.Module):
    """Two convolutions; its activation runs twice, and gives the block's output."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(4 if stride == 1 else width // 2, width, 3, stride, 1)
        self.second = nn.Conv2d(width, width, 3, 1, 1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.act(self.second(self.act(self.first(x))))
        return result


class Net(nn.Module):
    """A stem, two blocks, and a classifier that is not the last module that is registered."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 3)
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.block1, self.block2 = Block(4, 1), Block(8, 2)
        self.unused = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.block2(self.block1(self.stem(x))).mean((2, 3)))
        return logits


def test_one_pass_shows_the_landmarks() -> None:
    found = infer_landmarks(Net(), plain, torch.zeros(2, 3, 8, 8))
    activations = (Tap("block1.act", "in", 1), Tap("block2.act", "in", 1))
    features = (Tap("block1"), Tap("block2"))
    assert found == Landmarks(features, activations, "fc", last_map=Tap("block2"))


def test_batch_norms_before_activations_are_found() -> None:
    model = torchvision.models.resnet18(weights=None)
    with torch.device("meta"):
        found = infer_landmarks(model.to("meta").eval(), plain, torch.zeros(2, 3, 64, 64))
    assert found.norms == ("layer1.1.bn2", "layer2.1.bn2", "layer3.1.bn2", "layer4.1.bn2")
    assert found.last_map == Tap("layer4")


@pytest.mark.parametrize(
    ("name", "features", "activations", "classifier"),
    [
        ("resnet18", ["layer1", "layer2", "layer3", "layer4"], 4, "fc"),
        ("mobilenet_v2", ["features.1", "features.3", "features.6", "features.13", "features"], 0, "classifier.1"),
        ("shufflenet_v2_x1_0", ["stage2", "stage3", "conv5"], 0, "fc"),
        ("vgg13", ["features.3", "features.8", "features.13", "features.18", "features.23"], 5, "classifier.6"),
    ],
)  # fmt: skip
def test_landmarks_of_torchvision(name: str, features: list[str], activations: int, classifier: str) -> None:
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(weights=None).eval()
        found = infer_landmarks(model, plain, torch.zeros(2, 3, 224, 224))
    assert [str(tap) for tap in found.features] == features
    assert (len(found.preactivations), found.classifier) == (activations, classifier)


def test_the_layers_of_a_transformer_are_its_features() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.Sequential(nn.Linear(4, 8), nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), nn.Linear(8, 5))
    found = infer_landmarks(model.train(), plain, torch.zeros(2, 6, 4))
    assert [str(tap) for tap in found.features] == ["1.layers.0", "1.layers.1", "1.layers.2"]
    assert found.classifier == "2"


class Telling(Net):
    """A network that says where its landmarks are."""

    def landmarks(self) -> Mapping[str, Any]:
        return {"features": ["stem", "block2"], "preactivations": ["stem", "block2.-1:in:1"], "classifier": "fc"}


def test_what_a_model_tells_is_what_holds() -> None:
    model = Telling()
    know_landmarks(model, plain, None)
    assert declared(model) == Landmarks((Tap("stem"), Tap("block2")), (Tap("stem"), Tap("block2.-1", "in", 1)), "fc")


def test_parameters_are_those_of_the_modules() -> None:
    model, images = Telling(), torch.randn(2, 3, 8, 8)
    taps = [Tap("@classifier", "weight"), Tap("fc", "bias"), Tap("stem")]
    at = ForwardWrapper(model, taps)(images).at
    assert at[taps[0]] is model.fc.weight
    assert at[taps[1]] is model.fc.bias
    model.fc.weight.full_tensor = model.fc.weight.detach  # type: ignore[attr-defined]  # as a DTensor has it
    with pytest.raises(KDError, match="fc:weight is sharded and trained"):
        ForwardWrapper(model, taps)(images)
    teacher = Teacher(model, taps[:1], early_stop=True)
    assert not teacher(images).at[taps[0]].requires_grad
    with pytest.raises(KDError, match="ReLU has no weight"):
        ForwardWrapper(model, [Tap("block1.act", "weight")])


def test_captures_are_those_of_the_places() -> None:
    model, images = Net(), torch.randn(2, 3, 8, 8)
    know_landmarks(model, plain, images)
    taps = [Tap("@features"), Tap("@features/-1"), Tap("@preactivations/0"), Tap("@penultimate"), Tap("block1")]
    at = ForwardWrapper(model, taps)(images).at
    assert [tuple(tensor.shape) for tensor in at[taps[0]]] == [(2, 4, 8, 8), (2, 8, 4, 4)]
    assert at[taps[0]][0] is at[Tap("block1")]
    assert at[taps[1]] is at[taps[0]][1]
    assert torch.equal(at[taps[2]].relu(), at[Tap("block1")])
    assert torch.equal(at[taps[3]], at[taps[1]].mean((2, 3)))
    assert set(model.state_dict()) == set(Net().state_dict())


def test_a_pass_ends_at_the_landmark_that_is_asked_for() -> None:
    model, images = Net().eval(), torch.randn(2, 3, 8, 8)
    know_landmarks(model, plain, images)
    calls = list[str]()
    model.block2.register_forward_hook(lambda *_: calls.append("block2"))
    wrapper = ForwardWrapper(model, [Tap("@features/0")], early_stop=True)
    wrapper(images)  # the probe runs in full
    calls.clear()
    assert wrapper(images).at[Tap("@features/0")].shape == (2, 4, 8, 8)
    assert calls == []


def test_a_landmark_is_a_module_where_a_path_is_asked_for() -> None:
    model = Telling()
    assert module_at(model, "@classifier") is model.fc
    assert module_at(model, "@features/-1.act") is model.block2.act
    with pytest.raises(KDError, match="@features are 2 modules"):
        module_at(model, "@features")
    with pytest.raises(KDError, match="there is no landmark @clasifier"):
        module_at(model, "@clasifier")


@pytest.mark.parametrize(
    ("model", "path", "message"),
    [
        (Telling(), "@features/2", "has 2 feature maps"),
        (Net(), "@features/0", "known only after a forward pass"),
        (nn.Sequential(nn.Flatten(), nn.Tanh()), "@classifier", "no linear layer"),
        (nn.Sequential(nn.Flatten(), nn.Tanh()), "@features", "no feature maps"),
        (nn.Sequential(nn.Flatten(), nn.Tanh()), "@preactivations", "no activations end"),
    ],
)
def test_landmarks_that_are_not_there(model: nn.Module, path: str, message: str) -> None:
    if isinstance(model, nn.Sequential):
        know_landmarks(model, plain, torch.zeros(2, 3))
    with pytest.raises(KDError, match=message):
        places(model, Tap(path))


class Headed(Net):
    """A second head, of the same width, that runs later."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = super().forward(x)
        self.auxiliary(torch.zeros(2, 8))
        return result


def test_the_classifier_is_what_gives_the_output() -> None:
    assert infer_landmarks(Headed(), plain, torch.rand(2, 3, 16, 16)).classifier == "fc"


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"features": "layer1"}, "features must be a list of places, such as 'layer1', not 'layer1'"),
        ({"features": [3]}, r"features must be a list of places, such as 'layer1', not \[3\]"),
        ({"classifier": ["fc"]}, r"classifier must be one place, such as 'layer1', not \['fc'\]"),
        ({"feature": ["layer1"]}, "has no landmark 'feature'"),
        (["layer1"], "must return a mapping, not list"),
    ],
)
def test_what_a_model_tells_wrongly(told: Any, message: str) -> None:
    class Wrong(nn.Module):
        def landmarks(self) -> Any:
            return told

    with pytest.raises(KDError, match=message):
        declared(Wrong())


def test_something_else_of_that_name_tells_nothing() -> None:
    class Face(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.landmarks = nn.Linear(4, 10)

    class Finder(nn.Module):
        def landmarks(self, image: Tensor) -> Tensor:
            return image

    assert declared(Face()) is declared(Finder()) is None
