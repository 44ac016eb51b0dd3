"""A student as a file of another format: the same outputs for batches of any size, or no file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

import kd_core
from kd_core.deploy import formats
from kd_core.deploy.export import export
from kd_core.deploy.formats import FORMATS, METADATA
from kd_core.deploy.profile import BEGIN, profile
from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_vision.cli import main

DIGITS = """
task: image_classification
data: {name: digits, limit: 60, augment: none}
models:
  student: {arch: cnn, width: 2, depth: 1}
stages:
  train:
    epochs: 1
    batch_size: 32
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.SGD {lr: 0.05}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("export")
    (folder / "config.yaml").write_text(DIGITS)
    Experiment.load(folder / "config.yaml").train(folder / "run")
    return folder / "run"


def test_torch_export_gives_the_runs_outputs_for_any_batch(run: Path, tmp_path: Path) -> None:
    done = export(run, format="torch-export", out=tmp_path / "digits.pt2", count=5)
    assert (done.parity.samples, done.parity.equal, done.source) == (5, 1.0, "the validation split")
    assert done.parity.difference <= 1e-5
    assert done.inputs == {"input": ["batch", 1, 8, 8]}
    told = {METADATA: ""}
    module = torch.export.load(tmp_path / "digits.pt2", extra_files=told).module()
    student = kd_core.load(run)
    images = student.preprocess(torch.randint(0, 256, (7, 1, 8, 8), dtype=torch.uint8))
    torch.testing.assert_close(module(images), student.model(images))
    facts = json.loads(told[METADATA])
    assert facts["classes"] == list("0123456789")
    assert facts["input"]["mean"] == [0.3053]
    assert facts["preprocessing"] == {"size": [8, 8]}
    assert facts["lineage"]["weights"] == student.lineage["weights"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "executorch"])
def test_the_other_formats_are_run_by_their_own_runtimes(run: Path, tmp_path: Path, name: str) -> None:
    if any(find_spec(package) is None for package in FORMATS[name].packages):
        pytest.skip(f"{FORMATS[name].packages} are not installed")
    file = tmp_path / f"digits{FORMATS[name].suffix}"
    done = export(run, format=name, out=file, count=5)
    assert done.parity.samples == 5
    assert done.parity.relative <= 1e-4
    if name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file))
        assert json.loads(session.get_modelmeta().custom_metadata_map[METADATA])["task"] == "image_classification"
        images = kd_core.load(run).preprocess(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
        assert session.run(["output"], {"input": images.numpy()})[0].shape == (3, 10)


def test_another_model_is_an_error_and_no_file(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(file: Path) -> formats.Run:
        def shifted(tensors: Sequence[Tensor]) -> Tensor:
            return kd_core.load(run).model(tensors[0]) + 0.01  # type: ignore[no-any-return]

        return shifted

    def write(*arguments: object) -> None:
        Path(str(arguments[2])).write_text("a model")

    monkeypatch.setitem(FORMATS, "torch-export", replace(FORMATS["torch-export"], write=write, open=opened))
    with (
        torch.no_grad(),
        pytest.raises(KDError, match=r"(?s)differ by 0\.01, and 100 %.*--tolerance"),
    ):
        export(run, format="torch-export", out=tmp_path / "x.pt2")
    assert not list(tmp_path.iterdir())
    with torch.no_grad():
        export(run, format="torch-export", out=tmp_path / "x.pt2", tolerance=0.1)
    assert (tmp_path / "x.pt2").read_text() == "a model"


def test_what_is_missing_is_one_error(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(KDError, match=r"(?s)onnx needs onnx and onnxscript and onnxruntime.*kd-core\[export\]"):
        export(run, format="onnx", out=tmp_path / "x.onnx")
    with pytest.raises(KDError, match=r"x\.onnx: is not named as a \.pt2 file"):
        export(run, format="torch-export", out=tmp_path / "x.onnx")
    shutil.copytree(run / "student", tmp_path / "alone")
    with pytest.raises(KDError, match="a student's folder without a run: there are no validation samples"):
        export(tmp_path / "alone", format="torch-export", out=tmp_path / "x.pt2")


def test_a_student_alone_is_profiled_on_samples_that_are_named(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "moved")
    Image.new("L", (8, 8), 128).save(tmp_path / "photo.png")
    sample = ["--sample", str(tmp_path / "photo.png"), "--mode", "eager", "--batch", "2", "--seconds", "0", "--json"]
    done = CliRunner().invoke(main, ["profile", str(tmp_path / "moved" / "student"), "--against", str(run), *sample])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    [student, other] = told["models"]
    assert (student["name"], other["name"]) == ("moved", "run")
    assert student["parameters"] == other["parameters"] == 2 * 9 + 2 * 2 + 2 * 10 + 10
    assert student["macs"] == 8 * 8 * 2 * 9 + 2 * 10
    [latency] = student["latencies"]
    assert (latency["mode"], latency["batch"], latency["passes"]) == ("eager", 2, 10)
    assert 0 < latency["median"] <= latency["p95"]


def test_the_model_card_has_the_last_profile(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    for batch in (1, 3):
        profile(tmp_path / "run", batches=[batch], modes=["eager"], seconds=0)
    text = (tmp_path / "run" / "README.md").read_text()
    assert text.count(BEGIN) == 1
    assert "| eager | 3 |" in text
    with pytest.raises(KDError, match="there is no mode 'fast'"):
        profile(run, modes=["fast"])
