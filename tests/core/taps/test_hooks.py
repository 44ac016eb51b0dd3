"""The hooks of forward wrappers."""

from __future__ import annotations

import pytest
import torch

from kd_core.taps.hooks import random_states


def test_a_gpu_that_the_run_does_not_use_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: pytest.fail("this begins to use the GPU"))
    assert len(random_states()) == 1
