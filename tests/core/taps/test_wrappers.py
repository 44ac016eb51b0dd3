"""Forward wrappers: captures are true, the model is untouched, and nothing of a step stays behind."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.models import resnet18

from kd_core.errors import ConfigError, KDError
from kd_core.taps.nested import tensors
from kd_core.taps.paths import module_at
from kd_core.taps.wires import Inputs, Tap, parse_wire, pick
from kd_core.taps.wrappers import OUTPUT, Capture, ForwardWrapper, Teacher


@dataclass
class Encoded:
    hidden: Tensor
    weights: tuple[Tensor, ...]


class Attention(nn.Module):
    """Keyword arguments in, a tuple out."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(8, 8)
        self.drop = nn.Dropout(0.5)

    def forward(self, hidden: Tensor, mask: Tensor, *, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        weights = (self.query(hidden) @ hidden.mT * scale + mask).softmax(-1)
        return self.drop(weights) @ hidden, weights


class Encoder(nn.Module):
    """A small transformer: shared activation, nested outputs, blocks in a ModuleList."""

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.blocks = nn.ModuleList(Attention() for _ in range(blocks))
        self.heads = nn.ModuleDict({"a": nn.Linear(8, 3), "b-2": nn.Linear(8, 3)})
        self.act = nn.ReLU(inplace=True)
        self.unused = nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> dict[str, Any]:
        hidden, all_weights = self.embed(tokens), []
        mask = torch.zeros(tokens.shape[1])
        for block in self.blocks:
            hidden, weights = block(hidden, mask=mask, scale=0.5)
            hidden = self.act(hidden)
            all_weights.append(weights)
        pooled = hidden.mean(1)
        return {
            "logits": {name: head(pooled) for name, head in self.heads.items()},
            "enc": Encoded(hidden, (*all_weights,)),
        }


class Recurrent(nn.Module):
    """An LSTM, and one cell reached under two paths that runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.cell = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.alias = self.cell

    def forward(self, x: Tensor) -> Tensor:
        h, _ = self.lstm(x)
        return self.alias(self.cell(self.cell(h[:, -1])))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 32, 32)


def resnet() -> nn.Module:
    return resnet18(num_classes=5)


def tap(text: str) -> Tap:
    found = parse_wire(f"student.{text}", ["student"]).tap
    assert found is not None
    return found


def taps(*texts: str) -> list[Tap]:
    return [tap(each) for each in texts]


def trace_of(model: nn.Module) -> list[tuple[str, dict[str, Any]]]:
    """Everything that hangs on the modules of a model, shallow copies of its dictionaries included."""
    return [
        (name, {key: copy.copy(value) if isinstance(value, dict) else value for key, value in vars(module).items()})
        for name, module in model.named_modules()
    ]


# --- what is captured ---------------------------------------------------------------------------------------------


def test_outputs_and_gradients_are_bit_identical(image: Tensor) -> None:
    bare = resnet()
    wrapped = copy.deepcopy(bare)
    wrapper = ForwardWrapper(wrapped, taps("layer1.0.bn1", "layer2:in", "layer3", "layer4.1.relu:0"))
    for _ in range(3):
        expected, output = bare(image), wrapper(image).output
        assert torch.equal(output, expected)
        expected.square().mean().backward()
        output.square().mean().backward()
    for (name, mine), theirs in zip(wrapped.named_parameters(), bare.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad), name
    assert all(map(torch.equal, wrapped.state_dict().values(), bare.state_dict().values()))


@pytest.mark.parametrize("train", [True, False])
def test_a_value_changed_in_place_later_is_captured_as_it_was(image: Tensor, train: bool) -> None:
    """torchvision's BasicBlock applies an in-place ReLU to bn1's output and adds to bn2's."""
    model = resnet().train(train)
    wrapper = ForwardWrapper(model, taps("layer1.0.bn1", "layer1.0.bn2", "layer1.0.relu:in:0", "layer1.0.conv2:in"))
    for _ in range(3):
        at = wrapper(image).at
        before = at[tap("layer1.0.bn1")]
        assert before.min() < 0
        assert torch.equal(before, at[tap("layer1.0.relu:in:0")])
        assert torch.equal(before.relu(), at[tap("layer1.0.conv2:in")])
        bn2 = model.get_submodule("layer1.0.bn2").eval()
        recomputed = model.get_submodule("layer1.0.conv2")(before.relu())
        if not train:
            torch.testing.assert_close(at[tap("layer1.0.bn2")], bn2(recomputed))


def test_the_probe_pass_has_the_graph_of_all_others(image: Tensor) -> None:
    """A resumed run starts with a probe pass, where the uninterrupted one had a later pass: gradients must be equal."""
    model = resnet()
    places = taps("layer1.0.bn1", "layer1.0", "layer2.0.relu:0", "layer2.0.conv1:in", "layer3")
    state = copy.deepcopy(model.state_dict())
    wrapper = ForwardWrapper(model, places)
    gradients = []
    for _ in range(3):
        model.load_state_dict(state)
        capture = wrapper(image)
        model.zero_grad()
        (capture.output.sum() + sum(value.square().mean() for value in capture.at.values())).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(map(torch.equal, gradients[0], gradients[1]))
    assert all(map(torch.equal, gradients[0], gradients[2]))


def test_only_values_that_change_are_cloned(image: Tensor) -> None:
    model, seen = resnet(), []
    model.layer1[0].bn1.register_forward_hook(lambda *args: seen.append(args[-1]))
    model.layer3.register_forward_hook(lambda *args: seen.append(args[-1]))
    wrapper = ForwardWrapper(model, taps("layer1.0.bn1", "layer3"))
    for _ in range(2):
        seen.clear()
        at = wrapper(image).at
        assert at[tap("layer1.0.bn1")] is not seen[0]
        assert at[tap("layer3")] is seen[1]


class Fickle(nn.Module):
    """Changes a value in place only when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)

    def forward(self, x: Tensor, relu: bool) -> Tensor:
        y = self.first(x)
        return y.relu_() if relu else y


def test_a_change_that_the_probe_did_not_see_is_an_error() -> None:
    wrapper = ForwardWrapper(Fickle(), taps("first"), call=lambda model, inputs: model(*inputs))
    wrapper((torch.randn(2, 3), False))
    with pytest.raises(KDError, match=r"student: the value at first was changed in place later(.|\n)*inplace=False"):
        wrapper((torch.randn(2, 3), True))


def test_each_mode_has_its_own_probe() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5, inplace=True))
    wrapper = ForwardWrapper(model, taps("0")).eval()
    x = torch.randn(8, 4)
    wrapper(x)
    at = wrapper.train()(x).at
    assert torch.equal(at[tap("0")], model[0](x))


def test_gradients_flow_through_captures(image: Tensor) -> None:
    model = resnet()
    wrapper = ForwardWrapper(model, taps("layer1.0.bn1", "layer2:in"))
    for _ in range(2):
        model.zero_grad()
        sum(value.sum() for value in wrapper(image).at.values()).backward()
        assert model.conv1.weight.grad is not None
        assert model.layer2[0].conv1.weight.grad is None


def test_nested_values_and_keyword_arguments() -> None:
    model = Encoder().eval()
    places = taps("blocks.0", "blocks.-1:in", "embed:in", "heads.b-2", "output")
    capture = ForwardWrapper(model, places)(torch.arange(6).view(2, 3))
    at = capture.at
    assert pick(at[tap("blocks.0")], (1,)).shape == (2, 3, 3)
    assert pick(at[tap("blocks.-1:in")], ("scale",)) == 0.5
    assert pick(at[tap("blocks.-1:in")], ("mask",)).shape == (3,)
    assert pick(at[tap("blocks.-1:in")]).shape == (2, 3, 8)
    assert at[tap("embed:in")].shape == (2, 3)
    assert at[OUTPUT] is capture.output
    assert pick(at[OUTPUT], ("logits", "b-2")) is at[tap("heads.b-2")]
    assert pick(at[OUTPUT], ("enc", "weights", -1)).shape == (2, 3, 3)


def test_nested_values_changed_in_place_are_cloned_whole() -> None:
    class Host(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = Encoder()

        def forward(self, tokens: Tensor) -> Tensor:
            found = self.encoder(tokens)
            found["enc"].hidden.zero_()
            return found["enc"].hidden

    wrapper = ForwardWrapper(Host().eval(), taps("encoder", "encoder.blocks.0:in"))
    for _ in range(2):
        at = wrapper(torch.arange(6).view(2, 3)).at
        value = at[tap("encoder")]
        assert isinstance(value["enc"], Encoded)
        assert value["enc"].hidden.abs().max() > 0
        assert isinstance(at[tap("encoder.blocks.0:in")], Inputs)


def test_lstm_tuples_and_several_calls() -> None:
    model = Recurrent()
    x = torch.randn(2, 5, 4)
    wrapper = ForwardWrapper(model, taps("lstm", "cell:0", "cell:-1", "alias:1", "cell.0:in:2"))
    at = wrapper(x).at
    output, (hidden, _) = at[tap("lstm")]
    assert torch.equal(output[:, -1], hidden[0])
    assert torch.equal(at[tap("cell:0")], model.cell(output[:, -1]))
    assert torch.equal(at[tap("alias:1")], at[tap("cell.0:in:2")])
    assert torch.equal(at[tap("cell:-1")], model(x))


def test_all_calls_are_a_list() -> None:
    at = ForwardWrapper(Recurrent(), taps("cell:all", "cell:1", "cell:in:all", "lstm:all"))(torch.randn(2, 5, 4)).at
    assert len(at[tap("cell:all")]) == len(at[tap("cell:in:all")]) == 3
    assert torch.equal(at[tap("cell:all")][1], at[tap("cell:1")])
    assert len(at[tap("lstm:all")]) == 1
    with pytest.raises(KDError, match="tap unused:all did not fire"):
        ForwardWrapper(Encoder(), taps("unused:all"))(torch.arange(6).view(2, 3))


def test_several_calls_without_a_choice_are_listed() -> None:
    wrapper = ForwardWrapper(Recurrent(), taps("cell"), name="teacher")
    with pytest.raises(ConfigError) as raised:
        wrapper(torch.randn(2, 5, 4))
    (problem,) = raised.value.problems
    assert problem.message == "teacher: module 'cell' ran 3 times in this pass: :0 (2, 4), :1 (2, 4), :2 (2, 4)"
    assert problem.hint == "choose one, such as teacher.cell:2, or all by :all"


@pytest.mark.parametrize("call", [3, -4])
def test_a_call_that_does_not_happen(call: int) -> None:
    with pytest.raises(KDError, match="ran 3 times"):
        ForwardWrapper(Recurrent(), [Tap("cell", call=call)])(torch.randn(2, 5, 4))


def test_a_tap_that_does_not_fire() -> None:
    wrapper = ForwardWrapper(Encoder(), taps("unused:in"))
    with pytest.raises(KDError, match=r"student: tap unused:in did not fire: the model has 'unused' \(Linear\)"):
        wrapper(torch.arange(6).view(2, 3))


def test_under_autocast(image: Tensor) -> None:
    model = resnet().eval()
    wrapper = ForwardWrapper(model, taps("layer1", "layer1.0.bn1"))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(wrapper(image).output, model(image))
        assert wrapper(image).at[tap("layer1")].dtype == torch.bfloat16


def test_under_inference_mode(image: Tensor) -> None:
    wrapper = ForwardWrapper(resnet().eval(), taps("layer1.0.bn1"))
    for _ in range(2):
        with torch.inference_mode():
            assert wrapper(image).at[tap("layer1.0.bn1")].min() < 0
    wrapper(image).output.sum().backward()


# --- the model stays what it was ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ForwardWrapper, Teacher])
def test_release_leaves_no_trace(kind: type[ForwardWrapper], image: Tensor) -> None:
    model = resnet()
    model.conv1.weight.requires_grad_(False)
    model.bn1.eval()
    before = trace_of(model)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    wrapper = kind(model, taps("layer1.0.bn1", "layer2:in", "output"))
    wrapper(image)
    wrapper.retap(taps("layer3"))
    wrapper(image)
    assert trace_of(model) != before
    assert wrapper.release() is model
    for (name, now), (_, then) in zip(trace_of(model), before, strict=True):
        assert now.keys() == then.keys()
        for key, value in now.items():
            assert value == then[key] or value is then[key], (name, key)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


def test_state_dict_keys_are_the_bare_ones(image: Tensor) -> None:
    model = resnet()
    wrapper = ForwardWrapper(model, taps("layer1"))
    parent = nn.ModuleDict({"student": wrapper, "other": nn.Linear(2, 2)})
    assert list(wrapper.state_dict()) == list(resnet().state_dict())
    assert wrapper.state_dict()._metadata == model.state_dict()._metadata  # type: ignore[attr-defined]
    state = {key: torch.ones_like(value) for key, value in parent.state_dict().items()}
    assert "student.layer1.0.bn1.running_mean" in state
    parent.load_state_dict(state)
    assert model.fc.bias.eq(1).all()
    wrapper.load_state_dict(resnet().state_dict())
    assert not model.fc.bias.eq(1).any()
    del state["student.fc.bias"]
    with pytest.raises(RuntimeError, match=r"student\.(module\.)?fc\.bias"):
        parent.load_state_dict(state)
    parent.load_state_dict(state, strict=False)


def test_copies_and_pickles_are_independent(image: Tensor) -> None:
    wrapper = ForwardWrapper(resnet().eval(), taps("layer1.0.bn1", "output"))
    expected = wrapper(image)
    for twin in (copy.deepcopy(wrapper), pickle.loads(pickle.dumps(wrapper))):
        capture = twin(image)
        assert torch.equal(capture.at[tap("layer1.0.bn1")], expected.at[tap("layer1.0.bn1")])
        assert twin.release() is not wrapper.module
    assert set(wrapper(image).at) == set(expected.at)


def test_a_copy_of_a_tapped_model_captures_nothing(image: Tensor) -> None:
    """What an average of the student's weights runs must not reach the student's captures."""
    model = resnet()
    wrapper = ForwardWrapper(model, taps("layer1"), call=lambda model, x: (average(x), model(x)))
    average = copy.deepcopy(model)
    assert wrapper(image).at[tap("layer1")] is not None


def test_retap_swaps_and_refuses_what_is_not_there(image: Tensor) -> None:
    wrapper = ForwardWrapper(resnet(), taps("layer1"))
    assert wrapper.taps == (Tap("layer1"),)
    with pytest.raises(ConfigError, match="layr2"):
        wrapper.retap(taps("layr2"))
    assert set(wrapper(image).at) == {Tap("layer1")}
    wrapper.retap(taps("layer2", "layer2"))
    assert set(wrapper(image).at) == {Tap("layer2")}


def test_an_error_in_the_model_leaves_the_wrapper_usable(image: Tensor) -> None:
    model = resnet()
    wrapper = ForwardWrapper(model, taps("layer1"))
    with pytest.raises(RuntimeError):
        wrapper(image[:, :2])
    model(image)
    assert wrapper(image).at[tap("layer1")].shape == (2, 64, 8, 8)


# --- nothing outlives a step ----------------------------------------------------------------------------------------


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("options", [{}, {"early_stop": True}])
@pytest.mark.parametrize("kind", [ForwardWrapper, Teacher])
def test_values_die_with_their_capture(kind: type[ForwardWrapper], options: dict[str, Any], image: Tensor) -> None:
    wrapper = kind(resnet(), taps("layer1.0.bn1", "layer2:in", "layer3.1.relu:1"), **options)
    model_values: list[weakref.ref[Tensor]] = []
    wrapper.module.layer1[0].conv2.register_forward_hook(lambda *args: model_values.append(weakref.ref(args[-1])))
    for _ in range(3):
        capture = wrapper(image)
        held = [weakref.ref(value) for value in capture.at.values()]
        assert all(each() is not None for each in held)
        del capture
        assert [each() for each in held] == [None] * 3
        assert model_values.pop()() is None


@pytest.mark.usefixtures("no_collector")
def test_the_bare_model_can_run_without_leaving_captures(image: Tensor) -> None:
    model = resnet()
    ForwardWrapper(model, taps("layer1"))
    found: list[weakref.ref[Tensor]] = []
    model.layer1.register_forward_hook(lambda *args: found.append(weakref.ref(args[-1])))
    model(image)
    assert found[0]() is None


def test_as_many_tensors_after_twenty_steps_as_after_two(image: Tensor) -> None:
    wrapper = ForwardWrapper(resnet(), taps("layer1.0.bn1", "layer2:in"))
    teacher = Teacher(resnet(), taps("layer1.0.bn1", "layer2:in"), early_stop=True)

    def step() -> None:
        mine, theirs = wrapper(image).at, teacher(image).at
        sum((mine[each] - theirs[each]).square().mean() for each in mine).backward()

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(each), Tensor) for each in gc.get_objects())

    for _ in range(2):
        step()
    before = alive()
    for _ in range(18):
        step()
    assert alive() == before


# --- early stop -----------------------------------------------------------------------------------------------------


class Drawing(nn.Module):
    """Two layers, of which the second may be frozen, and a dropout by a function that follows the model's own mode."""

    def __init__(self, drop: float = 0.0) -> None:
        super().__init__()
        self.first, self.second, self.drop = nn.Linear(3, 3), nn.Linear(3, 3), drop
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x))
        self.runs += 1
        return nn.functional.dropout(x, self.drop, self.training) if self.drop else x


