"""Edits of a built model, and what a pattern means."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from kd_core.errors import ConfigError, ConfigProblem, Mark
from kd_core.taps.edits import RemovedModule, apply_edits, matching
from kd_core.taps.landmarks import declared
from kd_core.taps.paths import module_at
from kd_core.taps.wires import Tap
from kd_core.taps.wrappers import ForwardWrapper
from kd_zoo.resnet import CifarResNet

MODULES: dict[str, Any] = {
    "head": lambda: nn.Linear(512, 3),
    "bottleneck": lambda: nn.Conv2d(128, 128, 1),
    "double": lambda: Double(),
    "last": lambda: nn.Linear(64, 7),
    "text": lambda: "no module",
}


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.mlp = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))
        self.scale = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(x + self.mlp(self.norm(x)))


class TextModel(nn.Module):
    """Blocks in a ModuleList, weights tied between two paths, a layer that runs before some registered earlier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 11)
        self.head.weight = self.embed.weight
        self.early = nn.Linear(6, 6)

    def forward(self, tokens: Tensor, early: bool = False) -> dict[str, Tensor]:
        x = self.embed(tokens)
        x = self.early(x) if early else x
        for block in self.blocks:
            x = block(x)
        return {"logits": self.head(self.norm(x))}


def edit(model: nn.Module, *edits: Mapping[str, Any]) -> nn.Module:
    return apply_edits(model, edits, lambda name: MODULES[name]())


@pytest.fixture
def image() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, 32, 32)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(1)
    return resnet18(num_classes=5).eval()


def at(model: nn.Module, path: str, inputs: Any) -> Any:
    """What comes out of a module in a copy of the model."""
    return ForwardWrapper(copy.deepcopy(model), [Tap(path)])(inputs).at[Tap(path)]


# --- truncate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["layer2", "layer2.0", "layer2.-1.conv1", "avgpool"])
def test_truncate_gives_the_output_of_the_path(model: nn.Module, image: Tensor, path: str) -> None:
    expected = at(model, path, image)
    state = model.state_dict()
    assert edit(model, {"truncate": path}) is model
    assert torch.equal(model(image), expected)
    kept = model.state_dict()
    assert all(torch.equal(kept[key], state[key]) for key in kept)
    assert not any(key.startswith("fc") for key in kept)
    assert any(key.startswith("layer3") for key in kept) == (path == "avgpool")


def test_truncate_drops_what_is_registered_after(model: nn.Module) -> None:
    edit(model, {"truncate": "layer2.0.bn1"})
    kept = [name for name, module in model.named_modules() if not isinstance(module, RemovedModule)]
    assert [name for name in kept if "." not in name] == ["", "conv1", "bn1", "relu", "maxpool", "layer1", "layer2"]
    assert [name for name in kept if name.startswith("layer2.")] == ["layer2.0", "layer2.0.conv1", "layer2.0.bn1"]
    assert next(reversed(model.state_dict())) == "layer2.0.bn1.num_batches_tracked"


def test_truncate_inside_a_list_and_twice() -> None:
    model, tokens = TextModel().eval(), torch.arange(6).view(2, 3)
    expected = at(model, "blocks.0.mlp.0", tokens)
    edit(model, {"truncate": "blocks.1"}, {"truncate": "blocks.0.mlp.0"})
    assert torch.equal(model(tokens), expected)
    assert sorted({key.split(".")[1] for key in model.state_dict() if key.startswith("blocks")}) == ["0"]


def test_truncate_a_sequential() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    x = torch.randn(3, 2)
    expected = model[:2](x)
    assert torch.equal(edit(model, {"truncate": 1})(x), expected)
    assert list(model.state_dict()) == ["0.weight", "0.bias"]


def test_a_truncated_model_copies_pickles_trains_and_compiles(model: nn.Module, image: Tensor) -> None:
    edit(model, {"truncate": "layer1"})
    expected = model(image)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            twin.conv1.weight.zero_()
        assert not torch.equal(twin(image), expected)
        assert torch.equal(model(image), expected)
    model(image).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(image), expected)
    torch._dynamo.reset()


