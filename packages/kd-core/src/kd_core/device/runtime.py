"""Devices, precision and processes: the one file that touches accelerate."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from torch.optim import Optimizer

from kd_core.config.runtime import RuntimeSpec
from kd_core.data.batch import Batch
from kd_core.device.depthwise import patch_depthwise_convs
from kd_core.device.first_token import patch_classifiers
from kd_core.device.folding import folded, halve, has_norms
from kd_core.device.fsdp import full_state_dict, release_process_groups
from kd_core.device.kernels.attention import patch_attention
from kd_core.device.kernels.dropout import patch_dropouts
from kd_core.device.kernels.library import can_build, gains, library
from kd_core.device.kernels.library import use as use_kernels
from kd_core.device.kernels.norm import patch_norms
from kd_core.device.pooling import patch_pools
from kd_core.errors import KDError
from kd_core.taps.nested import map_tensors
from kd_core.taps.wires import Tap
from kd_core.taps.wrappers import ForwardWrapper

COMPILE_FROM = 1000
"""Planned steps from which compiling, a minute or two, pays."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Options of glibc's ``mallopt``: how much free memory goes back, and how many tensors may have pages of their own."""
CUBLAS_WORKSPACE = ":4096:8"
"""The workspace with which cuBLAS gives the same bits in every run (PyTorch's notes on reproducibility)."""
PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def fast(models: Iterable[str], planned_steps: int, *, fixed_shapes: bool = True) -> RuntimeSpec:
    """The settings of ``runtime: fast`` on this machine, from device, models and planned steps, never from a timing.

    ``models`` are compiled where the run is long enough and its batches have one shape, and on a CPU have kernels of
    ours.
    """
    cuda = torch.cuda.is_available()
    # A CPU without such instructions emulates bfloat16, which is slower than float32.
    half = torch.cuda.is_bf16_supported() if cuda else torch.cpu._is_avx512_bf16_supported()
    compiled = list(models) if fixed_shapes and planned_steps >= COMPILE_FROM else []
    precision: Literal["bf16", "fp32"] = "bf16" if half else "fp32"
    tf32 = True if cuda else None
    return RuntimeSpec(
        precision=precision,
        channels_last=True,
        fused_optimizer=True,
        fuse_bn=True,
        compile=compiled,
        cpu_kernels=list(models) if can_build() and not cuda else [],
        tf32=tf32,
    )


def is_main() -> bool:
    """Whether this process, of those a launcher started, is the one that writes."""
    return os.environ.get("RANK", "0") == "0"


def restarts() -> bool:
    """Whether torchrun starts all processes anew where one of them is lost (``--max-restarts``)."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0


def on_cpu(device: str) -> bool:
    """Whether a ``device:`` resolves to the CPU here; accelerate joins processes only where it is told so."""
    return device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())


def join(device: str) -> None:
    """Meet the other processes of this run, if a launcher (torchrun, accelerate launch) started any."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        PartialState(cpu=on_cpu(device))


def leave() -> None:
    """Leave the process group of a run that has ended, and end its threads.

    A thread of gloo may hold the tensors of its last operation for a while. If the interpreter ended meanwhile, it
    would be stopped while it frees them, which aborts the process (SIGABRT).
    """
    if torch.distributed.is_initialized():
        PartialState().destroy_process_group()
        release_process_groups()
        gc.collect()  # models that were shared or sharded refer to themselves; the last reference ends the threads


