"""Several processes working on one batch: who has which rows, and how values come together.

With one process every function here is the identity. Collective functions must be reached by all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kd_core.errors import KDError, RunInterrupted
from kd_core.taps.nested import map_tensors, tensors

T = TypeVar("T")


def world_size() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def even_slices(total: int, parts: int) -> list[slice]:
    """``range(total)`` in ``parts`` consecutive slices whose sizes are equal to within one; some may be empty."""
    bounds = [round(part * total / parts) for part in range(parts + 1)]
    return [slice(low, high) for low, high in pairwise(bounds)]


@dataclass(frozen=True)
class MicroBatchShard:
    """What one process's micro-batch counts in its batch: ``rows`` of each process, ``total`` rows in all.

    A process without rows of its own computes on one that counts nothing, so that it takes part in every exchange.
    """

    rows: tuple[int, ...]
    total: int

    @property
    def local_rows(self) -> int:
        """The rows that this process computes on."""
        return max(self.rows[rank()], 1)

    @property
    def local_scale(self) -> float:
        """The factor of a mean over this process's samples; the mean over processes is taken with the gradients."""
        return self.rows[rank()] / self.total * len(self.rows)

    @property
    def global_scale(self) -> float:
        """The factor of a loss that every process computes over the rows of all."""
        return sum(self.rows) / self.total


SINGLE_PROCESS = MicroBatchShard((1,), 1)
"""One process, one micro-batch."""


def divide(positions: Tensor, accumulate: int) -> tuple[list[Tensor], list[MicroBatchShard]]:
    """This process's rows of each micro-batch of a batch, and what they count."""
    local, shards = [], []
    for micro in (positions[part] for part in even_slices(len(positions), accumulate)):
        if len(micro):
            slices = even_slices(len(micro), world_size())
            mine = micro[slices[rank()]]
            local.append(mine if len(mine) else micro[:1])
            shards.append(MicroBatchShard(tuple(rows.stop - rows.start for rows in slices), len(positions)))
    return local, shards


def epoch_batches(
    order: Tensor, batch_size: int, *, accumulate: int = 1, first: int = 0, stop: int | None = None
) -> Iterator[tuple[list[Tensor], list[MicroBatchShard]]]:
    """What :func:`divide` gives for each batch of an ``order`` (N,), from batch ``first`` to before ``stop``.

    Batches are cut when they are asked for: an epoch of ten million samples begins as fast as one of a thousand.
    """
    end = len(order) if stop is None else min(stop * batch_size, len(order))
    for start in range(first * batch_size, end, batch_size):
        yield divide(order[start : start + batch_size], accumulate)


class _Gather(torch.autograd.Function):
    """The rows of all processes in order; the gradient of a row comes from every process's use of it."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes, ctx.length = sizes, len(tensor)
        padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
        padded[: sizes[rank()]] = tensor[: sizes[rank()]]
        gathered = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(gathered, padded)
        return torch.cat([rows[:size] for rows, size in zip(gathered, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """This process's rows of the gradient, summed over all processes; None for the lengths."""
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        start, size = sum(ctx.sizes[: rank()]), ctx.sizes[rank()]
        local = gradient.new_zeros(ctx.length, *gradient.shape[1:])
        local[:size] = gradient[start : start + size]
        return local, None


def alike(tensor: Tensor) -> Tensor:
    """A tensor (B, ...) with zeros at the end of dimensions that are longer in another process, as of padded texts."""
    if tensor.dim() < 2:
        return tensor
    own = torch.tensor(tensor.shape[1:], device=tensor.device)
    lengths = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(lengths, own)
    missing = (torch.stack(lengths).amax(0) - own).tolist()
    return (
        nn.functional.pad(tensor, [end for size in reversed(missing) for end in (0, size)]) if any(missing) else tensor
    )


def gather(value: Any, sizes: Sequence[int]) -> Any:
    """Tensors nested in ``value`` with the rows of all processes, which have ``sizes`` samples; gradients flow.

    Where a stage has views, a sample has several rows. Texts that are padded to several lengths are padded further,
    with zeros: a loss that looks at positions needs the mask.
    """
    if world_size() == 1:
        return value

    def gathered(tensor: Tensor) -> Tensor:
        views = len(tensor) // max(sizes[rank()], 1) if tensor.dim() else 0
        return _Gather.apply(alike(tensor), [size * views for size in sizes]) if views else tensor

    return map_tensors(gathered, value)


