"""How fast the commands answer: ``--help`` of each package's command and of a verb, in a process of its own.

::

    python -m pytest tests/bench/bench_help.py --benchmark-only

That it imports nothing heavy is a test: tests/contracts/test_imports.py.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest


@pytest.mark.parametrize("verb", ["", "train"])
@pytest.mark.parametrize("package", ["kd_vision", "kd_glue", "kd_seg"])
def test_help(benchmark: Any, package: str, verb: str) -> None:
    command = [sys.executable, "-m", package, *verb.split(), "--help"]
    benchmark(lambda: subprocess.run(command, capture_output=True, check=True))