@pytest.mark.parametrize(("drop", "frozen", "runs"), [(0.0, True, 1), (0.0, False, 3), (0.5, True, 3)])
def test_a_model_that_learns_stops_where_nothing_moves_after_its_taps(drop: float, frozen: bool, runs: int) -> None:
    """Neither statistics nor random numbers: a resumed run, whose first pass is whole, draws the same ones."""
    model = Drawing(drop).train()
    model.second.train(not frozen)
    wrapper = ForwardWrapper(model, taps("first"), early_stop=True, spare=True)
    captures = [wrapper(torch.ones(2, 3)) for _ in range(3)]
    assert model.runs == runs
    assert all(torch.equal(each.at[Tap("first")], captures[0].at[Tap("first")]) for each in captures)
    captures[-1].at[Tap("first")].sum().backward()
    assert model.first.weight.grad is not None


class Counted(nn.Module):
    """Counts how often each child ran, in an order that the input may turn round."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        self.ran: list[str] = []

    def forward(self, x: Tensor, order: str = "abc") -> Tensor:
        for name in order:
            x = getattr(self, name)(x)
            self.ran.append(name)
        return x


def runs(wrapper: ForwardWrapper, order: str = "abc") -> str:
    wrapper.module.ran.clear()
    capture = wrapper((torch.ones(1, 4), order))
    assert capture.output is None
    return "".join(wrapper.module.ran)


def stopping(*texts: str, kind: type[ForwardWrapper] = ForwardWrapper) -> ForwardWrapper:
    return kind(Counted(), taps(*texts), call=lambda model, inputs: model(*inputs), early_stop=True)


@pytest.mark.parametrize("kind", [ForwardWrapper, Teacher])
def test_a_pass_stops_after_the_deepest_tap(kind: type[ForwardWrapper]) -> None:
    wrapper = stopping("b", "a", kind=kind)
    assert [runs(wrapper), runs(wrapper), runs(wrapper)] == ["abc", "a", "a"]  # b ran, but did not return to its parent


def test_inputs_are_taken_before_the_module_runs() -> None:
    wrapper = stopping("c:in")
    assert [runs(wrapper), runs(wrapper)] == ["abc", "ab"]


def test_several_calls_are_waited_for() -> None:
    wrapper = stopping("a:1", "b")
    assert [runs(wrapper, "aabac"), runs(wrapper, "aabac"), runs(wrapper, "abcac")] == ["aabac", "aa", "abc"]


def test_the_order_may_vary() -> None:
    wrapper = stopping("a", "b")
    assert [runs(wrapper), runs(wrapper, "bca"), runs(wrapper, "cba"), runs(wrapper, "cabc")] == [
        "abc",
        "bc",
        "cb",
        "ca",
    ]


def test_calls_from_the_end_need_the_whole_pass() -> None:
    wrapper = stopping("a:-1")
    assert [runs(wrapper, "aab"), runs(wrapper, "abab")] == ["aab", "abab"]
    wrapper = stopping("a:all")
    assert [runs(wrapper, "aab"), runs(wrapper, "abab")] == ["aab", "abab"]


def test_no_stop_where_the_output_is_asked_for() -> None:
    wrapper = stopping("a", "output")
    for _ in range(2):
        wrapper.module.ran.clear()
        capture = wrapper((torch.ones(1, 4),))
        assert wrapper.module.ran == ["a", "b", "c"]
        assert capture.output is capture.at[OUTPUT]


def test_nothing_runs_where_nothing_is_asked_for() -> None:
    wrapper = stopping()
    assert runs(wrapper) == ""


def test_stopping_leaves_contexts_and_wraps_no_model_exceptions(image: Tensor) -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = resnet()

        def forward(self, x: Tensor) -> Tensor:
            try:
                with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
                    return self.net(x)
            except Exception as error:  # what a model might do
                raise AssertionError from error

    wrapper = ForwardWrapper(Careful().eval(), taps("net.layer1"), early_stop=True)
    first, second = (wrapper(image).at[tap("net.layer1")] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


# --- teachers -------------------------------------------------------------------------------------------------------


def test_a_teacher_is_frozen_and_its_bytes_stay(image: Tensor) -> None:
    model = resnet()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    teacher = Teacher(model, taps("layer1.0.bn1", "fc", "conv1:in"))
    student = ForwardWrapper(resnet(), taps("layer1.0.bn1"))
    both = nn.ModuleList([teacher, student])
    optimizer = torch.optim.SGD(both.parameters(), 0.1, weight_decay=0.1)
    for _ in range(3):
        both.train()
        model.layer1.train()  # behind the wrapper's back
        model.train()
        capture = teacher(image.clone().requires_grad_())
        assert not model.training
        assert not model.bn1.training
        for value in (capture.output, *capture.at.values()):
            assert not value.requires_grad
            assert not value.is_inference()
        (student(image).at[tap("layer1.0.bn1")] - capture.at[tap("layer1.0.bn1")]).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not torch.equal(student.module.conv1.weight, resnet().conv1.weight)


def test_a_teacher_trains_its_statistics_only_on_request(image: Tensor) -> None:
    model = resnet()
    teacher = Teacher(model, taps("layer1"), train_mode=True)
    before = model.bn1.running_mean.clone()
    teacher.eval()(image)
    assert torch.equal(model.bn1.running_mean, before)
    teacher.train()(image)
    assert not torch.equal(model.bn1.running_mean, before)
    assert not teacher(image).output.requires_grad


def test_adapters_on_teacher_taps_train(image: Tensor) -> None:
    teacher = Teacher(resnet(), taps("layer1"))
    adapter = nn.Conv2d(64, 8, 1)
    adapter(teacher(image).at[tap("layer1")]).sum().backward()
    assert adapter.weight.grad is not None


# --- paths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind"),
    [("", "ResNet"), ("layer1.0.bn1", "BatchNorm2d"), ("layer1.-1.relu", "ReLU"), ("layer2.-2", "BasicBlock")],
)
def test_module_at(path: str, kind: str) -> None:
    with torch.device("meta"):
        model = resnet()
    assert type(module_at(model, path)).__name__ == kind
    assert module_at(ForwardWrapper(model), path) is module_at(model, path)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("layr3", "did you mean 'layer3'?"),
        ("layr3.0.bn1", "did you mean 'layer3.0.bn1'?"),
        ("layer1.0.con1", "did you mean 'layer1.0.conv1'?"),
        ("bn2", "did you mean 'bn1'?"),
        ("layer1.-3", "did you mean 'layer1.1'?"),
        ("downsample.0", ".0.downsample.0'?"),  # of several as near
        ("xyz", "choose one of: avgpool, bn1, conv1, fc, layer1, layer2, layer3, layer4, maxpool, relu"),
        ("fc.weight", "fc.weight is a tensor, not a module"),
        ("bn1.relu", "bn1 is a BatchNorm2d without modules inside"),
        ("output.logits", "fields of the model's output come after '/': MODEL.output/logits"),
        ("forward", "choose one of"),
    ],
)
def test_a_missing_module_is_answered_with_the_nearest(path: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        module_at(resnet(), path)
    (problem,) = raised.value.problems
    assert problem.message == f"ResNet has no module {path!r}"
    assert hint in str(problem.hint)


# --- DDP and torch.compile ------------------------------------------------------------------------------------------


@pytest.fixture
def world(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize("inside", [True, False])
def test_under_ddp(inside: bool, image: Tensor) -> None:
    """The wrapper in DDP, as a training step has it, and DDP in the wrapper."""
    model, places = resnet(), taps("layer1.0.bn1", "layer3")
    plain = ForwardWrapper(copy.deepcopy(model), places)
    parallel: Any = DistributedDataParallel(ForwardWrapper(model, places))
    if inside:
        parallel = ForwardWrapper(DistributedDataParallel(model), places)
        assert list(parallel.state_dict()) == list(plain.state_dict())
    for _ in range(3):
        for each in (parallel, plain):
            capture = each(image)
            (capture.output.sum() + sum(value.square().mean() for value in capture.at.values())).backward()
    for mine, theirs in zip(parallel.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine.grad, theirs.grad)


@pytest.mark.usefixtures("world")
def test_ddp_never_stops_early(image: Tensor) -> None:
    wrapper = ForwardWrapper(DistributedDataParallel(resnet()), taps("layer4"), early_stop=True)
    ran: list[int] = []
    wrapper.module.register_forward_hook(lambda *_: ran.append(1))
    for _ in range(3):
        assert wrapper(image).output is None
    assert len(ran) == 3


class Small(nn.Module):
    """What a compiler may stumble over: in-place changes, a module that runs twice, keywords, a nested output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.act(self.norm(self.first(x)))
        return {"logits": self.act(self.second(input=hidden))}


