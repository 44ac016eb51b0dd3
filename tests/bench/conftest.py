"""Benchmarks of functions are collected with ``--benchmark-only``, never by the suite."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """ "``bench_*.py``, where benchmarks are asked for; those that are scripts hold no test."""
    is_bench = parent.config.getoption("benchmark_only", False) and file_path.match("bench_*.py")
    if not is_bench or parent.session.isinitpath(file_path):
        return None
    return pytest.Module.from_parent(parent, path=file_path) if "benchmark" in file_path.read_text() else None


@pytest.fixture(autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
