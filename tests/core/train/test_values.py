"""What wires carry in a step."""

from __future__ import annotations

import torch

from kd_core.device.distributed import MicroBatchShard
from kd_core.taps.wires import parse_wire
from kd_core.train.values import gathered


def test_a_parameter_is_no_part_of_a_batch_and_is_not_gathered() -> None:
    weight = torch.zeros(4, 3)
    shard = MicroBatchShard((2, 2), 4)
    assert gathered(parse_wire("teacher.@classifier:weight", ["teacher"]), weight, shard) is weight
