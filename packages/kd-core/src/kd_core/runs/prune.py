"""What run folders hold and nothing reads any more: checkpoints of finished runs, files that were never finished."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from kd_core.config import load
from kd_core.errors import KDError
from kd_core.files import is_leftover
from kd_core.runs.checkpoint import CheckpointStore
from kd_core.runs.run_folder import RunFolder

FINISHED, UNFINISHED, HELD, DAMAGED = "finished", "not finished", "in use", "damaged"


@dataclass(frozen=True)
class Surplus:
    """What can go from one folder: files and folders with their bytes. ``state`` is that of the run, empty for others.

    ``size`` is what all of the folder takes, ``error`` why something could not be removed.
    """

    folder: Path
    state: str
    size: int
    files: dict[Path, int] = field(default_factory=dict)
    error: str | None = None

    @property
    def bytes(self) -> int:
        """Bytes of all that can go."""
        return sum(self.files.values())


def prune(paths: Sequence[Path], *, keep: int | None = None, dry_run: bool = False) -> list[Surplus]:
    """Remove what nothing reads from runs, and from all runs below folders such as a sweep's; what went.

    Of a finished run those are all checkpoints but the newest ``keep``, by default the ``checkpoint.keep_finished`` of
    its config; of every run, files that a killed process left half written. A run that another process holds stays as
    it is. With ``dry_run`` nothing is removed. KDError where a path holds no run.
    """
    found = [surplus for path in paths for surplus in _below(path, keep)]
    return found if dry_run else [_removed(surplus) for surplus in found]


def _below(path: Path, keep: int | None) -> Iterator[Surplus]:
    """The surplus of the run in a folder, or else of all runs below it, and what was left half written beside them."""
    if not path.is_dir():
        raise KDError(f"{path} is not a folder of runs")
    runs = list(_runs(path))
    if not runs:
        raise KDError(f"{path}: there is no run in it, neither it nor a folder below it has a config.yaml")
    if path not in runs and (left := _leftovers(path.iterdir())):
        yield Surplus(path, "", sum(left.values()), left)
    for run in runs:
        yield surplus_of(RunFolder.open(run), keep)


def _runs(path: Path) -> Iterator[Path]:
    """The run folders at and below ``path``, in the order of their names. Folders of runs are not gone through."""
    if (path / "config.yaml").is_file() and ((path / "manifest.json").is_file() or (path / "log.txt").is_file()):
        yield path
        return
    for folder in sorted(path.iterdir()):
        if folder.is_dir() and not folder.is_symlink() and not is_leftover(folder):
            yield from _runs(folder)


def surplus_of(run: RunFolder, keep: int | None = None) -> Surplus:
    """What nothing reads of a run: never of one that is held, nor checkpoints that something may still be made from."""
    size = size_of(run.path)
    if run.held:
        return Surplus(run.path, HELD, size)
    folders = [run.path, *(folder for folder in (run.checkpoints, run.student) if folder.is_dir())]
    files = _leftovers(entry for folder in folders for entry in folder.iterdir())
    if not run.finished:
        return Surplus(run.path, UNFINISHED, size, files)
    try:
        run.result()
        kept = _kept(run) if keep is None else keep
    except KDError as error:
        return Surplus(run.path, DAMAGED, size, files, str(error))
    if (run.student / "model.safetensors").is_file():
        files |= {path: size_of(path) for path in CheckpointStore(run.checkpoints).surplus(kept)}
    return Surplus(run.path, FINISHED, size, files)


def _kept(run: RunFolder) -> int:
    """How many checkpoints the run's config keeps of it."""
    checkpoint = load(run.config).data.get("checkpoint")
    kept = checkpoint.get("keep_finished", 0) if isinstance(checkpoint, dict) else 0
    return kept if isinstance(kept, int) else 0


def _leftovers(entries: Iterator[Path]) -> dict[Path, int]:
    return {entry: size_of(entry) for entry in sorted(entries) if is_leftover(entry)}


def _removed(surplus: Surplus) -> Surplus:
    """Remove what can go, from a run with its lock held: it may have been taken in the meantime."""
    if not surplus.state:
        return _without(surplus)
    if not surplus.files:
        return surplus
    try:
        with RunFolder.open(surplus.folder).lock():
            return _without(surplus)
    except KDError as error:
        return replace(surplus, files={}, error=str(error))


def _without(surplus: Surplus) -> Surplus:
    try:
        for path in surplus.files:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        reason = f"cannot remove {error.filename}: {error.strerror}"
        gone = {path: size for path, size in surplus.files.items() if not os.path.lexists(path)}
        return replace(surplus, files=gone, error=reason)
    checkpoints = surplus.folder / "checkpoints"
    CheckpointStore(checkpoints).forget_shards()
    if checkpoints.is_dir() and not any(checkpoints.iterdir()):
        checkpoints.rmdir()
    return surplus


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files below a folder; links count as nothing."""
    if path.is_symlink():
        return 0
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    return sum(size_of(entry) for entry in path.iterdir())
