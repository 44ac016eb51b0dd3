"""Which tests run where, and what all of them need."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

from kd_core.registry import PLUGINS

ROOT = Path(__file__).parents[1]
OURS = sorted(project.parent.name for project in ROOT.glob("packages/*/pyproject.toml"))

# Plug-ins that are installed beside the packages of this repository are not tested here, nor in the processes that
# tests start: what they register is held by suites of their own.
os.environ[PLUGINS] = ",".join(OURS)


if os.environ.get("KD_TEST_DEVICE") == "cpu":  # else the runs of tests take a GPU where there is one
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_addoption(parser: pytest.Parser) -> None:
    default = Path(os.environ.get("KD_TEST_DATA", ROOT.parent / "shared" / "data"))
    parser.addoption("--data", type=Path, default=default, help="folder of real data sets, for `realdata`")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    no_gpu = None if torch.cuda.is_available() else pytest.mark.skip(reason="needs a CUDA device")
    data = config.getoption("--data")
    no_data = None if data.is_dir() else pytest.mark.skip(reason=f"there is no {data}")
    for item in items:
        for name, skip in (("gpu", no_gpu), ("realdata", no_data)):
            if skip and item.get_closest_marker(name):  # keywords hold the names of folders, too
                item.add_marker(skip)


@pytest.fixture(scope="module", autouse=True)
def _libraries_frozen() -> None:
    """The garbage collector, which every run calls, walks what the module's tests make and not all that is imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def real_data(pytestconfig: pytest.Config) -> Path:
    """The folder that holds ``cifar10`` and others."""
    folder: Path = pytestconfig.getoption("--data")
    return folder
