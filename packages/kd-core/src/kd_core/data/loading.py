"""Samples that are read one by one, by processes that live as long as the split they read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kd_core.data.rng import derive_key
from kd_core.data.showings import AGAIN
from kd_core.data.workers import available_cores, start_worker
from kd_core.errors import KDError, RunInterrupted

T = TypeVar("T")
"""A sample, as it is read."""
B = TypeVar("B")
"""A batch, as it is handed over from process to process."""
DYING = 2.0
"""Seconds that a killed process may take to end after its connection broke."""


class SampleReader(Generic[T, B]):
    """How the samples of a split are read. It is copied into each process, and must be picklable."""

    def sample(self, position: int, *, seed: int, epoch: int, augment: bool) -> T:
        """The sample at a position of the split, a pure function of all that it gets; KDError where it is broken."""
        raise NotImplementedError

    def name(self, position: int) -> str:
        """What an error calls a sample whose file the system cannot read."""
        raise NotImplementedError

    def collate(self, samples: Sequence[T]) -> B:
        """The samples as a batch; KDError where they do not go together."""
        raise NotImplementedError


@dataclass(frozen=True)
class Request:
    """The samples of one batch, which may be marked as shown again, and what is to be done to them."""

    positions: list[int]
    seed: int
    epoch: int
    augment: bool


@dataclass(frozen=True)
class _Requested(Dataset[Any]):
    """Requests -> batches, or what is wrong with one: an exception would lose its type on the way out of a process."""

    reader: SampleReader[Any, Any]

    def __getitem__(self, request: Request) -> Any:
        try:
            return self.reader.collate([self._sample(position, request) for position in request.positions])
        except KDError as error:
            return error

    def _sample(self, marked: int, request: Request) -> Any:
        again, position = divmod(marked, AGAIN)
        seed = derive_key("again", request.seed, again) if again else request.seed
        try:
            return self.reader.sample(position, seed=seed, epoch=request.epoch, augment=request.augment)
        except OSError as error:
            raise KDError(f"{self.reader.name(position)}: {error}") from error
        except StopIteration as error:  # which would end the epoch without a word
            raise RuntimeError(f"{self.reader.name(position)}: the reader raised StopIteration") from error


class _Queue:
    """The requests that a loader is to answer now: a sampler whose content is replaced with every epoch."""

    def __init__(self) -> None:
        self.requests: Iterator[Request] = iter(())

    def __iter__(self) -> Iterator[Request]:
        return self.requests


class SampleLoader(Generic[B]):
    """Batches of samples, read by ``workers`` processes or, with 0, by this one; None: as many as there are cores.

    The processes are started by the first batch that is asked for and live until :meth:`close`, or until nothing refers
    to the loader any more. An iterator over batches may be abandoned. While one is in use, a second one gets processes
    of its own, which end with it.
    """

    def __init__(self, reader: SampleReader[Any, B], workers: int | None) -> None:
        self.reader = reader
        self.workers = available_cores() if workers is None else workers
        self._queue = _Queue()
        self._loader: DataLoader[Any] | None = None
        self._busy = False

    def batches(self, order: Iterable[Tensor], *, seed: int, epoch: int, augment: bool) -> Iterator[B]:
        """A batch for each tensor of positions in ``order``, which is read ahead where there are processes.

        KDError, as it was raised, for a sample that cannot be read, and for a process that is killed.
        """
        requests = (Request(positions.tolist(), seed, epoch, augment) for positions in order)
        if self._busy or not self.workers:
            queue = _Queue()
            queue.requests = requests
            batches = iter(self._made(queue, persistent=False))
            try:
                yield from _checked(batches)
            finally:
                _end(batches)
            return
        self._busy = True
        self._queue.requests = requests
        try:
            if self._loader is None:
                self._loader = self._made(self._queue, persistent=True)
            yield from _checked(iter(self._loader))
        except GeneratorExit:
            raise
        except BaseException as error:
            self.close()  # what is left of the processes is in no known state
            if _of_torch(error):
                raise _killed() from error
            raise
        finally:
            self._queue.requests = iter(())
            self._busy = False

    def _made(self, queue: _Queue, *, persistent: bool) -> DataLoader[Any]:
        return DataLoader(
            _Requested(self.reader),
            sampler=queue,
            batch_size=None,
            collate_fn=_same,
            num_workers=self.workers,
            worker_init_fn=start_worker,
            pin_memory=torch.cuda.is_initialized(),  # a run on the CPU leaves a GPU alone
            generator=torch.Generator(),  # else it draws from the global one
            persistent_workers=persistent,
        )

    def close(self) -> None:
        """End the processes. They are started anew where batches are asked for again."""
        if self._loader is not None:
            _end(self._loader._iterator)
        self._loader = None


def _checked(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches; KDError in place of one that could not be read, and where a process is lost."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except Exception as error:  # what a killed process leaves behind can raise nearly anything
            if not _lost(batches, error):
                raise
            raise _killed() from error
        if isinstance(batch, KDError):
            raise batch
        yield batch


def _lost(batches: Any, error: Exception) -> bool:
    """Whether one of the processes of an iterator is gone, after an error of which that may be the cause."""
    sentinels = [worker.sentinel for worker in getattr(batches, "_workers", ())]
    try:
        return bool(sentinels and wait(sentinels, timeout=DYING if isinstance(error, (OSError, EOFError)) else 0))
    except RuntimeError:  # torch's handler of SIGCHLD, which tells the same
        return True


@contextmanager
def lost_worker_errors() -> Iterator[None]:
    """KDError where a process that reads samples was killed while the block did something else."""
    try:
        yield
    except RuntimeError as error:
        if not _of_torch(error):
            raise
        raise _killed() from error


def _of_torch(error: BaseException) -> bool:
    """Whether torch's handler of SIGCHLD raised an error, which it does wherever the run is just then."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid")


def _killed() -> RunInterrupted:
    hint = "memory may have run out: try fewer data.workers, or 0 to read in the run itself"
    return RunInterrupted("a process that reads samples was killed", hint=hint, path="data.workers")


def _end(batches: Any) -> None:
    """End the processes of an iterator now, whatever still refers to it: a traceback does."""
    shut_down = getattr(batches, "_shutdown_workers", None)
    if shut_down is not None:
        with suppress(RuntimeError):  # as above
            shut_down()


def _same(batch: B) -> B:
    return batch
