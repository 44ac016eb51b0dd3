"""Two runs, which the tests of the command line share."""

from __future__ import annotations

from pathlib import Path

import pytest

from .flat_colours import CONFIG, DISTILLED, kd_vision, write_images


@pytest.fixture(scope="package")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and annotations, and two runs: ``teacher``, and ``student``, whose config names it."""
    root = tmp_path_factory.mktemp("root")
    write_images(root)
    for name, text in (("teacher", CONFIG), ("student", DISTILLED)):
        (root / f"{name}.yaml").write_text(text.replace("ROOT", str(root)))
        done = kd_vision("train", root / f"{name}.yaml", "--out", root / name)
        assert done.exit_code == 0, done.output
    return root
