"""Small experiments on real images: scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from kd_core.experiment import Experiment
from kd_core.observers import Observer
from kd_core.train import run as runs
from kd_core.train.run import Result

DIGITS = """
task: image_classification
data: {name: digits, limit: 300, augment: none}
models:
  student: {arch: cnn, width: 4, depth: 2}
  teacher: {arch: cnn, width: 8, depth: 2, weights: null}
stages:
  distill:
    epochs: 2
    batch_size: 32
    losses:
      ce: {loss: cross_entropy}
      kd: {loss: kd, temperature: 4.0}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
"""
"""A teacher of random weights serves: what is tested is the machinery."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Writes a config: DIGITS unless another text is given."""

    def write(text: str = DIGITS, name: str = "experiment") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def train(config: Callable[..., Path], tmp_path: Path) -> Callable[..., Result]:
    """Trains DIGITS, or another text, with overrides, into ``tmp_path / out``."""

    def run(text: str = DIGITS, *overrides: str, out: str = "run") -> Result:
        return Experiment.load(config(text), overrides=overrides).train(tmp_path / out)

    return run


def student_bytes(run: Path | None) -> bytes:
    """The weights a run made."""
    assert run is not None
    return (run / "student" / "model.safetensors").read_bytes()


@contextmanager
def watched(*observers: Observer) -> Iterator[None]:
    """Inside, these observers watch every run beside those that its config names."""
    built = runs.built_observers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "built_observers", lambda named: [*built(named), *observers])
        yield