def keep_memory() -> None:
    """Have the C library keep the memory that tensors on the CPU give back: the next step wants as much again.

    By default it returns large tensors and what is free at the top of its heap to the system, which then clears each
    page anew when it is first touched: a tenth of a step of a small network, a quarter of one on feature maps.
    Nothing is done where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, size in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)):
            mallopt(option, size)


def set_arithmetic(spec: RuntimeSpec) -> None:
    """Set PyTorch's switches of this process for TF32 and for reproducible algorithms, to its defaults where not asked.

    cuBLAS reads its own switch for reproducible products from the environment, when it is first used.
    """
    torch.backends.cuda.matmul.allow_tf32 = bool(spec.tf32)
    torch.backends.cudnn.allow_tf32 = spec.tf32 is not False
    if spec.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
    torch.backends.cudnn.deterministic = spec.deterministic
    if torch.are_deterministic_algorithms_enabled() != spec.deterministic:  # setting it imports inductor, seconds
        torch.use_deterministic_algorithms(spec.deterministic)


@contextmanager
def reproducible_errors() -> Iterator[None]:
    """KDError where PyTorch refuses an operation because it is not reproducible on this device."""
    try:
        yield
    except RuntimeError as error:
        if not torch.are_deterministic_algorithms_enabled() or "deterministic" not in str(error):
            raise
        what = str(error).split(" does not have", 1)[0]
        hint = "write `deterministic: false`: a resumed run may then differ in the last bits"
        raise KDError(f"{what} is not reproducible here", path="runtime.deterministic", hint=hint) from error


class Runtime:
    """Where and how a run computes."""

    def __init__(self, spec: RuntimeSpec, *, fixed_shapes: bool = True) -> None:
        """``fixed_shapes`` is whether most batches have the same shape: no graph is taken for others."""
        self.spec, self._fixed_shapes = spec, fixed_shapes
        if spec.device not in ("auto", "cpu") and not getattr(torch, spec.device).is_available():
            raise KDError(f"there is no {spec.device} device here", path="runtime.device")
        if spec.cuda_graphs and (not spec.compile or spec.device == "cpu" or not torch.cuda.is_available()):
            missing = "a CUDA device" if spec.compile else "compiled models: `compile` names none"
            raise KDError(f"CUDA graphs need {missing}", path="runtime.cuda_graphs")
        if spec.cpu_kernels and on_cpu(spec.device) and not can_build():
            hint = "install g++ on a Linux (the variable CXX may name another compiler), or leave the key out"
            raise KDError("there is no C++ compiler here", path="runtime.cpu_kernels", hint=hint)
        set_arithmetic(spec)
        AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
        self._accelerator = Accelerator(
            cpu=on_cpu(spec.device),
            mixed_precision=PRECISIONS[spec.precision],
        )
        self.device = self._accelerator.device
        if self.device.type == "cpu" and spec.precision == "fp16":  # of which accelerate makes float32 without a word
            raise KDError("fp16 needs a GPU", path="runtime.precision", hint="write `bf16`, or `fp32`")
        if self.sharded and not self._accelerator.is_fsdp2:
            raise KDError("parameters are sharded by FSDP2 only", hint="accelerate launch --fsdp_version 2")
        self._graphs = False
        self.keeps_graphs = False
        """Whether the graph of a step is walked more than once, as for the gradients of single terms."""
        if self.device.type == "cpu":
            keep_memory()
        use_kernels(bool(spec.cpu_kernels) and self.device.type == "cpu")
        if self.device.type == "cuda":
            torch.cuda.init()  # what reads samples sees from it that their memory is to be pinned

    @property
    def sharded(self) -> bool:
        """Whether parameters are spread over processes, as ``accelerate launch --use_fsdp`` asks."""
        return self._accelerator.distributed_type == DistributedType.FSDP

    def place(self, model: nn.Module, name: str | None = None) -> nn.Module:
        """A model on the device, in the runtime's memory format, with the layers that its precision and name want."""
        kernels = self.device.type == "cpu" and name in self.spec.cpu_kernels
        if self.device.type == "cpu" and self.spec.precision == "bf16":
            patch_depthwise_convs(model, kernels=kernels)
        if kernels:
            patch_norms(model)
            patch_pools(model)
            patch_dropouts(model)
            patch_attention(model)
            patch_classifiers(model)
        if self.spec.channels_last:
            return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model.to(self.device)

    def optimize_for_inference(self, model: nn.Module, taps: Collection[Tap]) -> nn.Module:
        """A frozen model as it is run: with ``fuse_bn`` a copy with folded batch norms and weights in the precision."""
        if not self.spec.fuse_bn:
            return model
        cheap = folded(model, taps)
        if self.spec.precision == "bf16":
            halve(cheap)
        return self.place(cheap)

    def scored(self, model: nn.Module) -> nn.Module:
        """A model as its outputs are scored: itself, or with ``fuse_bn`` a copy whose norms are folded."""
        return self.optimize_for_inference(model, ()) if has_norms(model) and not self.sharded else model

    def traces(self, name: str, model: nn.Module, *, learns: bool) -> bool:
        """Whether torch.compile takes a graph of a model: to compile it, or to put kernels for a CPU into it."""
        named = name in self.spec.cpu_kernels and learns and self.device.type == "cpu"
        return (named and self._fixed_shapes and gains(model)) or name in self.spec.compile

    def compile(
        self, wrapped: Mapping[str, ForwardWrapper], learning: Collection[str] = (), *, micro_batches: int = 1
    ) -> None:
        """Compile those models of a stage that the spec names, in place; some of them are ``learning``.

        Code of the stage before is dropped: it may hold, as constants, weights that have been trained since. A CUDA
        graph writes what it gives to the same memory each time: not where a step has several passes, which all stay.
        """
        alone = micro_batches == 1 and not self.keeps_graphs and self._accelerator.num_processes == 1
        self._graphs = self.spec.cuda_graphs and alone
        named = {
            name: target.module
            for name, target in wrapped.items()
            if self.traces(name, target.module, learns=name in learning)
        }
        if named:
            torch._dynamo.reset()
            if self.keeps_graphs:
                from torch._functorch import config as functorch
                from torch._inductor import config as inductor

                # Compiled code that overwrites what a graph saved gives wrong gradients the second time the graph is
                # walked, and PyTorch's caches return such code whatever `donated_buffer` says now.
                functorch.donated_buffer = functorch.enable_autograd_cache = inductor.fx_graph_cache = False
            if self.device.type == "cpu":  # compiled, its backward pass takes ten times as long
                torch._dynamo.disallow_in_graph(nn.functional.interpolate)
        for name, module in named.items():
            module.compile(dynamic=False, **self._how(name, learns=name in learning))

    def _how(self, name: str, *, learns: bool) -> dict[str, Any]:
        """torch.compile's options for a model."""
        if self._graphs:
            return {"mode": "reduce-overhead"}
        if self.device.type != "cpu" or not learns or name not in self.spec.cpu_kernels:
            return {}
        from kd_core.device.kernels.graphs import backend

        library("norm")  # built now: an error of the compiler belongs to the beginning of a run
        return {"backend": partial(backend, inductor=name in self.spec.compile)}

    def begin_step(self) -> None:
        """What CUDA graphs gave in the step before is not needed any more."""
        if self._graphs:
            torch.compiler.cudagraph_mark_step_begin()

    def inference(self) -> AbstractContextManager[Any]:
        """For the passes of frozen models: their weights become constants of compiled code, laid out for it."""
        if not self.spec.compile:
            return nullcontext()
        from torch._inductor import config as inductor  # a second, which runs that compile nothing are spared

        return inductor.patch(freezing=True)

    def compiled(self, *, usual: bool) -> AbstractContextManager[Any]:
        """With compiled code for batches of the usual size; others are not worth compiling for."""
        traced = self.spec.compile or (self.spec.cpu_kernels and self.device.type == "cpu")
        return torch.compiler.set_stance("default" if usual else "force_eager") if traced else nullcontext()

    def format(self, batch: Batch) -> Batch:
        """A prepared batch with its images in the runtime's memory format."""
        if not self.spec.channels_last:
            return batch
        return Batch(map_tensors(_channels_last, batch.inputs), batch.target, batch.index, batch.extra)

    def prepare(self, step: nn.Module, optimizer: Optimizer, *, unused: bool = False) -> tuple[nn.Module, Optimizer]:
        """The step as accelerate wraps it (DDP or FSDP, precision), and its optimiser, wrapped if gradients are scaled.

        ``unused`` tells DDP that some parameters that learn get no gradient, which it looks for in every step then.
        Accelerate's wrapper of an optimiser looks for installed packages in each step, which takes a millisecond.
        """
        self._accelerator.ddp_handler = DistributedDataParallelKwargs(
            broadcast_buffers=False, find_unused_parameters=unused
        )
        with warnings.catch_warnings():  # torch 2.14 renames the option, which accelerate passes on by its old name
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
            module, wrapped = self._accelerator.prepare(step, optimizer)
        return module, wrapped if self._accelerator.scaler is not None else wrapped.optimizer

    def release(self) -> None:
        """Forget the prepared objects of a stage."""
        self._accelerator.free_memory()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision for what is not prepared: teachers and evaluation."""
        return self._accelerator.autocast() if self.spec.precision != "fp32" else nullcontext()

    def no_sync(self, step: nn.Module, *, sync: bool) -> AbstractContextManager[Any]:
        """Without exchange of gradients unless ``sync``: all micro-batches but the last."""
        return nullcontext() if sync else self._accelerator.no_sync(step)

    def backward(self, loss: Tensor) -> None:
        """Gradients of a (scaled) loss."""
        self._accelerator.backward(loss)

    def clip(self, parameters: list[nn.Parameter], norm: float | None, value: float | None) -> Tensor | None:
        """Clip gradients in place, by their common norm or each by value; the norm before, where it is limited."""
        before = None
        if norm is not None:
            before = self._accelerator.clip_grad_norm_(parameters, norm)
            before = full_state_dict(before)
        if value is not None:
            self._accelerator.clip_grad_value_(parameters, value)
        return before

    def scaler_state(self) -> dict[str, Any]:
        """The state of fp16's gradient scaler, empty without one."""
        return self._accelerator.scaler.state_dict() if self._accelerator.scaler is not None else {}

    def load_scaler_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`scaler_state` gave."""
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
