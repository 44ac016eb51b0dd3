"""The key ``runtime``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class RuntimeSpec(BaseModel):
    """How to compute. The default is what published recipes use: float32, nothing compiled."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute. `auto` takes a GPU where there is one, else the CPU."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the models' forward and backward passes. Losses are computed in float32 in any case."""
    channels_last: bool = False
    """Store images and feature maps with the channels as the last dimension in memory."""
    fused_optimizer: bool = False
    """Use the optimizer's fused implementation where it has one."""
    fuse_bn: bool = False
    """Fold the BatchNorm layers of frozen models, and of a copy of each model that is scored, into their convolutions.
    Frozen models that are compiled are left as they are."""
    compile: list[str] = []
    """Names of the models to compile with `torch.compile`."""
    cpu_kernels: list[str] = []
    """Names of models that, on a CPU with Linux, have kernels of this package where they have such layers: of maps,
    with `channels_last`, BatchNorm2d in training and the sum and the activation (ReLU, ReLU6, hardswish) that follow it
    and, in bf16, depthwise convolutions and (with AMX) weights of 3 x 3 convolutions; Dropout; attention in models of
    transformers, whose classifiers compute their last layer for the first token alone if nothing else is looked at. The
    losses `cross_entropy` and `kd` of maps have kernels then, too. A C++ compiler builds them when first used."""
    cuda_graphs: bool = False
    """Record the compiled models as CUDA graphs, which are launched as a whole. Stages with micro-batches and runs of
    several processes do without; needs `compile`."""
    tf32: bool | None = None
    """On a GPU: whether float32 products may be computed in TensorFloat-32, whose mantissa has 10 bits. Without a value
    as PyTorch does it: in convolutions but not in matrix products."""
    deterministic: bool = False
    """Use algorithms that give the same bits in every run only; a run with an operation that has none is refused. On a
    GPU a resumed run ends bit for bit like an uninterrupted one only with it."""
