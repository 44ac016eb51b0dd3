"""What holds on every supported system and Python, and can be seen from this one."""

from __future__ import annotations

import ast
import errno
import fcntl
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kd_core.data.workers import WORKERS, available_cores, start_worker
from kd_core.runs.metrics_log import MetricsLog
from kd_core.signatures import read_signature

if TYPE_CHECKING:
    from fractions import Fraction

PACKAGES = Path(__file__).parents[2] / "packages"
SOURCES = sorted(PACKAGES.glob("*/src/**/*.py"))
POSIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
OLDEST = (3, 10)


def names_imported(tree: ast.AST) -> set[str]:
    """The top-level modules that a source file imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def test_sources_are_there() -> None:
    assert len(SOURCES) > 150


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGES).as_posix())
def test_source_is_of_the_oldest_python_and_imports_nothing_posix_only(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=OLDEST)
    assert names_imported(tree) & POSIX_ONLY == set()


@pytest.mark.parametrize("package", sorted(path.parent.name for path in PACKAGES.glob("*/pyproject.toml")))
def test_package_has_types_and_a_license(package: str) -> None:
    folder = PACKAGES / package
    assert (folder / "LICENSE").read_bytes() == (PACKAGES.parent / "LICENSE").read_bytes()
    assert (folder / "src" / package.replace("-", "_") / "py.typed").is_file()


def test_metrics_are_synced_through_a_file_open_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows refuses to sync a file that is open for reading only."""

    def as_on_windows(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")

    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"loss": 1.0})
    monkeypatch.setattr(os, "fsync", as_on_windows)
    assert log.position()["size"] == log.path.stat().st_size


def test_workers_start_where_there_are_no_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    handled = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: handled.append((number, handler)))
    monkeypatch.setattr("sys.platform", "win32")
    start_worker(0)
    assert handled == [(signal.SIGINT, signal.SIG_IGN)]


def test_cores_are_counted_where_the_system_tells_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for reported, expected in ((2, 2), (64, WORKERS), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda reported=reported: reported)
        assert available_cores() == expected


def test_signatures_are_read_where_annotations_are_for_type_checkers_only() -> None:
    def loss(student: Fraction, *, weight: float = 1.0) -> Fraction: ...

    parameters = read_signature(loss).parameters
    assert list(parameters) == ["student", "weight"]
    assert parameters["weight"].default == 1.0