def gather_samples(value: Any, sizes: Sequence[int]) -> Any:
    """The same for a part of a batch, in which a list may have one value a sample: its items come without gradients.

    An item is anything that can be pickled: the boxes of an image, of which each has its own number.
    """
    if world_size() == 1:
        return value
    if isinstance(value, Mapping):
        return {key: gather_samples(item, sizes) for key, item in value.items()}
    count = max(sizes[rank()], 1)
    if not isinstance(value, (list, tuple)) or hasattr(value, "_fields") or not value or len(value) % count:
        return gather(value, sizes)
    views = len(value) // count
    device = next((tensor.device for tensor in tensors(value)), None)
    items = map_tensors(lambda tensor: tensor.detach().cpu(), list(value)[: sizes[rank()] * views])
    gathered = [item for items in all_gather_object(items) for item in items]
    return map_tensors(lambda tensor: tensor.to(device), gathered)


def own_rows(value: Any, sizes: Sequence[int]) -> Any:
    """Of what :func:`gather` gave, or what was computed from it row by row, the rows of this process.

    Tensors without a row for each sample, and everything else, stay whole. A process without samples gets the first
    row, as in :class:`MicroBatchShard`.
    """
    total, size = sum(sizes), max(sizes[rank()], 1)
    start = sum(sizes[: rank()]) if sizes[rank()] else 0

    def cut(tensor: Tensor) -> Tensor:
        if not tensor.dim() or not len(tensor) or len(tensor) % total:
            return tensor
        views = len(tensor) // total
        return tensor[start * views : (start + size) * views]

    return value if world_size() == 1 else map_tensors(cut, value)


def all_reduce_sum_(tensor: Tensor) -> Tensor:
    """The sum over processes, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def padded_to_largest(tensor: Tensor) -> Tensor:
    """A tensor with zeros after its own values, as large in every dimension as that of any process."""
    shapes = all_gather_object(tuple(tensor.shape))
    largest = tuple(map(max, *shapes)) if len({len(shape) for shape in shapes}) == 1 and len(shapes) > 1 else None
    if largest is None and len(set(shapes)) > 1:
        raise KDError(f"processes cannot add up tensors of shapes {', '.join(map(str, shapes))}")
    if largest is None or largest == tuple(tensor.shape):
        return tensor
    padded = tensor.new_zeros(largest)
    padded[tuple(map(slice, tensor.shape))] = tensor
    return padded


class Processes:
    """The processes of this run, as :meth:`kd_core.task.Metrics.reduce` gets them."""

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, wherever its device can exchange.

        It is in place where all have one shape. A process without samples may know less of it: smaller tensors are
        first made as large as the largest, with zeros.
        """
        tensor = padded_to_largest(tensor)
        if world_size() > 1 and tensor.device.type == "cpu" and dist.get_backend() != "gloo":
            # a process without samples has its counts on the CPU, from which nccl takes nothing
            return tensor.copy_(all_reduce_sum_(tensor.cuda()))
        return all_reduce_sum_(tensor)

    def gather_objects(self, value: Any) -> list[Any]:
        """The value of every process, in the order of their ranks: anything that can be pickled."""
        return all_gather_object(value)


def broadcast_buffers(modules: Iterable[nn.Module]) -> None:
    """Give every process the first one's buffers: batch statistics are each one's own while it trains."""
    if world_size() > 1:
        for module in modules:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)


def all_gather_object(value: T) -> list[T]:
    """The value of every process, by its number."""
    if world_size() == 1:
        return [value]
    objects: list[Any] = [None] * world_size()
    dist.all_gather_object(objects, value)
    return objects


@contextmanager
def lost_peer_errors() -> Iterator[None]:
    """RunInterrupted where another process of the run is gone."""
    try:
        yield
    except RuntimeError as error:  # gloo's errors have no class of their own
        if world_size() > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise RunInterrupted("another process of this run is gone") from error
        raise


@contextmanager
def main_first() -> Iterator[None]:
    """The first process does it before the others begin: what it downloads is there for them."""
    if world_size() > 1 and rank():
        barrier()
    try:
        yield
    finally:
        if world_size() > 1 and not rank():
            barrier()


def barrier() -> None:
    """Wait for all processes. NCCL, which meets on a GPU, is told which: it would guess one by the rank."""
    nccl = dist.get_backend() == "nccl"
    dist.barrier(device_ids=[torch.cuda.current_device()] if nccl else None)


def run_on_rank_zero(function: Callable[[], T]) -> T:
    """The result of a function that only the first process calls; a KDError there is one everywhere."""
    if world_size() == 1:
        return function()
    box: list[Any] = [None]
    if rank() == 0:
        try:
            box = [(function(), None)]
        except KDError as error:
            box = [(None, error)]
    dist.broadcast_object_list(box)
    result, failure = box[0]
    if failure is not None:
        raise failure
    return result
