"""Plug-ins installed beside this repository: an outside user's are loaded, this suite's processes load its own only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kd_core.registry import PLUGINS

CODE = "from kd_core.losses import LOSSES; print(*LOSSES.names())"
MODULE = '''
from kd_core.losses import LOSSES

@LOSSES("outside")
def outside(student: "Tensor") -> "Tensor":
    """student (B, C) -> scalar."""
    return student.mean()
'''


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder in which a distribution `Outside.Losses` is installed, with a loss as its plug-in."""
    info = tmp_path / "outside_losses-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Outside.Losses\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[kd.losses]\noutside = outside_losses\n", encoding="utf-8")
    (tmp_path / "outside_losses.py").write_text(MODULE, encoding="utf-8")
    return tmp_path


def losses(site: Path, plugins: str | None) -> set[str]:
    """The names of losses in a new process that has ``site`` on its path."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    if plugins is None:
        del environment[PLUGINS]
    else:
        environment[PLUGINS] = plugins
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.slow
def test_this_suite_ignores_other_plugins(site: Path) -> None:
    assert set(os.environ[PLUGINS].split(",")) == {"kd-core", "kd-glue", "kd-seg", "kd-vision", "kd-zoo"}
    found = losses(site, os.environ[PLUGINS])
    assert "kd" in found
    assert "outside" not in found


@pytest.mark.parametrize(
    "plugins",
    [pytest.param(None, marks=pytest.mark.slow, id="all"), pytest.param("kd-core, outside_losses", id="listed")],
)
def test_users_have_them(site: Path, plugins: str | None) -> None:
    assert {"kd", "outside"} <= losses(site, plugins)
