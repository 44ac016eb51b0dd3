"""The C++ of this folder, compiled for this machine by the compiler that torch.compile uses, and kept by its cache."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from functools import cache
from importlib import resources

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from kd_core.errors import KDError

FLAGS = ("-ffp-contract=fast",)
"""A product and a sum may be one instruction, which inductor's own flags forbid."""

VECTORS = "vectors.h"
"""What the kernels have in common."""
PLAIN = (Tensor, nn.Parameter)
"""Tensors that hold their own numbers."""
KINDS = (torch.float32, torch.bfloat16)
"""What kernels of norms, dropout, attention and losses compute with."""


def can_build() -> bool:
    """Whether this is a system whose C++ compiler the kernels are written for, and the compiler is there."""
    return sys.platform == "linux" and shutil.which(os.environ.get("CXX", "g++")) is not None


def gains(model: nn.Module) -> bool:
    """Whether a model learns faster with kernels in its graph: it has norms for images, and no activation but ReLU.

    Elsewhere, as in MobileNets, norms alone are kernels, for which no graph is needed.
    """
    kinds = {type(module) for module in model.modules()}
    others = {kind for kind in kinds if kind.__module__ == nn.ReLU.__module__} - {nn.ReLU}
    return any(issubclass(kind, nn.BatchNorm2d) for kind in kinds) and not others


def use(on: bool) -> None:
    """Have the losses of this process use kernels, or not: what belongs to no model has no other switch."""
    _Switch.on = on


def in_use() -> bool:
    """Whether losses may use kernels."""
    return _Switch.on


class _Switch:
    on = False


@cache
def library(name: str) -> ctypes.CDLL:
    """The compiled functions of ``name``.cpp; its first use on a machine takes some seconds.

    Raises:
        KDError: The compiler is missing, or cannot build it.
    """
    from torch._inductor.codecache import CppCodeCache

    try:
        folder = resources.files(__package__)
        code = "".join(folder.joinpath(file).read_text(encoding="utf-8") for file in (VECTORS, f"{name}.cpp"))
        return CppCodeCache.load(code, "cpu", extra_flags=FLAGS)
    except (RuntimeError, OSError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if "error" in line.lower()), str(error))
        hint = (
            "install a C++ compiler with OpenMP (CXX may name it), or give `runtime` as a mapping without `cpu_kernels`"
        )
        raise KDError(f"{name}.cpp cannot be compiled here: {reason}", path="runtime.cpu_kernels", hint=hint) from error


def readable(*values: Tensor | None) -> bool:
    """Whether all that are not None are plain tensors on the CPU, whose memory a kernel can read at this moment.

    Fake and distributed tensors, those of torch.func and the proxies of torch.fx hold no numbers of their own, and
    kernels have no derivatives forwards.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or forward_ad._current_level >= 0:  # type: ignore[attr-defined]
        return False
    tensors = [value for value in values if value is not None]
    return all(type(each) in PLAIN and each.device.type == "cpu" for each in tensors) and not any(
        map(torch._C._functorch.is_functorch_wrapped_tensor, tensors)
    )


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's numbers begin, NULL for none."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
