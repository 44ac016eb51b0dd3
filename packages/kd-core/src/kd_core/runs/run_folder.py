"""The folder of one run: what it was asked, what it ran on, how it went, and the student it made."""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from filelock import FileLock, Timeout

from kd_core.config import load
from kd_core.errors import KDError, RunInterrupted
from kd_core.files import is_leftover, json_text, refuse_links, remove_leftovers, write_text
from kd_core.runs.card import PROFILE, CardFacts, model_card
from kd_core.runs.environment import environment
from kd_core.runs.manifest import Manifest
from kd_core.runs.metrics_log import MetricsLog

PATIENCE = 15.0
"""Seconds that the workers of a process that died are waited for: they look for it every few seconds."""

LINEAGE = "lineage.json"
"""In the student's folder: what it was made from."""
LOCKS = (".lock", ".pid")
"""What a process that trains holds in the folder: no content."""
STUDY = "study.json"
"""In the folder above those of the runs of one study."""
DATA = " data: "
"""In a line of a run's log, before what it says of its data."""


class RunFolder:
    """``runs/<name>/<time>-<seed>/``::

        config.yaml     the resolved config, which reruns the run
        manifest.json   versions, commit, hardware, seeds, data fingerprints, command
        metrics.jsonl   one JSON object a line: each epoch and each validation
        steps.jsonl     the same: the losses of every so many steps
        trackers.json   where its figures also go, if anywhere
        log.txt         what was printed
        checkpoints/    see kd_core.runs.checkpoint
        student/        model.safetensors, model.yaml, which rebuilds the model, and lineage.json
        README.md       the model card
        classes.json    the figures of single classes, where the task has some
        result.json     written last: a run that has it is finished

    The process that trains holds the folder's lock, from :meth:`create` or :meth:`lock` until the ``with`` block
    or the process ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.manifest = path / "manifest.json"
        self.metrics = MetricsLog(path / "metrics.jsonl")
        self.steps = path / "steps.jsonl"
        self.log = path / "log.txt"
        self.checkpoints = path / "checkpoints"
        self.student = path / "student"
        self.card = path / "README.md"
        self.classes = path / "classes.json"
        self._result = path / "result.json"
        self._lock = FileLock(path / ".lock")
        self._pid = path / ".pid"
        self._new = self._made = False

    @classmethod
    def create(cls, name: str, seed: int, out: Path | None = None, *, root: Path = Path("runs")) -> RunFolder:
        """A new, locked folder: ``out`` itself, else one below ``root``; KDError where ``out`` holds anything.

        What a run that was killed before it began left there (a lock, half-written files) is nothing.
        """
        try:
            run = cls(_new_folder(root, name, seed) if out is None else out)
            run._made = out is None or not out.exists()
            run.path.mkdir(parents=True, exist_ok=True)
            run.refuse_content()
            try:
                return run.lock()
            except RunInterrupted:  # no room for its files
                run._remove()
                raise
        except OSError as error:
            raise KDError(f"cannot make the run folder {error.filename or out}: {error.strerror}") from error

    @classmethod
    def claim(cls, path: Path) -> RunFolder | None:
        """The locked folder of a run, begun or not; None where another process has it, which is not waited for."""
        run = cls(path)
        try:
            run._made = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            refuse_links(path)
            run._lock.acquire(timeout=0)
        except Timeout:
            return None
        except OSError as error:
            raise KDError(f"cannot lock {path}: {error.strerror}") from error
        try:
            if not run.config.exists():
                run.refuse_content()
            write_text(run._pid, str(os.getpid()))
            remove_leftovers(path)
        except BaseException:
            run.release()
            raise
        return run

    def refuse_content(self) -> None:
        """KDError where the folder of a run that has not begun holds anything."""
        if any(entry.name not in LOCKS and not is_leftover(entry) for entry in self.path.iterdir()):
            hint = "name a new one" + (f", or go on with its run: resume {self.path}" if self.config.exists() else "")
            raise KDError(f"the run folder {self.path} is not empty", hint=hint)
        self._new = True

    @property
    def locked(self) -> bool:
        """Whether this process holds the folder."""
        return self._lock.is_locked

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run's folder, not locked; KDError where there is none, or a part of it is of another kind."""
        run = cls(path)
        if not run.config.is_file():
            reason = "contains no config.yaml, so it is not a run folder" if path.is_dir() else "is not a run folder"
            hint = f"`train {path}` starts a run" if path.suffix in (".yaml", ".yml") and path.is_file() else None
            if path.is_dir() and any(entry.name in LOCKS or is_leftover(entry) for entry in path.iterdir()):
                hint = f"a run that was stopped before it began is started again: `train CONFIG --out {path}`"
            if (path / "model.yaml").is_file():
                hint = f"it holds a student alone: `eval CONFIG --set 'models.student={{run: {path}}}'` scores it"
            raise KDError(f"{path} {reason}", hint=hint)
        refuse_links(path)
        files = (run.manifest, run.metrics.path, run.steps, run.log, run.card, run.classes, run._result, run._pid)
        for part in files:
            if part.exists() and not part.is_file():
                raise KDError(f"{part} is not a file", hint="move it away")
        for part in (run.checkpoints, run.student):
            if part.exists() and not part.is_dir():
                raise KDError(f"{part} is not a folder", hint="move it away")
        return run

    def lock(self) -> RunFolder:
        """Take the folder for this process; KDError where another one that is alive has it, or a link leads out."""
        refuse_links(self.path)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            owner = self._owner()
            try:
                # The lock of a dead process is its worker processes', which leave within seconds.
                self._lock.acquire(timeout=0 if psutil.pid_exists(owner) else PATIENCE)
            except Timeout:
                raise KDError(f"another process ({owner}) is training in {self.path}") from None
        except OSError as error:
            raise KDError(f"cannot lock {self.path}: {error.strerror}") from error
        try:
            write_text(self._pid, str(os.getpid()))
            remove_leftovers(self.path)
        except BaseException:
            self._lock.release()
            raise
        return self

    def _owner(self) -> int:
        """The process that holds or held the folder, -1 where that is not known."""
        try:
            return int(self._pid.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return -1

    def release(self) -> None:
        """Let others take the folder."""
        self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Release the folder. Of a run that failed before its manifest was written, nothing stays."""
        if error is not None and self._new and not self.manifest.exists():
            self._remove()
        self.release()

    def _remove(self) -> None:
        """Remove what a run writes before its manifest, and the folder where this run made it and it is empty."""
        with suppress(OSError):
            remove_leftovers(self.path)
            for path in (self.config, self.log, self._pid, self.path / ".lock"):
                path.unlink(missing_ok=True)
            if self._made:
                self.path.rmdir()

    @property
    def finished(self) -> bool:
        """Whether the run has ended."""
        return self._result.is_file()

    @property
    def held(self) -> bool:
        """Whether a process that trains holds the folder. Nothing is written to find out."""
        if not Path(self._lock.lock_file).exists():
            return False
        try:
            with FileLock(self._lock.lock_file, timeout=0):
                return False
        except Timeout:
            return True

    def finish(self, result: Mapping[str, Any], pipeline_tag: str = "") -> None:
        """Write the model card and the result (``metrics``, ``split`` and more), which marks the run as finished.

        ``pipeline_tag`` is the hub's word for the task. The cards of finished runs of the same study that differ in the
        seed alone get the new mean.
        """
        siblings = self.siblings()
        self._write_card(result, pipeline_tag, siblings)
        write_text(self._result, json_text(result, indent=2) + "\n")
        for sibling in siblings:
            others = [run for run in siblings if run is not sibling]
            with suppress(KDError, OSError, ValueError):  # of a folder in which something is gone or damaged
                sibling._write_card(sibling.result(), pipeline_tag, [self, *others])

    def result(self) -> dict[str, Any]:
        """What :meth:`finish` was given; call it on a finished run only. KDError where the file is damaged."""
        try:
            result = json.loads(self._result.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            result = None
        if not is_result(result):
            hint = f"`eval {self.path}` scores the student again"
            if any(self.checkpoints.glob("step-*.pt")):
                hint = "delete it, and `resume` makes it again from the last checkpoint"
            raise KDError(f"{self._result} is damaged", hint=hint)
        return dict(result)

    def write_config(self, text: str) -> None:
        """Write the resolved config."""
        write_text(self.config, text)

    def write_manifest(
        self,
        command: str,
        facts: Mapping[str, Any] | None = None,
        *,
        accepted: Sequence[str] = (),
        **more: Any,
    ) -> None:
        """Write on what and how the run runs, with its ``facts`` (see :mod:`kd_core.runs.manifest`) and ``more``.

        A resume is added below, with the changes that were ``accepted``.
        """
        session = {"command": command, **environment()}
        Manifest(self.manifest).write(session, {**more, **(facts or {})}, accepted)

    def export_student(
        self, state: Mapping[str, Any], description: str, beside: Callable[[Path], None] = lambda _: None
    ) -> None:
        """Write ``student/`` from a state_dict, all of it or nothing; ``description`` is YAML that rebuilds the model.

        ``beside`` is called with the folder once these files are in it, and may add others.
        """
        from kd_core.runs.export import write_student

        write_student(self.student, state, description, beside)

    def card_facts(self, result: Mapping[str, Any], pipeline_tag: str, siblings: Sequence[RunFolder] = ()) -> CardFacts:
        """What the model card tells of a run with this ``result``."""
        lineage: Any = None
        with suppress(OSError, ValueError):
            lineage = json.loads((self.student / LINEAGE).read_text(encoding="utf-8"))
        return CardFacts(
            self.path.resolve().name,
            result,
            load(self.config).data if self.config.is_file() else {},
            (self.student / "model.yaml").read_text(encoding="utf-8"),
            (Manifest(self.manifest).read() or {"command": "unknown"})["command"],
            lineage if isinstance(lineage, dict) else {},
            self.said_of_data(),
            pipeline_tag,
            [sibling.result()["metrics"] for sibling in siblings],
        )

    def _write_card(self, result: Mapping[str, Any], pipeline_tag: str, siblings: Sequence[RunFolder]) -> None:
        """Write the model card; what ``profile`` put into an earlier one stays."""
        earlier = self.card.read_text(encoding="utf-8", errors="replace") if self.card.is_file() else ""
        profile = PROFILE.search(earlier)
        text = model_card(self.card_facts(result, pipeline_tag, siblings))
        write_text(self.card, text + (f"\n{profile[0]}" if profile else ""))

    def siblings(self) -> list[RunFolder]:
        """The finished runs of the same study whose configs differ from this one's in the seed alone."""
        above = self.path.resolve().parent
        if not (above / STUDY).is_file():
            return []
        own, runs = _without_seed(self.config), []
        for folder in sorted(above.iterdir()):
            run = RunFolder(folder)
            if folder.name == self.path.resolve().name or not run.finished or not run.config.is_file():
                continue
            with suppress(KDError, OSError, ValueError):
                if _without_seed(run.config) == own and run.result()["split"]:
                    runs.append(run)
        return runs

    def said_of_data(self) -> list[str]:
        """What the run's log says of its data, the last session's lines."""
        if not self.log.is_file():
            return []
        text = self.log.read_text(encoding="utf-8", errors="replace")
        session = text[text.rfind(" run folder: ") :]
        return list(dict.fromkeys(line.partition(DATA)[2] for line in session.splitlines() if DATA in line[:26]))


def _without_seed(config: Path) -> list[str]:
    """The lines of a run's config but that of its seed."""
    return [line for line in config.read_text(encoding="utf-8").splitlines() if not line.startswith("seed:")]


def is_result(value: Any) -> bool:
    """Whether ``value`` has the shape of what :meth:`RunFolder.finish` was given."""

    def scores(metrics: Any) -> bool:
        return isinstance(metrics, dict) and all(
            number is None or (isinstance(number, (int, float)) and not isinstance(number, bool))
            for number in metrics.values()
        )

    if not isinstance(value, dict) or not {"metrics", "best"} <= value.keys() or not scores(value["metrics"]):
        return False
    best, samples, split = value["best"], value.get("samples"), value.get("split")
    return (
        (best is None or (isinstance(best, dict) and scores(best.get("metrics"))))
        and (samples is None or type(samples) is int)
        and (split is None or isinstance(split, str))
    )


def local_folders(config: Path) -> list[str]:
    """Where local packages may lie: beside a config, beside the one that a run was made from, in the working folder."""
    here, made_from = str(Path.cwd()), None
    with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        made_from = json.loads((config.parent / "manifest.json").read_text(encoding="utf-8"))["folder"]
    if not isinstance(made_from, str):
        made_from = None
    return [str(config.parent.resolve()), made_from or here, here]


def run_name(folder: Path, config: Mapping[str, Any]) -> str:
    """What a run is called: in its config, or as its folder, or as the one above where that is called by the time."""
    path = folder.resolve()
    timed = re.fullmatch(r"\d{8}-\d{6}-[\d-]+", path.name)
    return str(config.get("name") or (path.parent.name if timed else path.name))


def _new_folder(root: Path, name: str, seed: int) -> Path:
    """A folder that did not exist, named by the time and the seed; KDError where ``name`` leads out of ``root``."""
    if not re.fullmatch(r"\w[^/\\\0]*", name):
        raise KDError(f"{name!r} is not the name of a folder", path="name")
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{seed}"
    (root / name).mkdir(parents=True, exist_ok=True)
    for again in itertools.count():
        path = root / name / (f"{stem}-{again}" if again else stem)
        try:
            path.mkdir()
            break
        except FileExistsError:
            continue
    return path
