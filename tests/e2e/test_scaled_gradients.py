"""Gradients that are scaled, as for fp16, by PyTorch's scaler on a CPU: its state is in the checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kd_core.device.runtime import Runtime
from kd_core.experiment import Experiment, resume

from .conftest import student_bytes
from .test_resume import train_until


def test_a_killed_run_goes_on_with_the_scale_that_it_had(
    config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Runtime] = []
    plain: Callable[..., None] = Runtime.__init__

    def scaled(self: Runtime, *given: Any, **named: Any) -> None:
        plain(self, *given, **named)
        self._accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)
        made.append(self)

    monkeypatch.setattr(Runtime, "__init__", scaled)
    path, overrides = config(), ["data.limit=120", "checkpoint={every_steps: 1}"]
    Experiment.load(path, overrides=overrides).train(tmp_path / "whole")
    train_until(5, path, tmp_path / "killed", overrides, monkeypatch)
    resume(tmp_path / "killed")
    whole, _, resumed = (runtime.scaler_state() for runtime in made)
    assert whole["scale"] > 4.0
    assert resumed == whole
    assert student_bytes(tmp_path / "killed") == student_bytes(tmp_path / "whole")
