"""Lazy layers get their shapes from a pass that leaves nothing else behind."""

from __future__ import annotations

import torch
from torch import nn

from kd_core.train.lazy import has_lazy, materialize


def test_lazy_batch_norm_gets_its_shape_and_counts_nothing() -> None:
    module = nn.Sequential(nn.LazyConv2d(5, 1), nn.LazyBatchNorm2d(), nn.BatchNorm2d(5)).train()
    materialize(module, torch.randn(2, 3, 4, 4))
    assert not has_lazy(module)
    assert all(part.training for part in module.modules())
    for part in (module[1], module[2]):
        assert isinstance(part, nn.BatchNorm2d)
        assert isinstance(part.running_mean, torch.Tensor)
        assert isinstance(part.running_var, torch.Tensor)
        assert (part.running_mean.tolist(), part.running_var.tolist()) == ([0.0] * 5, [1.0] * 5)
        assert int(part.num_batches_tracked or 0) == 0
    module(torch.randn(2, 3, 4, 4)).sum().backward()
    assert [int(part.num_batches_tracked) for part in (module[1], module[2])] == [1, 1]
