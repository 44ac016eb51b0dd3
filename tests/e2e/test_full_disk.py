"""A disk that is full at any write of a run: one message, exit code 2, and a resume with the same end."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kd_core import files
from kd_core.experiment import Experiment
from kd_vision.cli import main

from .conftest import student_bytes
from .test_damaged_runs import CONFIG
from .test_resume import records


class Disk:
    """Counts writes, and takes none from number ``full_at`` on."""

    def __init__(self, full_at: int = 10**9) -> None:
        self.writes, self.full_at = 0, full_at

    def take(self) -> None:
        self.writes += 1
        if self.writes >= self.full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def disk(full_at: int = 10**9) -> Iterator[Disk]:
    """Within, every file that is written whole, and every line that is added, goes to such a disk."""
    counted, whole, opened = Disk(full_at), files.write_whole, Path.open

    def write_whole(folder: Path, write: Any, name: Any) -> Path:
        def writes(file: Any) -> None:
            write(file)
            counted.take()

        return whole(folder, writes, name)

    def open_path(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode == "a":
            counted.take()
        return opened(path, mode, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        for module in ("files", "runs.checkpoint", "train.output_store"):
            patch.setattr(f"kd_core.{module}.write_whole", write_whole)
        patch.setattr(Path, "open", open_path)
        yield counted


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A run on a disk with room, and how often it wrote."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "config.yaml").write_text(CONFIG)
    with disk() as counted:
        Experiment.load(folder / "config.yaml").train(folder / "run")
    return folder, counted.writes


@pytest.mark.parametrize(
    "part", [0.0, 0.3, 0.6, 0.99, *(pytest.param(row / 50, marks=pytest.mark.slow) for row in range(50))]
)
def test_a_full_disk_is_one_error_and_loses_nothing(part: float, whole: tuple[Path, int], tmp_path: Path) -> None:
    folder, writes = whole
    run = tmp_path / "run"
    with disk(1 + int(part * writes)):
        done = CliRunner().invoke(main, ["train", str(folder / "config.yaml"), "--out", str(run)])
    assert done.exit_code == 2, (done.output, done.exception)
    assert "No space left on device" in done.stderr
    assert not list(run.rglob(".tmp-*"))
    if run.exists():
        assert f"hint: go on with `resume {run}`" in done.stderr
    again = ["resume", str(run)] if run.exists() else ["train", str(folder / "config.yaml"), "--out", str(run)]
    done = CliRunner().invoke(main, again)
    assert done.exit_code == 0, done.output
    assert student_bytes(run) == student_bytes(folder / "run")
    assert records(run) == records(folder / "run")
