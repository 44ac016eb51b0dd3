"""What a student knows of its data: names of classes and normalisation, kept beside it and compared with other data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from kd_core.errors import KDError
from kd_core.evaluation import evaluate
from kd_core.experiment import Experiment
from kd_vision.cli import main

FOLDER = """
task: image_classification
data: {{name: image_folder, root: {root}, size: 8, workers: 0, augment: none, val: 0}}
models:
  student: {{arch: cnn, width: 4, depth: 1, in_channels: 3}}
stages:
  train:
    epochs: 2
    batch_size: 8
    losses: {{ce: {{loss: cross_entropy}}}}
    optimizer: !call:torch.optim.SGD {{lr: 0.05, momentum: 0.9}}
"""
CLASSES = ("dark", "bright")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three classes in folders, and a student of a run on them with a mean of its own."""
    root = tmp_path_factory.mktemp("recorded")
    for split, count in (("train", 8), ("test", 4)):
        for number, name in enumerate(("bright", "dark", "grey")):
            (root / "images" / split / name).mkdir(parents=True)
            for row in range(count):
                noise = np.random.default_rng(100 * number + row).integers(0, 40, (8, 8, 3))
                pixels = noise + {"bright": 200, "dark": 0, "grey": 100}[name]
                Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / split / name / f"{row}.png")
    run(root, "teacher", "data.mean=[0.1, 0.1, 0.1]", "data.std=[0.02, 0.02, 0.02]")
    return root


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """A config of a copy of the images, some of which are broken in several ways."""
    shutil.copytree(folder / "images", tmp_path / "images")
    train = tmp_path / "images" / "train"
    (train / "dark" / "1.png").write_bytes(b"")
    (train / "dark" / "2.png").write_bytes((train / "dark" / "2.png").read_bytes()[:60])
    (train / "grey" / "3.png").write_bytes(b"<html>")
    (train / "grey" / "4.png").unlink()
    (train / "grey" / "4.png").symlink_to("nowhere.png")
    (tmp_path / "images" / "test" / "grey" / "0.png").write_bytes(b"x")
    config = tmp_path / "c.yaml"
    config.write_text(FOLDER.format(root=tmp_path / "images"))
    return config


def test_files_that_cannot_be_read_stop_a_run_before_it_begins(broken: Path, tmp_path: Path) -> None:
    with pytest.raises(KDError) as caught:
        Experiment.load(broken).train(tmp_path / "run")
    text = str(caught.value)
    assert "5 files cannot be read:\n" in text
    for name in ("dark/1.png", "dark/2.png", "grey/3.png", "train/grey/4.png", "test/grey/0.png"):
        assert name in text
    assert "hint: `data.on_error: skip` leaves them out" in text
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_files_that_cannot_be_read_can_be_left_out(broken: Path, tmp_path: Path) -> None:
    result = Experiment.load(broken, overrides=["data.on_error=skip"]).train(tmp_path / "run")
    assert result.samples == 11
    told = (tmp_path / "run" / "log.txt").read_text()
    assert "train: 20 training samples" in told
    assert "warning: 4 of 24 samples cannot be read and are left out:" in told
    assert "warning: 1 of 12 samples cannot be read" in told
    assert "grey/4.png" in told


def test_check_reads_the_data_where_it_is_asked_to(broken: Path) -> None:
    command = CliRunner().invoke
    assert command(main, ["check", str(broken)]).exit_code == 0
    done = command(main, ["check", "--data", str(broken)])
    assert (done.exit_code, "5 files cannot be read" in done.output) == (2, True)
    done = command(main, ["check", "--data", str(broken), "--set", "data.on_error=skip"])
    assert done.exit_code == 0
    assert "data: test: 11 test samples" in done.output


def run(root: Path, out: str, *overrides: str, text: str = FOLDER) -> Path:
    config = root / f"{out}.yaml"
    config.write_text(text.format(root=root / "images"))
    result = Experiment.load(config, overrides=overrides).train(root / out)
    assert result.run is not None
    return result.run


def description(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "student" / "model.yaml").read_text())


def test_names_and_normalisation_lie_beside_the_student(folder: Path) -> None:
    told = description(folder / "teacher")
    assert told["class_names"] == ["bright", "dark", "grey"]
    assert told["preprocessing"] == {"size": [8, 8], "eval_crop": 0.875}
    assert told["input"] == {"mean": [0.1, 0.1, 0.1], "std": [0.02, 0.02, 0.02]}