def test_a_truncated_model_can_be_tapped_and_its_parts_called(model: nn.Module, image: Tensor) -> None:
    edit(model, {"truncate": "layer1"})
    wrapper = ForwardWrapper(model, [Tap("layer1.0.bn1"), Tap("layer1")])
    capture = wrapper(image)
    assert torch.equal(capture.output, capture.at[Tap("layer1")])
    assert model.layer1(torch.randn(1, 64, 4, 4)).shape == (1, 64, 4, 4)


def test_a_cut_outside_a_cut(model: nn.Module, image: Tensor) -> None:
    outer = nn.Sequential(edit(model, {"truncate": "layer2"}), nn.ReLU())
    expected = at(outer, "0.bn1", image)
    assert torch.equal(edit(outer, {"truncate": "0.bn1"})(image), expected)


def test_what_cannot_be_truncated() -> None:
    tokens = torch.arange(6).view(2, 3)
    with pytest.raises(ConfigError, match="truncate dropped 'early', which the model runs before 'norm'"):
        edit(TextModel(), {"truncate": "norm"})(tokens, early=True)
    with pytest.raises(ConfigError, match="no pass calls 'early'"):
        edit(TextModel(), {"truncate": "early"})(tokens)
    with pytest.raises(ConfigError, match="nothing comes out of 'blocks', a ModuleList"):
        edit(TextModel(), {"truncate": "blocks"})
    with pytest.raises(ConfigError, match=r"0\.truncate: a model cannot be truncated as a whole"):
        edit(TextModel(), {"truncate": ""})


# --- replace and insert ---------------------------------------------------------------------------------------------


def test_replace(model: nn.Module, image: Tensor) -> None:
    keys = list(model.state_dict())
    edit(model, {"replace": "fc", "with": "head"}, {"replace": "layer1.-1.relu", "with": "double"})
    assert list(model.state_dict()) == keys
    assert isinstance(model.layer1[1].relu, Double)
    assert not model.fc.training
    assert model(image).shape == (2, 3)


def test_insert_keeps_the_keys_of_the_rest(model: nn.Module, image: Tensor) -> None:
    expected = 2 * at(model, "layer2.0", image)
    keys = list(model.state_dict())
    edit(model, {"insert": "double", "after": "layer2.0"}, {"insert": "bottleneck", "after": "layer2"})
    assert torch.equal(at(model, "layer2.0", image), expected)
    new = [key for key in model.state_dict() if key not in keys]
    assert new == ["layer2.inserted.weight", "layer2.inserted.bias"]
    bottleneck = module_at(model, "layer2.inserted")
    assert torch.equal(at(model, "layer2", image), bottleneck(at(model, "layer2.1", image)))


def test_insert_several_after_one_leaf(image: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    expected = 4 * model(image)
    edit(model, {"insert": "double", "after": "0"}, {"insert": "double", "after": "0"})
    assert list(dict(model[0].named_children())) == ["inserted", "inserted2"]
    for twin in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin(image).sum().backward()
    assert torch.equal(model(image), expected)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_insert_where_the_model_ends(model: nn.Module, image: Tensor, order: tuple[int, int]) -> None:
    expected = 2 * at(model, "layer1.0.conv1", image)
    edits = {"insert": "double", "after": "layer1.0.conv1"}, {"truncate": "layer1.0.conv1"}
    edit(model, *(edits[each] for each in order))
    assert torch.equal(model(image), expected)
    assert torch.equal(at(model, "layer1.0.conv1", image), expected)


def twins(model: nn.Module) -> list[nn.Module]:
    return [model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))]


def test_insert_before_a_module(model: nn.Module, image: Tensor) -> None:
    taken = 2 * at(model, "layer4", image)
    edit(model, {"insert": "double", "after": "avgpool:in"})
    for twin in twins(model):
        assert torch.equal(at(twin, "avgpool", image), taken.mean((2, 3), keepdim=True))
        assert type(module_at(twin, "avgpool.inserted")).__name__ == "Double"


def test_insert_after_the_output_and_by_name(model: nn.Module, image: Tensor) -> None:
    features = at(model, "layer4", image)
    edit(model, {"truncate": "layer4"}, {"insert": "double", "after": "output", "name": "twice"})
    edit(model, {"insert": "double", "after": "output"}, {"insert": "double", "after": "layer4", "name": "inner"})
    for twin in twins(model):
        assert torch.equal(twin(image), 8 * features)
        assert torch.equal(at(twin, "layer4", image), 2 * features)
        assert [name for name, _ in twin.named_children()][-3:] == ["twice", "inserted", "inner"]


