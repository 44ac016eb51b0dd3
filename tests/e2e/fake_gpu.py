"""A step on a GPU that is not there: tensors without numbers that say they are on one (PyTorch's fake tensors).

Operations on tensors of two devices fail as they would there, and so does whatever reads a number. Only forward passes
can be run: the backward pass asks the device itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from kd_core.data.batch import Batch
from kd_core.train.loop import StageRunner
from kd_core.train.objective import StepInfo

GPU = torch.device("cuda", 0)


class Copied(TorchDispatchMode):
    """Keeps what is copied between devices while the host waits, as from memory that is not pinned."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if func._schema.name in ("aten::_to_copy", "aten::copy_") and not kwargs.get("non_blocking"):
            source, target = (args[0], made) if func._schema.name == "aten::_to_copy" else (args[1], args[0])
            if source.device != target.device:
                self.copies.append(f"{tuple(source.shape)} from {source.device} to {target.device}")
        return made


class Moves:
    """Moves tensors to the GPU, the same one to the same place."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode
        self._moved: dict[int, tuple[Tensor, Tensor]] = {}

    def tensor(self, tensor: Tensor) -> Tensor:
        """What stands for a tensor there."""
        if id(tensor) not in self._moved:
            there = self._mode.from_tensor(tensor.detach()).to(GPU)
            if isinstance(tensor, nn.Parameter):
                there = nn.Parameter(there, tensor.requires_grad)
            self._moved[id(tensor)] = self._moved[id(there)] = (there, tensor)
        return self._moved[id(tensor)][0]

    def modules(self, modules: Iterable[nn.Module]) -> None:
        """Put those that stand for them into modules, in place of their parameters and buffers."""
        for part in (part for module in modules for part in module.modules()):
            for held in (part._parameters, part._buffers):
                for name, tensor in held.items():
                    if tensor is not None:
                        held[name] = self.tensor(tensor)


class Ended(BaseException):
    """The step is done: with models that are not there any more no run goes on."""


@contextmanager
def steps_on_a_gpu(copies: list[str]) -> Iterator[None]:
    """Inside, a run ends with :class:`Ended` after two forward passes of its first step on a GPU that is not there.

    ``copies`` gets what the second pass copies while the host waits: constants are copied once.
    """

    def step(self: StageRunner, raw: Batch, batch: Batch, shards: Any) -> None:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            moves = Moves(mode)
            moves.modules([*self.context.components.models.values(), self.stage.step_module])
            moves.modules(self.stage.frozen.values())  # copies of models, where batch norms are folded
            self.runtime.device = GPU
            there = replace(raw.map(moves.tensor), known_target=raw.target)
            for _ in range(2):
                with Copied() as copied:
                    for part, shard, shares in self._micro_batches(there, shards):
                        frozen = self.stage.teacher_outputs(part)
                        info = StepInfo(0, self.stage.total_steps, self.stage.steps_per_epoch)
                        loss, terms = self.stage.step_module(part, frozen, info, shard, shares)
            assert loss.device == terms.device == GPU
            copies.extend(copied.copies)
        raise Ended

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageRunner, "_step", step)
        yield
