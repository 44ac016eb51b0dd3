"""Data, weights and run folders of a stranger: nothing in them runs, and nothing is read or written through them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from kd_core.data.images import refuse_programs
from kd_core.errors import KDError
from kd_core.models.weights import read_state
from kd_core.runs.run_folder import RunFolder
from kd_vision.cli import main
from kd_vision.data.cifar import unpickle

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(PWNED) (w) file\n%%EOF\n"


class Runs:
    """A pickle of it calls."""

    def __init__(self, call: Any, *args: Any) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.args


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


CALLS = [
    (os.system, "touch PWNED"),
    (eval, "open('PWNED', 'w')"),
    (open, "PWNED", "w"),
    (os.mkdir, "PWNED"),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call[0].__name__)
def test_pickles_run_nothing(call: tuple[Any, ...], folder: Path) -> None:
    attack = Runs(*call)
    torch.save({"model": {"w": torch.zeros(1)}, "args": attack}, folder / "w.pt")
    torch.save({"w": torch.zeros(1), "x": attack}, folder / "old.pt", _use_new_zipfile_serialization=False)
    (folder / "raw.pt").write_bytes(pickle.dumps(attack))
    (folder / "w.safetensors").write_bytes(pickle.dumps(attack))
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": attack, "labels": [1]}))
    for name in ("w.pt", "old.pt", "raw.pt", "w.safetensors"):
        with pytest.raises(KDError):
            read_state(folder / name)
    with pytest.raises(KDError):
        unpickle(folder / "data_batch_1")
    assert not (folder / "PWNED").exists()


def test_refused_weights_of_a_url_go(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kd_core import download

    torch.save({"w": Runs(os.system, "touch PWNED")}, folder / "w.pt")
    monkeypatch.setattr(download, "fetch", lambda url, folder: Path("w.pt").absolute())
    config = """
task: image_classification
data: {name: digits, limit: 20, val: 4, augment: none, workers: 0}
models: {student: {arch: cnn, width: 2, weights: 'https://host/resnet18-f37072fd.pth'}}
stages:
  s: {steps: 1, batch_size: 4, losses: {ce: {loss: cross_entropy}}, optimizer: !call:torch.optim.SGD {lr: 0.1}}
"""
    (folder / "c.yaml").write_text(config)
    done = CliRunner().invoke(main, ["train", "c.yaml"])
    assert done.exit_code == 2, done.output
    assert not (folder / "w.pt").exists()
    assert not (folder / "PWNED").exists()


@pytest.mark.parametrize(
    "name", ["checkpoints", "student", "metrics.jsonl", "log.txt", "config.yaml", ".lock", "student/model.safetensors"]
)
def test_a_link_that_leads_out_of_a_run(folder: Path, name: str) -> None:
    outside, run = folder / "outside", folder / "run"
    (run / "student").mkdir(parents=True)
    (run / "config.yaml").write_text("task: image_classification\n")
    outside.write_text("mine: 1")
    path = run / name
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.symlink_to(outside)
    for verb in (["resume", "run"], ["eval", "run"]):
        done = CliRunner().invoke(main, verb)
        assert done.exit_code == 2
        assert "is a link that leads out of run" in done.output
    with pytest.raises(KDError, match="is a link that leads out"):
        RunFolder(run).lock()
    assert outside.read_text() == "mine: 1"


def test_a_link_within_a_run_is_followed(folder: Path) -> None:
    run = folder / "run"
    (run / "student").mkdir(parents=True)
    (run / "config.yaml").write_text("a: 1")
    (run / "best").symlink_to("student")
    RunFolder.open(run)


@pytest.fixture
def ghostscript(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program ``gs`` that tells that it was called."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "gs"
    program.write_text(f"#!/bin/sh\ntouch {folder}/PWNED\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)


@pytest.mark.usefixtures("ghostscript")
@pytest.mark.parametrize(
    "data", ["name: folder, root: images", "dataset: {train: !call:torchvision.datasets.ImageFolder [images/train]}"]
)
def test_ghostscript_is_not_called(folder: Path, data: str) -> None:
    for split in ("train", "val"):
        for label in ("a", "b"):
            (folder / "images" / split / label).mkdir(parents=True)
            (folder / "images" / split / label / "0.png").write_bytes(EPS)
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "images" / split / label / "1.png")
    config = f"""
task: image_classification
data: {{{data}, augment: none, workers: 0, image_size: 8}}
models: {{student: {{arch: cnn, width: 2}}}}
stages:
  s: {{steps: 1, batch_size: 2, losses: {{ce: {{loss: cross_entropy}}}}, optimizer: !call:torch.optim.SGD {{lr: 0.1}}}}
"""
    (folder / "c.yaml").write_text(config.replace(", image_size: 8", "") if "dataset" in data else config)
    done = CliRunner().invoke(main, ["train", "c.yaml"])
    assert done.exit_code == 2, (done.output, done.exception)
    assert not (folder / "PWNED").exists()


@pytest.mark.usefixtures("ghostscript")
def test_without_that_it_would_be(folder: Path) -> None:
    (folder / "x.png").write_bytes(EPS)
    with Image.open(folder / "x.png") as image, pytest.raises(Exception, match=r".*"):
        image.load()
    assert (folder / "PWNED").exists()
    (folder / "PWNED").unlink()
    refuse_programs()
    with Image.open(folder / "x.png") as image, pytest.raises(OSError, match="Ghostscript"):
        image.load()
    assert not (folder / "PWNED").exists()
