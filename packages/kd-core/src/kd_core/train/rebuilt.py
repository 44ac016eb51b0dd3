"""Whether a student's folder gives back the model that was trained."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_core.data.batch import STUDENT
from kd_core.device.distributed import world_size
from kd_core.errors import reason
from kd_core.models.factory import student_spec
from kd_core.runs.run_folder import RunFolder
from kd_core.student import build
from kd_core.taps.nested import tensors
from kd_core.train.components import Components
from kd_core.train.stage import Stage

ROUNDING = 1e-3
"""By how much outputs may differ, as a share of the largest of them, or of 1 where they are smaller."""
SAMPLES = 2


def rebuild_fault(components: Components, folder: RunFolder, stage: Stage) -> str | None:
    """What is wrong with the model in the student's folder; None where it gives what the trained one gives.

    Both get two training samples, in evaluation mode, unless there are several processes. A call that sets more than
    its arguments say, or a module that an edit borrows, can make another model of the description than it was.
    """
    try:
        return _fault(components, folder, stage)
    except Exception as error:  # of code of the user; a run that has trained is not to end in it
        return f"cannot be run again: {reason(error)}"


def _fault(components: Components, folder: RunFolder, stage: Stage) -> str | None:
    task, runtime, trained = components.plan.task, components.runtime, components.models[STUDENT]
    model = runtime.place(build(folder.student, task, student_spec(folder.path), components.policy))
    if world_size() > 1:
        return None
    batch = components.sample(stage.plan, SAMPLES)
    inputs = batch.for_model(STUDENT)

    def outputs(module: nn.Module) -> list[Tensor]:
        modes = {part: part.training for part in module.modules()}
        module.eval()
        try:
            return [tensor.float() for tensor in tensors(task.call(module, inputs))]
        finally:
            for part, training in modes.items():
                part.training = training

    with torch.no_grad(), runtime.autocast(), runtime.compiled(usual=False):
        before, after = outputs(trained), outputs(model)
    return None if alike(before, after) else "gives other outputs than the trained student"


def alike(before: list[Tensor], after: list[Tensor]) -> bool:
    """Whether tensors are the same up to rounding."""

    def close(one: Tensor, other: Tensor) -> bool:
        if one.shape != other.shape:
            return False
        size = max(1.0, float(one.abs().nan_to_num().max())) if one.numel() else 1.0
        return torch.allclose(one, other, rtol=0, atol=ROUNDING * size, equal_nan=True)

    return len(before) == len(after) and all(map(close, before, after))
