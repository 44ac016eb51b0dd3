"""Checkpoints that are whole or recognised as broken, and the state of every random generator."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from kd_core.errors import KDError, RunInterrupted
from kd_core.files import disk_error, remove_leftovers, write_errors, write_whole

SHARDS = ".shards"
NAME = re.compile(r"(step|best)-(\d{8,})-([0-9a-f]{16})\.pt")


@dataclass(frozen=True)
class Checkpoint:
    """A file ``step-00000123-<first 16 hex digits of its SHA-256>.pt``; its name says what it must hold."""

    path: Path
    kind: str
    step: int
    digest: str

    @classmethod
    def of(cls, path: Path) -> Checkpoint | None:
        """The checkpoint that ``path`` is by its name, else None."""
        match = NAME.fullmatch(path.name)
        return cls(path, match[1], int(match[2]), match[3]) if match else None

    def corruption(self) -> str | None:
        """What is wrong with the file, None if it is what was written."""
        try:
            size = self.path.stat().st_size
            if _digest(self.path) == self.digest:
                return None
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        return "is empty" if size == 0 else f"is damaged: its {size} bytes do not have the checksum in its name"

    def load(self) -> dict[str, Any]:
        """The state, on the CPU; KDError where the file, whole as it is, is no checkpoint."""
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # what torch.save did not write makes torch's unpickler raise anything
            raise KDError(f"{self.path} is not a checkpoint: torch cannot read it") from error
        if not isinstance(state, dict):
            raise KDError(f"{self.path} is not a checkpoint: it holds a {type(state).__name__}")
        return state


def shards_fault(folder: Path, state: Mapping[str, Any]) -> str | None:
    """What is wrong with the shards of a checkpoint in ``folder``, None where all are there and whole."""
    told = state.get("shards")
    if told is None:
        return None
    place = folder / str(told["folder"])
    if place.parent != folder or not place.is_dir():
        return f"has lost its shards {place.name}"
    damaged = [name for name, digest in told["files"].items() if not _is_whole(place / name, digest)]
    return f"has damaged shards: {place.name}/{damaged[0]}" if damaged else None


def _is_whole(path: Path, digest: str) -> bool:
    return path.is_file() and _sha256(path) == digest


class CheckpointStore:
    """The checkpoints in one folder: the newest ``keep`` and the best one.

    One process writes. A state is a mapping of tensors and plain values that ``torch.load(weights_only=True)``
    reads; a step counts optimiser steps from the start of the run, over all stages.
    """

    def __init__(self, folder: Path, keep: int = 3) -> None:
        assert keep >= 1
        self.folder = folder
        self.keep = keep
        self._broken: set[Path] = set()

    def save(self, state: Mapping[str, Any], step: int) -> Path:
        """Write ``state``, then forget older ones; KDError, with the last one intact, where it cannot be written."""
        path = self._write("step", state, step)
        older = [
            checkpoint
            for checkpoint in self._found("step")
            if checkpoint.path != path and checkpoint.path not in self._broken
        ]
        # A checkpoint of a later step is from before a resume that went back behind it.
        recent = [checkpoint for checkpoint in older if checkpoint.step < step][: self.keep - 1]
        self._remove(
            checkpoint.path
            for checkpoint in self._found("step")
            if checkpoint.path != path and checkpoint not in recent
        )
        self._remove_shards({checkpoint.step for checkpoint in recent}, state.get("shards", {}).get("folder"))
        return path

    def shards_folder(self, step: int) -> Path:
        """A new folder for the parts of a checkpoint that each process writes itself."""
        with write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(SHARDS, f"step-{step:08d}-", self.folder))

    def forget_shards(self) -> None:
        """Remove the shards of checkpoints that are gone."""
        self._remove_shards({checkpoint.step for checkpoint in self._found("step")})

    def _remove_shards(self, steps: Collection[int], own: str | None = None) -> None:
        """Remove the folders of shards but those of some steps' checkpoints and the one called ``own``."""
        for folder in self.folder.glob(f"step-*{SHARDS}"):
            if folder.name != own and int(folder.name.split("-")[1]) not in steps:
                shutil.rmtree(folder, ignore_errors=True)

    def save_best(self, state: Mapping[str, Any], step: int) -> Path:
        """Write ``state`` as the best one, in place of the one before."""
        path = self._write("best", state, step)
        self._remove(checkpoint.path for checkpoint in self._found("best") if checkpoint.path != path)
        return path

    def surplus(self, keep: int) -> list[Path]:
        """The files that a finished run can do without: all but the newest ``keep``, and the best students.

        The best student of a finished run is its student.
        """
        return [checkpoint.path for checkpoint in (*self._found("step")[keep:], *self._found("best"))]

    def forget(self, keep: int) -> None:
        """Remove what a finished run can do without, and the folder where nothing stays in it.

        A file that cannot be removed stays: the run is finished all the same.
        """
        with suppress(OSError):
            self._remove(self.surplus(keep))
            self.forget_shards()
            if self.folder.is_dir() and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def has_any(self) -> bool:
        """Whether there is a checkpoint to go on from, whole or broken."""
        return bool(self._found("step"))

    def latest(self, log: Callable[[str], None]) -> tuple[dict[str, Any], Path] | None:
        """The newest whole checkpoint, None where there is none; ``log`` gets a line for each broken one passed over.

        KDError where there are some and all are broken.
        """
        faults = []
        for checkpoint in self._found("step"):
            fault = checkpoint.corruption()
            if fault is None:
                state = checkpoint.load()
                fault = shards_fault(self.folder, state)
            if fault is None:
                return state, checkpoint.path
            self._broken.add(checkpoint.path)
            faults.append(f"checkpoint {checkpoint.path} {fault}")
            log(f"warning: {faults[-1]}; trying the one before")
        if faults:
            raise KDError("\n".join(["no checkpoint is left that can be read:", *faults]))
        return None

    def _found(self, kind: str) -> list[Checkpoint]:
        """Newest first; of two of one step (a process was killed between writing and removing) the later written."""
        checkpoints = [
            checkpoint
            for checkpoint in map(Checkpoint.of, self.folder.glob("*.pt"))
            if checkpoint and checkpoint.kind == kind
        ]
        return sorted(
            checkpoints, key=lambda checkpoint: (checkpoint.step, checkpoint.path.stat().st_mtime_ns), reverse=True
        )

    def _write(self, kind: str, state: Mapping[str, Any], step: int) -> Path:
        def name(written: Path) -> str:
            if refused := get_unsafe_globals_in_checkpoint(written):
                raise KDError(f"a checkpoint holds tensors and plain values only, not {', '.join(sorted(refused))}")
            return f"{kind}-{step:08d}-{_digest(written)}.pt"

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.folder)
            return write_whole(self.folder, lambda file: torch.save(dict(state), file), name)
        except (OSError, RuntimeError) as error:
            reason = disk_error(error)
            if reason is None:
                raise
            last = next((f"; the last one is intact: {checkpoint.path}" for checkpoint in self._found(kind)), "")
            raise RunInterrupted(f"cannot write a checkpoint to {self.folder}: {reason}{last}") from error

    @staticmethod
    def _remove(paths: Iterable[Path]) -> None:
        for path in paths:
            path.unlink(missing_ok=True)


def _digest(path: Path) -> str:
    return _sha256(path)[:16]


def _sha256(path: Path) -> str:
    sha256 = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()


def rng_state() -> dict[str, Any]:
    """The state of every global generator, Python's, numpy's and torch's on each device, as plain values."""
    kind, keys, *rest = np.random.get_state()
    assert isinstance(keys, np.ndarray)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Go on where :func:`rng_state` was taken. Devices that are not there any more are left out."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    for device, generator in enumerate(state.get("cuda", [])[: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(generator, device)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])
