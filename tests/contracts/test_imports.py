"""What is imported when: commands answer at once, and kd_core knows no task library."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
import time

import pytest

import kd_core

VERBS = ["train", "eval", "resume", "check", "show", "taps", "list"]
HEAVY = {"torch", "torchvision", "numpy", "pydantic", "yaml", "accelerate", "safetensors", "sklearn", "tqdm", "psutil"}
FOREIGN = {"torchvision", "transformers", "datasets", "evaluate", "pycocotools", "sklearn", "kd_zoo", "kd_vision"}


def imported_by(code: str) -> set[str]:
    """The top-level packages in a fresh interpreter once it has run ``code``."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [[], *[[verb] for verb in VERBS]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"from kd_vision.cli import main\nmain({[*arguments, '--help']}, standalone_mode=False)"
    assert imported_by(code) & HEAVY == set()


@pytest.mark.parametrize("arguments", [[], *[[verb] for verb in VERBS]])
def test_help_answers_at_once(arguments: list[str]) -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "kd_vision", *arguments, "--help"], capture_output=True, check=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.3


def test_kd_core_knows_no_task_library() -> None:
    modules = [each.name for each in pkgutil.walk_packages(kd_core.__path__, "kd_core.") if "__main__" not in each.name]
    assert "kd_core.train.loop" in modules
    assert imported_by(f"import {', '.join(modules)}") & FOREIGN == set()


def test_importing_kd_core_imports_nothing_heavy() -> None:
    assert imported_by("import kd_core; kd_core.KDError; kd_core.__version__") & HEAVY == set()


@pytest.mark.parametrize("name", kd_core.__all__)
def test_the_public_names_are_there(name: str) -> None:
    assert getattr(kd_core, name) is not None


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        kd_core.trian  # noqa: B018
