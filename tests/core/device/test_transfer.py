"""What goes between the host and a GPU; streams and events are stand-ins here, and PyTorch's where there is a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_core.data.batch import Batch
from kd_core.device import transfer
from kd_core.device.transfer import Arrival, on_device
from kd_core.errors import KDError
from kd_core.train.meter import LossMeter


def batches(count: int, said: list[str] | None = None) -> Iterator[Batch]:
    for number in range(count):
        if said is not None:
            said.append(f"read {number}")
        yield Batch({"": torch.full((2, 3), float(number))}, torch.tensor([number, 0]), torch.tensor([0, 1]))


def test_on_the_cpu_nothing_is_read_early() -> None:
    said: list[str] = []
    for number, (raw, batch) in enumerate(on_device(batches(3, said), torch.device("cpu"))):
        said.append(f"used {number}")
        assert torch.equal(batch.target, raw.target)
        assert batch.known_target is raw.target
    assert said == ["read 0", "used 0", "read 1", "used 1", "read 2", "used 2"]


class Stream:
    """A stream that tells for what it waits."""

    said: list[str]

    def wait_event(self, event: Any) -> None:
        self.said.append(f"wait for copy {event.number}")


class Event:
    """An event with a number."""

    made = 0

    def __init__(self) -> None:
        self.number, Event.made = Event.made, Event.made + 1

    def record(self, stream: Any) -> None:
        """Nothing is queued here."""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens, in order, where tensors go to a GPU that is not there: they stay."""
    said: list[str] = []
    Event.made, stream = 0, Stream()
    stream.said = said
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(transfer, "_pinned", lambda tensor: tensor)
    monkeypatch.setattr(Batch, "to", lambda self, device: self)
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: None, raising=False)
    return said


def test_the_next_batch_is_copied_before_one_is_used(said: list[str]) -> None:
    for number, (raw, batch) in enumerate(on_device(batches(3, said), torch.device("cuda"))):
        said.append(f"use {number}")
        assert torch.equal(batch.inputs[""], raw.inputs[""])
        assert batch.known_target is raw.target
    first, last = ["read 0", "read 1", "wait for copy 0", "use 0"], ["wait for copy 2", "use 2"]
    assert said == [*first, "read 2", "wait for copy 1", "use 1", *last]


def test_no_batch_and_one_batch(said: list[str]) -> None:
    assert not list(on_device(batches(0), torch.device("cuda")))
    assert len(list(on_device(batches(1), torch.device("cuda")))) == 1


def test_losses_are_read_one_step_late_by_what_was_sent_then(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    class Sent(Arrival):
        def __init__(self, tensor: Tensor) -> None:
            super().__init__(tensor)
            self.value = float(tensor[0])
            said.append(f"send {self.value}")

        def get(self) -> Tensor:
            said.append(f"get {self.value}")
            return super().get()

    monkeypatch.setattr("kd_core.train.meter.Arrival", Sent)
    meter = LossMeter("train", ["ce"], torch.device("cpu"))
    for step, value in enumerate((1.0, float("nan"))):
        meter.add(step, torch.full((2,), value, dtype=torch.float64), torch.tensor([4, 7]), 2)
    with pytest.raises(KDError, match=r"step 1: not finite: ce, the weighted sum\s+the batch's indices: 4, 7"):
        meter.check_finite()
    assert said == ["send 1.0", "send nan", "get 1.0", "get nan"]
    meter.add(2, torch.full((2,), torch.inf, dtype=torch.float64), torch.tensor([4, 7]), 2)
    with pytest.raises(KDError, match="where the student masks a class"):
        meter.check_finite()


@pytest.mark.gpu
def test_a_gpu_gets_the_batches_and_what_it_sends_arrives() -> None:
    device = torch.device("cuda")
    for raw, batch in on_device(batches(3), device):
        assert batch.target.is_cuda
        assert torch.equal(batch.inputs[""].cpu(), raw.inputs[""])
    torch.cuda.set_sync_debug_mode("error")
    try:
        sent = Arrival(torch.ones(3, device=device))
        assert sent.get().tolist() == [1.0, 1.0, 1.0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