def test_a_student_is_scored_as_it_was_trained_whatever_the_data_say(folder: Path) -> None:
    metrics = evaluate(folder / "teacher").metrics
    other = evaluate(folder / "teacher", overrides=["data.mean=null", "data.std=null"]).metrics
    assert metrics == other
    explicit = ["models.student.input={mean: [0.5], std: [0.5]}"]
    assert evaluate(folder / "teacher", overrides=explicit).metrics != metrics


def test_images_brought_to_another_form_are_told_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(folder / "teacher", overrides=["data.eval_crop=1"])
    told = capsys.readouterr().err
    expected = (
        "models.student: evaluated in its own run with size [8, 8], eval_crop 0.875; these data have size [8, 8],"
    )
    assert f"warning: {expected} eval_crop 1" in told


def test_eval_says_of_the_data_what_a_run_says(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder / "images", tmp_path / "images")
    (tmp_path / "images" / "test" / "dark" / "notes.txt").touch()
    for path in (tmp_path / "images" / "train" / "grey").iterdir():
        path.write_bytes(b"<html>")
    capsys.readouterr()
    classes = "data.classes=[bright, dark, grey]"
    evaluate(folder / "teacher", root=tmp_path / "images", overrides=[classes, "data.on_error=skip"])
    told = capsys.readouterr().err
    test = tmp_path / "images" / "test"
    assert f"data: warning: 1 file is passed over in {test}, by the ending: 1 .txt" in told
    assert "data: warning: 8 of 24 samples cannot be read and are left out:" in told
    assert "training sample" not in told  # the split that is scored is looked at alone


@pytest.mark.parametrize(
    "source", ["run: {0}", "arch: cnn, width: 4, depth: 1, in_channels: 3, weights: {0}/student/model.safetensors"]
)
def test_a_teacher_sees_what_it_was_trained_with(folder: Path, source: str, tmp_path: Path) -> None:
    config = tmp_path / "kd.yaml"
    config.write_text(FOLDER.format(root=folder / "images"))
    teacher = f"models.teacher={{{source.format(folder / 'teacher')}}}"
    term = "stages.train.losses.kd={loss: kd}"
    overrides = [teacher, term]
    experiment = Experiment.load(config, overrides=overrides)
    wants = experiment.plan.inputs
    assert (wants["teacher"].mean, wants["student"].mean) == ([0.1] * 3, None)
    result = experiment.train(tmp_path / "kd")
    assert result.run is not None
    assert description(result.run)["input"]["mean"] == [0.485, 0.456, 0.406]
    with pytest.raises(
        KDError, match=r"(?s)models\.teacher: the model was trained on the classes bright, dark, grey.*dark, g"
    ):
        Experiment.load(config, overrides=[teacher, term, "data.classes=[dark, grey, bright]"]).train(tmp_path / "x")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            ["dark", "bright", "grey"],
            "bright, dark, grey, and the data have dark, bright, grey: the same in another order",
        ),
        (["dark", "grey"], "bright, dark, grey, and the data have dark, grey: 3 there and 2 here"),
    ],
)
def test_other_classes_are_refused_with_both_lists(folder: Path, classes: list[str], message: str) -> None:
    with pytest.raises(KDError, match=rf"on the classes {message}\n +hint: `data\.classes`"):
        evaluate(folder / "teacher", overrides=[f"data.classes={classes}"])


def test_classes_without_names_are_assumed_to_be_in_order(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = folder / "teacher" / "student" / "model.safetensors"
    student = f"{{arch: cnn, width: 4, depth: 1, in_channels: 3, weights: {teacher}, class_names: ['0', '1', '2']}}"
    evaluate(folder / "teacher.yaml", overrides=[f"models.student={student}"])
    assert "their order is assumed to be that of the data" in capsys.readouterr().err


def test_a_teacher_whose_classes_do_not_count_may_have_others(folder: Path, tmp_path: Path) -> None:
    config = tmp_path / "hint.yaml"
    config.write_text(FOLDER.format(root=folder / "images"))
    overrides = [
        f"models.teacher={{run: {folder / 'teacher'}}}",
        "stages.train.losses.hint={loss: mse, student: student.layers, teacher: teacher.layers}",
        "data.classes=[dark, bright]",
    ]
    Experiment.load(config, overrides=overrides).train(tmp_path / "run")
