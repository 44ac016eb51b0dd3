"""The folder of one run: what it was asked, what it ran on, how it went, and the student it made."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psutil
from filelock import FileLock, Timeout

from kd_core.environment import environment
from kd_core.errors import KDError
from kd_core.files import json_text, remove_leftovers, write_text

if TYPE_CHECKING:
    from torch import nn


class RunFolder:
    """``runs/<name>/<time>-<seed>/``::

        config.yaml     the resolved config, which reruns the run
        manifest.json   versions, commit, hardware, seeds, data fingerprints, command
        metrics.jsonl   one JSON object a line
        log.txt         what was printed
        checkpoints/    see kd_core.checkpoint
        student/        model.safetensors, model.pt and model.yaml, which rebuilds the model
        README.md       the model card
        result.json     written last: a run that has it is finished

    The process that trains holds the folder's lock, from :meth:`create` or :meth:`lock` until the ``with`` block
    or the process ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.manifest = path / "manifest.json"
        self.metrics = MetricsLog(path / "metrics.jsonl")
        self.log = path / "log.txt"
        self.checkpoints = path / "checkpoints"
        self.student = path / "student"
        self.card = path / "README.md"
        self._result = path / "result.json"
        self._lock = FileLock(path / "lock")

    @classmethod
    def create(cls, name: str, seed: int, out: Path | None = None, *, root: Path = Path("runs")) -> RunFolder:
        """A new, locked folder: ``out`` itself, else one below ``root``; KDError where ``out`` holds anything."""
        try:
            run = cls(_new_folder(root / name, seed) if out is None else out)
            run.path.mkdir(parents=True, exist_ok=True)
            run.lock()
            if any(each.name != "lock" for each in run.path.iterdir()):
                run.release()
                raise KDError(
                    f"the run folder {out} is not empty\n    hint: name a new one, or go on with it by `resume {out}`"
                )
        except OSError as error:
            raise KDError(f"cannot make the run folder {error.filename or out}: {error.strerror}") from error
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run's folder, not locked; KDError where there is none."""
        if not (path / "config.yaml").is_file():
            what = "holds no config.yaml, so it is no run folder" if path.is_dir() else "is no folder"
            raise KDError(f"{path} {what}")
        return cls(path)

    def lock(self) -> RunFolder:
        """Take the folder for this process; KDError where another one that is alive has it."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            owner = self._owner()
            try:
                # The lock of a dead process is its worker processes', which leave within seconds.
                self._lock.acquire(timeout=0 if _alive(owner) else 15)
            except Timeout:
                raise KDError(f"another process ({owner}) is training in {self.path}") from None
        (self.path / "lock").write_text(f"{os.getpid()}\n")
        remove_leftovers(self.path)
        return self

    def release(self) -> None:
        """Let others take the folder."""
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self._result.is_file()

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result, which marks the run as finished."""
        write_text(self._result, json_text(result, indent=2) + "\n")

    def result(self) -> dict[str, Any]:
        """What :meth:`finish` was given; call it on a finished run only."""
        result: dict[str, Any] = json.loads(self._result.read_text(encoding="utf-8"))
        return result

    def write_config(self, text: str) -> None:
        """Write the resolved config."""
        write_text(self.config, text)

    def write_manifest(self, command: str, **facts: Any) -> None:
        """Write on what and how the run runs, with ``facts`` (seeds, data fingerprints); a resume is added below."""
        session = {"command": command, **environment()}
        if self.manifest.exists():
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
            manifest.setdefault("resumed", []).append(session)
        else:
            manifest = {**session, **facts}
        write_text(self.manifest, json_text(manifest, indent=2) + "\n")

    def export_student(self, module: nn.Module, description: str, metrics: Mapping[str, float], command: str) -> None:
        """Write ``student/`` and the model card. ``description`` is YAML that rebuilds the model."""
        from kd_core.student import model_card, write_student

        write_student(self.student, module, description)
        write_text(self.card, model_card(self.path.parent.name, metrics, description, command))

    def _owner(self) -> int:
        try:
            return int((self.path / "lock").read_text() or 0)
        except (OSError, ValueError):
            return 0


def _new_folder(parent: Path, seed: int) -> Path:
    """A folder that did not exist, named by the time and the seed."""
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{seed}"
    parent.mkdir(parents=True, exist_ok=True)
    for path in (parent / (f"{stem}-{again}" if again else stem) for again in itertools.count()):
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError


class MetricsLog:
    """``metrics.jsonl``: JSON objects, one a line, each written whole before the next step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json_text(record) + "\n")

    def offset(self) -> int:
        """The size in bytes, once all of it is on the disk: what a checkpoint notes."""
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        return self.path.stat().st_size

    def truncate_to(self, offset: int) -> None:
        """Cut back to what a checkpoint noted, and to whole lines: a killed process may leave half of one."""
        if not self.path.exists():
            return
        with self.path.open("r+b") as file:
            kept = file.read(offset)
            file.truncate(kept.rfind(b"\n") + 1)

    def read(self) -> list[dict[str, Any]]:
        """Every whole line."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _alive(pid: int) -> bool:
    return pid > 0 and psutil.pid_exists(pid)