def test_landmarks_are_places_of_edits(image: Tensor) -> None:
    model = zoo_resnet(depth=8)
    features = at(model, "layer3", image)
    edit(model, {"insert": "double", "after": "@last_map", "name": "twice"}, {"replace": "@classifier", "with": "last"})
    assert torch.equal(at(model, "avgpool", image), 2 * features.mean((2, 3), keepdim=True))
    assert model(image).shape == (2, 7)
    edit(model, {"truncate": "@features/-1"})
    assert torch.equal(model(image), features)
    landmarks = declared(model)
    assert landmarks is not None
    assert (len(landmarks.features), len(landmarks.norms), landmarks.classifier, landmarks.last_map) == (
        3,
        3,
        None,
        None,
    )
    edit(model, {"truncate": "@features/0"})
    landmarks = declared(model)
    assert landmarks is not None
    assert [str(tap) for tap in landmarks.features] == ["layer1"]


def zoo_resnet(depth: int) -> nn.Module:
    return CifarResNet(depth).eval()


def test_an_error_of_the_builder_keeps_its_place(model: nn.Module) -> None:
    def build(value: Any) -> nn.Module:
        raise ConfigError(ConfigProblem("no", "in_features", Mark("a.yaml", 3, 4)))

    with pytest.raises(ConfigError, match=r"a\.yaml:3:4: in_features: no"):
        apply_edits(model, [{"replace": "fc", "with": 1}], build)


# --- freeze and patterns --------------------------------------------------------------------------------------------


def test_freeze(model: nn.Module) -> None:
    edit(model, {"freeze": "conv1"}, {"freeze": ["layer1", "*.bias"]})
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    expected = {
        name for name, _ in model.named_parameters() if name.startswith(("conv1.", "layer1.")) or name.endswith(".bias")
    }
    assert frozen == expected


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("fc", ["fc.weight", "fc.bias"]),
        ("fc.bias", ["fc.bias"]),
        ("layer1.-1.bn2", ["layer1.1.bn2.weight", "layer1.1.bn2.bias"]),
        ("layer1.*.bn1", [f"layer1.{i}.bn1.{kind}" for i in (0, 1) for kind in ("weight", "bias")]),
        ("layer1.?.conv1.weight", ["layer1.0.conv1.weight", "layer1.1.conv1.weight"]),
        ("f[cd]", ["fc.weight", "fc.bias"]),
        ("class:Linear", ["fc.weight", "fc.bias"]),
    ],
)
def test_patterns(model: nn.Module, pattern: str, names: list[str]) -> None:
    found = matching(model, pattern)
    assert [name for name, _ in found] == names
    assert all(parameter is model.get_parameter(name) for name, parameter in found)
    assert matching(ForwardWrapper(model), pattern) == found


def test_patterns_over_much(model: nn.Module) -> None:
    everything = dict(model.named_parameters())
    assert dict(matching(model, "*")) == everything
    assert dict(matching(model, "class:ResNet")) == everything
    assert len(matching(model, "class:_BatchNorm")) == 40
    assert [name for name, _ in matching(model, "class:BasicBlock")] == [
        name for name in everything if name.startswith("layer")
    ]
    assert len(matching(model, "layer*.bn*")) == 32


def test_shared_parameters_come_once() -> None:
    model = TextModel()
    assert [name for name, _ in matching(model, "head")] == ["head.weight", "head.bias"]
    assert [name for name, _ in matching(model, "*") if name.endswith("weight") and name[:4] in ("embe", "head")] == [
        "embed.weight"
    ]


def test_patterns_under_a_root_of_wrapped_models(model: nn.Module) -> None:
    root = nn.ModuleDict({"student": ForwardWrapper(model), "adapters": nn.ModuleDict({"p": nn.Linear(1, 1)})})
    assert [name for name, _ in matching(root, "student.fc")] == ["student.fc.weight", "student.fc.bias"]
    assert [name for name, _ in matching(root, "adapters.*")] == ["adapters.p.weight", "adapters.p.bias"]