COMPILED_TAPS = taps("norm", "second:in", "act:-1", "act:in:0", "output")


def loss(capture: Capture) -> Tensor:
    return sum((value.square().sum() for each in capture.at.values() for value in tensors(each)), torch.zeros(()))


@pytest.fixture
def compiling() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("compiling")
@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", ["in place", "wrapped", "ran before"])
def test_under_compile(backend: str, way: str) -> None:
    model = Small().double()  # a compiler rounds otherwise
    plain = ForwardWrapper(copy.deepcopy(model), COMPILED_TAPS)
    compiled: Any = model
    if way == "in place":
        model.compile(backend=backend, fullgraph=True)
    else:
        compiled = torch.compile(model, backend=backend, fullgraph=True)
    x = torch.randn(6, 4, dtype=torch.float64)
    if way == "ran before":  # in the same mode, or the code is compiled anew anyway
        compiled(x)
        plain.module(x)
    wrapper = ForwardWrapper(compiled, COMPILED_TAPS)
    assert list(wrapper.state_dict()) == list(plain.state_dict())
    for _ in range(3):
        mine, theirs = wrapper(x), plain(x)
        for each in COMPILED_TAPS:
            for value, expected in zip(tensors(mine.at[each]), tensors(theirs.at[each]), strict=True):
                torch.testing.assert_close(value, expected)
        loss(mine).backward()
        loss(theirs).backward()
    for value, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value.grad, expected.grad)


