"""On a GPU the host waits for nothing in a step: no number that the device computed is read in it.

There need not be a GPU to tell: what depends on the batch or on a parameter is followed through all operations.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakIdKeyDictionary

from kd_core.data.batch import Batch
from kd_core.experiment import Experiment
from kd_core.taps.nested import tensors
from kd_core.train.loop import StageRunner
from kd_seg.preprocessing import constants
from kd_vision.inputs import constant

from .fake_gpu import Ended, steps_on_a_gpu
from .test_resume import DEMANDING

READS = {"_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal", "item", "unique_dim", "_unique2"}
"""Operations whose result, or whose result's shape, the host must know."""


class Read(Exception):
    """A number of the device is read."""


class Followed(TorchDispatchMode):
    """Follows what depends on ``seeds``; Read where an operation brings that to the host."""

    def __init__(self, seeds: Iterable[Tensor]) -> None:
        super().__init__()
        self.there: Any = WeakIdKeyDictionary(dict.fromkeys(seeds, True))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [item for item in tree_flatten((args, kwargs))[0] if isinstance(item, Tensor)]
        depends = any(tensor in self.there for tensor in given)
        if depends and func._schema.name.removeprefix("aten::") in READS:
            raise Read(str(func))
        made = func(*args, **(kwargs or {}))
        for item in tree_flatten(made)[0] if depends else ():
            if isinstance(item, Tensor):
                self.there[item] = True
        return made


@pytest.fixture
def followed(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: Callable[..., None] = StageRunner._step

    def step(self: StageRunner, raw: Batch, batch: Batch, shards: Any) -> None:
        there = batch.map(Tensor.clone)  # on a CPU the batch as it was read is the same
        models = [*self.context.components.models.values(), self.stage.step_module]
        parts = [*tensors([dict(there.inputs), there.target, there.index, dict(there.extra)])]
        held = [item for model in models for item in (*model.parameters(), *model.buffers())]
        with Followed([*parts, *held]):
            plain(self, raw, Batch(there.inputs, there.target, there.index, there.extra, raw.target), shards)

    monkeypatch.setattr(StageRunner, "_step", step)


def shortened(folder: Path, text: str, *overrides: str) -> Experiment:
    """The experiment with a step or two in each stage."""
    path = folder / "waiting.yaml"
    path.write_text(text)
    return Experiment.load(path, overrides=["data.limit=64", "log_every=1000", *overrides])


def test_a_step_with_averages_adapters_and_micro_batches_waits_for_nothing(followed: None, tmp_path: Path) -> None:
    stages = ("stages.hint.epochs=1", "stages.distill.epochs=1", "stages.hint.max_grad_norm=1.0")
    shortened(tmp_path, DEMANDING, *stages, "runtime={fused_optimizer: true}").train(tmp_path / "run")


def test_what_is_read_is_found(followed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.Flatten, "forward", lambda self, x: x.flatten(1) * float(x.sum() * 0 + 1))
    with pytest.raises(Read, match="_local_scalar_dense"):
        shortened(tmp_path, DEMANDING, "stages.hint.epochs=1", "stages.distill.epochs=1").train(tmp_path / "run")


@pytest.mark.parametrize("view", ["mixup", "cutmix"])
def test_mixing_images_waits_for_nothing(followed: None, tmp_path: Path, view: str) -> None:
    chosen = f"stages.distill.views={{view: {view}, num_classes: 10}}"
    stages = ("stages.hint=null", "stages.distill.epochs=1", "stages.distill.batch_size=32")
    shortened(tmp_path, DEMANDING, *stages, chosen).train(tmp_path / "run")


@pytest.fixture
def nothing_cached() -> Iterator[None]:
    """No constant of images stays that is on a GPU that is not there."""
    yield
    constant.cache_clear()
    constants.cache_clear()


def cases() -> ModuleType:
    """The runs of scripts/gpu_check.py."""
    path = Path(__file__).parents[2] / "scripts" / "gpu" / "cases.py"
    spec = spec_from_file_location("cases", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["cases"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GPU_CASES = {case.name: case for case in cases().CASES if case.name != "detection"}
"""torchvision's detectors look at how many boxes there are."""


@pytest.mark.parametrize(
    "name", ["crd", *(pytest.param(name, marks=pytest.mark.slow) for name in GPU_CASES if name != "crd")]
)
def test_all_of_a_step_is_on_one_device_and_nothing_is_copied_to_it(
    nothing_cached: None, tmp_path: Path, name: str
) -> None:
    case, copies = GPU_CASES[name], list[str]()
    experiment = Experiment.load(case.path(tmp_path), overrides=[*case.overrides, "runtime={device: cpu}"])
    with steps_on_a_gpu(copies), pytest.raises(Ended):
        experiment.train(tmp_path / "run")
    assert not copies


@pytest.mark.slow
def test_a_tensor_elsewhere_is_found(nothing_cached: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = torch.ones(1)
    monkeypatch.setattr(torch.nn.AdaptiveAvgPool2d, "forward", lambda self, x: x.mean((2, 3), keepdim=True) * there)
    experiment = Experiment.load(GPU_CASES["ce"].path(tmp_path), overrides=["runtime={device: cpu}"])
    with steps_on_a_gpu([]), pytest.raises(RuntimeError, match="two devices, cuda:0 and cpu"):
        experiment.train(tmp_path / "run")
