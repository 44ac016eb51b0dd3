"""What goes between the host and a GPU without either waiting for the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from kd_core.data.batch import Batch


class Arrival:
    """A small tensor on its way to the host. :meth:`get` waits for it alone, not for what was queued after it.

    Reading the tensor itself would wait for all that the device has been given by then.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._value = tensor
        if tensor.is_cuda:
            self._value = torch.empty_like(tensor, device="cpu", pin_memory=True)
            self._value.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))

    def get(self) -> Tensor:
        """The tensor, on the CPU where it came from a GPU."""
        if self._event is not None:
            self._event.synchronize()
        return self._value


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[tuple[Batch, Batch]]:
    """Each batch as it is and on ``device``.

    To a GPU the next batch is copied, on a stream of its own and from pinned memory, while one is computed on: it is
    read one step early. Elsewhere nothing is read early.
    """
    if device.type != "cuda":
        for batch in batches:
            yield batch, batch.to(device)
        return
    copying = torch.cuda.Stream(device)
    ahead: tuple[Batch, Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(copying):
            following = batch, batch.map(_pinned).to(device), torch.cuda.Event()
            following[2].record(copying)
        if ahead is not None:
            yield _arrived(*ahead, device)
        ahead = following
    if ahead is not None:
        yield _arrived(*ahead, device)


def _pinned(tensor: Tensor) -> Tensor:
    """The tensor in memory that the device reads by itself."""
    return tensor if tensor.is_cuda or tensor.is_pinned() else tensor.pin_memory()


def _arrived(raw: Batch, copied: Batch, event: torch.cuda.Event, device: torch.device) -> tuple[Batch, Batch]:
    """A batch and its copy, which the stream of the computation may use: that waits for the copy, the host does not."""
    current = torch.cuda.current_stream(device)
    current.wait_event(event)

    def used(tensor: Tensor) -> Tensor:
        tensor.record_stream(current)  # its memory is not given to the next copy before this stream is done with it
        return tensor

    return raw, replace(copied.map(used), known_target=raw.target)