@pytest.mark.usefixtures("compiling")
def test_compiled_taps_can_be_swapped_and_removed() -> None:
    model, x = Small(), torch.randn(6, 4)
    model.compile(backend="eager")
    wrapper = ForwardWrapper(model, taps("norm"))
    wrapper(x)
    wrapper.retap(taps("first", "second"))
    assert set(wrapper(x).at) == set(taps("first", "second"))
    places = wrapper._places
    model(x)  # the bare model, as an evaluation runs it
    wrapper.release()
    model(x)
    assert [place.calls for place in places] == [[], []]


@pytest.mark.usefixtures("compiling")
def test_a_compiled_pass_tells_nothing_of_an_eager_one() -> None:
    """The last, smaller batch of an epoch runs eager, and may be the first that changes a value in place."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True))
    model.compile(backend="eager")
    wrapper, x = Teacher(model, taps("0")), torch.randn(4, 3)
    with torch.no_grad():
        expected = nn.functional.linear(x, model[0].weight, model[0].bias)
        assert torch.equal(wrapper(x).at[Tap("0")], expected)
        with torch.compiler.set_stance("force_eager"):
            assert torch.equal(wrapper(x[:3]).at[Tap("0")], expected[:3])
            assert torch.equal(wrapper(x[:2]).at[Tap("0")], expected[:2])
        assert torch.equal(wrapper(x).at[Tap("0")], expected)


def test_parts_may_be_compiled(image: Tensor) -> None:
    model = resnet().eval()
    model.layer1.compile(backend="eager")
    wrapper = ForwardWrapper(model, taps("layer1.0.bn1", "layer1:in", "layer2.0.bn1"))
    for _ in range(2):
        with torch.no_grad():
            at = wrapper(image).at
        assert all(at[tap(f"{layer}.0.bn1")].min() < 0 for layer in ("layer1", "layer2"))


@pytest.mark.usefixtures("compiling")
def test_hooks_that_compiled_code_ignores_are_reported() -> None:
    model, x = Small(), torch.randn(6, 4)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    wrapper = ForwardWrapper(model, taps("norm"), call=lambda _, inputs: compiled(inputs))
    with pytest.raises(KDError, match="tap norm did not fire"):
        wrapper(x)


@pytest.mark.usefixtures("compiling")
def test_steps_compile_once() -> None:
    model, x = Small(), torch.randn(6, 4)
    model.compile(backend="eager", dynamic=False)
    wrapper = ForwardWrapper(model, COMPILED_TAPS)
    wrapper(x)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for _ in range(5):
        wrapper(x)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


@pytest.mark.usefixtures("compiling")
def test_compiled_code_never_stops_early() -> None:
    model, x = Small(), torch.randn(6, 4)
    model.compile(backend="eager")
    teacher = Teacher(model, taps("norm"), early_stop=True)
    for _ in range(3):
        capture = teacher(x)
        assert capture.output is None
        assert not capture.at[tap("norm")].requires_grad
