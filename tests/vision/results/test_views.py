"""The worst images in a report, and a report whose data are gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch.nn import functional as F

import kd_core
from kd_core.data.batch import Batch, DatasetInfo
from kd_core.experiment import Experiment
from kd_core.report.samples import worst_samples
from kd_vision.cli import main
from kd_vision.results.views import ImageViewer

CONFIG = """
task: image_classification
data: {{name: image_folder, root: {root}, size: 8, workers: 0, augment: none, val: 0.5}}
models:
  student: {{arch: cnn, width: 4, depth: 1, in_channels: 3}}
stages:
  train:
    epochs: 1
    batch_size: 4
    losses: {{ce: {{loss: cross_entropy}}}}
    optimizer: !call:torch.optim.SGD {{lr: 0.05}}
"""
CLASSES = ["<b>dark", "bright"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on twelve images in two folders."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("views")
    generator = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (root / "images" / "train" / name).mkdir(parents=True)
        for row in range(6):
            pixels = generator.integers(0, 120, (8, 8, 3)) + 120 * number
            Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / "train" / name / f"{row}.png")
    (root / "c.yaml").write_text(CONFIG.format(root=root / "images"))
    Experiment.load(root / "c.yaml").train(root / "run")
    return root / "run"


def test_the_images_with_the_highest_loss_are_shown_and_no_others(run: Path, tmp_path: Path) -> None:
    worst = worst_samples(run, 4)
    assert (worst.split, worst.samples, len(worst.views)) == ("val", 6, 4)
    every = worst_samples(run, 100).views
    losses = [loss for loss, _ in every]
    assert losses == sorted(losses, reverse=True)
    assert [view.name for _, view in worst.views] == [view.name for _, view in every[:4]]
    student = kd_core.load(run)
    for loss, view in every:
        logits = student(run.parent / "images" / "train" / view.name)
        target = torch.tensor([student.classes.index(view.name.split("/")[0])])
        assert loss == pytest.approx(float(F.cross_entropy(logits, target)), rel=1e-4)
        assert view.facts["true"].startswith(student.classes[int(target)])
        assert view.picture is not None
        assert view.picture.size == (8, 8)
    done = CliRunner().invoke(main, ["report", str(run), "--out", str(tmp_path / "r.html"), "--worst", "3"])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path / 'r.html'}\n"
    text = (tmp_path / "r.html").read_text()
    assert text.count("<img ") == 3
    assert "<b>dark" not in text


def test_without_the_data_the_report_says_so(run: Path, tmp_path: Path) -> None:
    images = run.parent / "images"
    shutil.move(images, tmp_path / "elsewhere")
    try:
        done = CliRunner().invoke(main, ["report", str(run), "--out", str(tmp_path / "r.html")])
    finally:
        shutil.move(tmp_path / "elsewhere", images)
    assert done.exit_code == 0, done.output
    assert "without the worst samples" in done.stderr
    text = (tmp_path / "r.html").read_text()
    assert "Not shown, because the data or the student cannot be read" in text
    assert "validation: top1" in text


def test_samples_without_a_label_have_no_loss_and_broken_outputs_the_most() -> None:
    logits = torch.tensor([[0.0, 0], [0, 0], [float("nan"), 0]])
    batch = Batch({}, torch.tensor([0, -100, 1]), torch.arange(3))
    losses = ImageViewer().losses(logits, batch, DatasetInfo()).tolist()
    assert losses == pytest.approx([float(np.log(2)), float("nan"), float("inf")], nan_ok=True)
