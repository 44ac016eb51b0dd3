"""Random states of a checkpoint, where a run goes on with other processes than wrote it."""

from __future__ import annotations

from typing import Any

import torch

from kd_core.runs.checkpoint import rng_state, set_rng_state
from kd_core.train.state import restore_rng


def state_of(seed: int) -> dict[str, Any]:
    """The random states of a process that began with a seed."""
    torch.manual_seed(seed)
    return rng_state()


def test_known_processes_go_on_and_new_ones_draw_numbers_of_their_own() -> None:
    before = rng_state()
    states = [state_of(1), state_of(2)]

    def drawn(number: int) -> list[float]:
        restore_rng(states, number, (0, "resumed", 17))
        return torch.rand(4).tolist()

    try:
        draws = [drawn(number) for number in range(4)]
        torch.manual_seed(2)
        assert draws[1] == torch.rand(4).tolist()
        assert len({tuple(numbers) for numbers in draws}) == 4
        assert draws[3] == drawn(3)
    finally:
        set_rng_state(before)