@pytest.mark.parametrize(
    ("pattern", "message", "hint"),
    [
        ("layr1", "ResNet has nothing that matches 'layr1'", "did you mean 'layer1'?"),
        ("fc.wieght", "nothing that matches 'fc.wieght'", "did you mean 'fc.weight'?"),
        ("*.baises", "nothing that matches '*.baises'", ""),
        ("", "nothing that matches ''", "write a path, a glob such as '*.bias', or class:NAME"),
        ("relu", "what 'relu' means in ResNet has no parameters", ""),
        ("class:BatchNorm", "no module of class 'BatchNorm'", "did you mean 'BatchNorm2d'?"),
        ("class:Module", "no module of class 'Module'", "choose one of"),
        ("class:ReLU", "what 'class:ReLU' means in ResNet has no parameters", ""),
        ("layer1.-5", "ResNet has no module 'layer1.-5'", "did you mean"),
    ],
)
def test_a_pattern_that_means_nothing(model: nn.Module, pattern: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        matching(model, pattern)
    (problem,) = raised.value.problems
    assert message in problem.message
    assert hint in (problem.hint or "")


@pytest.mark.parametrize(
    ("wrong", "path", "message", "hint"),
    [
        ({"trunctae": "fc"}, "1", "an edit is one of truncate, replace, insert, freeze", "did you mean 'truncate'?"),
        ({}, "1", "an edit is one of", "choose one of"),
        (
            {"replace": "fc"},
            "1.replace",
            "the edit 'replace' is missing the required key 'with'",
            "write {replace: ..., with: ...}",
        ),
        (
            {"insert": "double", "befor": "fc"},
            "1.insert",
            "the edit 'insert' has no key 'befor'",
            "choose one of: after, insert, name",
        ),
        (
            {"truncate": "fc", "freeze": "fc"},
            "1.truncate",
            "the edit 'truncate' has no key 'freeze'",
            "choose one of: truncate",
        ),
        ({"truncate": "layr1"}, "1.truncate", "ResNet has no module 'layr1'", "did you mean 'layer1'?"),
        (
            {"replace": "", "with": "head"},
            "1.replace",
            "a model cannot be replaced as a whole",
            "name one of its modules",
        ),
        ({"replace": "fc", "with": "text"}, "1.replace", "expected a torch.nn.Module, got str", ""),
        (
            {"insert": "double", "after": "fc", "name": "layer1"},
            "1.insert",
            "'layer1' cannot name an inserted module",
            "choose another",
        ),
        ({"insert": "double", "after": "layer1:in"}, "1.insert", "a Sequential runs all of its modules", "name:"),
        ({"insert": "double", "after": "fc:0"}, "1.insert", "inserted at fc:0, one of several calls", "PATH:in"),
        ({"insert": "double", "after": "fc:weight"}, "1.insert", "a parameter", "PATH:in"),
        ({"insert": "double", "after": "@penultimate"}, "1.insert", "are known only after a forward pass", ""),
        ({"freeze": "layr1"}, "1.freeze", "nothing that matches 'layr1'", "did you mean 'layer1'?"),
    ],
)
def test_a_wrong_edit(model: nn.Module, wrong: Mapping[str, Any], path: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        edit(model, {"freeze": "conv1"}, wrong)
    (problem,) = raised.value.problems
    assert problem.path == path
    assert message in problem.message
    assert hint in (problem.hint or "")


def test_nothing_comes_out_of_a_list() -> None:
    with pytest.raises(ConfigError, match="nothing comes out of 'blocks', a ModuleList"):
        edit(TextModel(), {"insert": "double", "after": "blocks"})


def test_a_name_in_a_sequential_is_refused() -> None:
    with pytest.raises(ConfigError, match="a Sequential runs all of its modules"):
        edit(nn.Sequential(nn.ReLU()), {"insert": "double", "after": "0", "name": "twice"})


def test_landmarks_of_edits_that_are_several_or_no_output() -> None:
    for wrong, message in (
        ({"truncate": "@features"}, "@features are 3 places"),
        ({"truncate": "@last_map"}, "@last_map is avgpool:in, which is no module's output"),
        ({"insert": "double", "after": "@feature/0"}, "there is no landmark @feature"),
    ):
        with pytest.raises(ConfigError, match=message):
            edit(zoo_resnet(depth=8), wrong)


def test_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = resnet18(num_classes=5)
        edit(model, {"freeze": "conv1"}, {"insert": "bottleneck", "after": "layer2"}, {"truncate": "layer2"})
        assert model(torch.randn(2, 3, 32, 32)).shape == (2, 128, 4, 4)
