"""``kd-vision predict`` of a classifier: tables, a sheet, and files that cannot be read."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import kd_core
from kd_core.experiment import Experiment
from kd_vision.cli import main

CONFIG = """
task: image_classification
data: {{name: image_folder, root: {root}, size: 8, workers: 0, augment: none, val: 0}}
models:
  student: {{arch: cnn, width: 4, depth: 1, in_channels: 3}}
stages:
  train:
    epochs: 1
    batch_size: 4
    losses: {{ce: {{loss: cross_entropy}}}}
    optimizer: !call:torch.optim.SGD {{lr: 0.05}}
"""
CLASSES = ["=dark", "bright"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student alone in ``student``, and images in ``photos``, one of them broken."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("predict")
    for number, name in enumerate(CLASSES):
        (root / "images" / "train" / name).mkdir(parents=True)
        for row in range(3):
            pixels = np.full((10, 9 + row, 3), 60 + 120 * number, np.uint8)
            Image.fromarray(pixels).save(root / "images" / "train" / name / f"{row}.png")
    (root / "c.yaml").write_text(CONFIG.format(root=root / "images"))
    Experiment.load(root / "c.yaml").train(root / "run")
    (root / "run" / "student").rename(root / "student")
    shutil.copytree(root / "images" / "train" / CLASSES[1], root / "photos")
    (root / "photos" / "1.png").write_bytes(b"<html>")
    for gone in ("run", "images"):
        shutil.rmtree(root / gone)
    return root


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def test_a_folder_becomes_a_table_and_a_sheet_and_a_broken_file_is_named_last(folder: Path, tmp_path: Path) -> None:
    done = predict(folder / "student", folder / "photos", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert f"1 of 3 images failed; the others are done: {folder / 'photos' / '1.png'}" in done.stderr
    lines = list(csv.reader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    assert lines[0] == ["file", "prediction", "probability", "'=dark", "bright"]
    assert [Path(line[0]).name for line in lines[1:]] == ["0.png", "2.png"]
    student = kd_core.load(folder / "student")
    shares = student(folder / "photos" / "2.png").softmax(1)[0]
    assert [float(cell) for cell in lines[2][3:]] == pytest.approx(shares.tolist(), rel=1e-5)
    assert lines[2][1].lstrip("'") == sorted(CLASSES)[int(shares.argmax())]
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width > 200


def test_a_sheet_of_the_first_of_many_images_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kd_vision.results.predict.SHOWN", 2)
    done = predict(folder / "student", *[folder / "photos" / "0.png"] * 3, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert done.stderr.endswith("the sheet shows the first 2 of 3 images\n")


def test_lines_of_json(folder: Path, tmp_path: Path) -> None:
    done = predict(folder / "student", folder / "photos" / "0.png", "--out", tmp_path / "x.jsonl", "--json")
    assert done.exit_code == 0, done.output
    [told] = json.loads(done.stdout)["images"]
    [row] = map(json.loads, (tmp_path / "x.jsonl").read_text().splitlines())
    assert row == told
    assert row["probability"] == max(row["probabilities"].values()) == row["probabilities"][row["prediction"]]


def test_what_is_for_detectors_is_refused(folder: Path, tmp_path: Path) -> None:
    done = predict(folder / "student", folder / "photos", "--out", tmp_path, "--truth", tmp_path / "x.json")
    assert (done.exit_code, "of a classifier, predict takes a RUN and images" in done.stderr) == (2, True)
