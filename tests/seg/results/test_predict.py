"""``kd-seg predict`` and ``kd-seg eval --report``: what a model sees, drawn and in tables."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from kd_core.data.scenes import CLASSES, scene
from kd_core.pictures import GAP, LINE, MARGIN, fitted, saved_by
from kd_core.report.samples import worst_samples
from kd_seg.cli import main
from kd_seg.data.sources import VOID
from kd_seg.results.pictures import MADE_BY, colour_map

CONFIG = """
task: semantic_segmentation
data: {name: scenes, limit: {train: 12, val: 9}, size: 48, crop: 48, workers: 0}
models:
  student: {arch: unet, width: 3, depth: 2}
stages:
  train:
    epochs: 2
    batch_size: 6
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
"""
DISTILLED = CONFIG.replace("stages:", "  teacher: {run: TEACHER}\nstages:").replace(
    "cross_entropy}", "cross_entropy}, kd: {loss: kd, temperature: 1.0, mask: batch.mask}"
)


def kd_seg(*arguments: str | Path) -> Result:
    torch.set_num_threads(1)
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs: ``teacher``, and ``student``, whose config names the teacher."""
    folder = tmp_path_factory.mktemp("runs")
    for name, text in (("teacher", CONFIG), ("student", DISTILLED.replace("TEACHER", str(folder / "teacher")))):
        (folder / f"{name}.yaml").write_text(text)
        done = kd_seg("train", folder / f"{name}.yaml", "--out", folder / name)
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Three scenes in files, ``masks`` beside them."""
    for each in ("images", "masks"):
        (tmp_path / each).mkdir()
    for number in range(3):
        drawn = scene(number)
        Image.fromarray(drawn.image).save(tmp_path / "images" / f"scene{number}.png")
        Image.fromarray(np.where(drawn.mask == VOID, 255, drawn.mask).astype(np.uint8)).save(
            tmp_path / "masks" / f"scene{number}.png"
        )
    return tmp_path


def answers(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)["images"]
    return found


def refused(result: Result, message: str) -> None:
    """One message, exit code 2, no traceback."""
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def read(path: str | Path) -> np.ndarray:
    """The values of a picture's pixels: of one with a palette their indices."""
    with Image.open(path) as picture:
        return np.asarray(picture)


def panels(path: Path, height: int, width: int) -> list[np.ndarray]:
    """The panels of a picture of an image of that size."""
    pixels = read(path)
    rows, columns = fitted(height, width)
    count = (pixels.shape[1] - 2 * MARGIN + GAP) // (columns + GAP)
    lefts = [MARGIN + number * (columns + GAP) for number in range(count)]
    return [pixels[MARGIN + LINE : MARGIN + LINE + rows, left : left + columns] for left in lefts]


def test_images_are_drawn(runs: Path, shots: Path) -> None:
    found = answers(kd_seg("predict", runs / "teacher", shots / "images", "--out", shots / "out", "--json"))
    assert [each["name"] for each in found] == ["scene0", "scene1", "scene2"]
    for number, each in enumerate(found):
        image = scene(number).image
        assert (each["height"], each["width"]) == image.shape[:2]
        assert "miou" not in each
        mask = read(each["mask"])
        assert mask.shape == image.shape[:2]
        shares = {CLASSES[kind]: 100 * (mask == kind).mean() for kind in np.unique(mask)}
        assert each["classes"] == pytest.approx(shares)
        assert sum(each["classes"].values()) == pytest.approx(100)
        drawn = panels(Path(each["picture"]), *mask.shape)
        assert len(drawn) == 2, "the image and the student"
        times = drawn[0].shape[0] // mask.shape[0]
        assert np.array_equal(drawn[0][::times, ::times], image)


def test_what_is_doubtful_about_the_images_is_said(runs: Path, shots: Path) -> None:
    (shots / "images" / "notes.txt").touch()
    done = kd_seg("predict", runs / "teacher", shots / "images", "--out", shots / "out")
    assert f"data: warning: 1 file is passed over in {shots / 'images'}, by the ending: 1 .txt" in done.stderr
    Image.new("I;16", (24, 16), 200).save(shots / "dark.png")
    done = kd_seg("predict", runs / "teacher", shots / "dark.png", "--out", shots / "out")
    assert "data: warning: no image is brighter than 1 of 255: 16-bit images are read as if" in done.stderr


def test_the_mask_is_what_the_model_says(runs: Path, shots: Path) -> None:
    """Against the model itself, loaded and called by hand."""
    from safetensors.torch import load_file

    from kd_seg.models.unet import UNet

    (found,) = answers(
        kd_seg("predict", runs / "teacher", shots / "images/scene1.png", "--out", shots / "out", "--json")
    )
    model = UNet(width=3, depth=2, num_classes=len(CLASSES))
    model.load_state_dict(load_file(runs / "teacher" / "student" / "model.safetensors"))
    image = torch.from_numpy(scene(1).image).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        logits = model.eval()((image - mean) / std)["out"]
    assert np.array_equal(read(found["mask"]), logits[0].argmax(0).numpy())


def test_truth_and_teacher_stand_beside_the_student(runs: Path, shots: Path) -> None:
    options = ("--truth", shots / "masks", "--out", shots / "out", "--json")
    found = answers(kd_seg("predict", runs / "student", shots / "images", *options))
    assert [list(each["miou"]) for each in found] == [["teacher", "student"]] * 3
    truth = scene(0).mask
    drawn = panels(Path(found[0]["picture"]), *truth.shape)
    assert len(drawn) == 4
    # the truth's void is hatched; within classes its colours are the devkit's over the image
    times = drawn[1].shape[0] // truth.shape[0]
    small = drawn[1][::times, ::times]
    kind = int(truth.max())
    blend = np.round(0.4 * scene(0).image + 0.6 * colour_map(kind + 1)[kind]).astype(np.uint8)
    assert (small == blend).all(-1)[truth == kind].mean() > 0.5
    # the figure is that of the mask that was written
    mask = read(found[0]["mask"])
    valid = truth != VOID
    ious = []
    for kind in range(len(CLASSES)):
        mine, true = (mask == kind) & valid, (truth == kind) & valid
        if (mine | true).any():
            ious.append(100 * (mine & true).sum() / (mine | true).sum())
    assert found[0]["miou"]["student"] == pytest.approx(np.mean(ious))
    alone = answers(kd_seg("predict", runs / "student", shots / "images", *options, "--no-teacher"))
    assert [list(each["miou"]) for each in alone] == [["student"]] * 3


def test_a_split(runs: Path, tmp_path: Path) -> None:
    done = kd_seg("predict", runs / "student", "--split", "val", "--limit", "2", "--out", tmp_path, "--json")
    found = answers(done)
    assert len(found) == 2
    assert all(set(each["miou"]) == {"teacher", "student"} for each in found)
    text = kd_seg("predict", runs / "student", "--split", "val", "--limit", "2", "--out", tmp_path)
    assert text.exit_code == 0
    lines = text.stdout.splitlines()
    assert len(lines) == 2
    assert re.search(r"_mask", lines[0]) is None
    assert re.search(r"\.png  \d+x\d+  \w+ \d+\.\d%.*  mIoU teacher \d+\.\d, student \d+\.\d$", lines[0])


def test_earlier_pictures_are_replaced_and_other_files_never(runs: Path, shots: Path) -> None:
    image = shots / "images" / "scene0.png"
    before = image.read_bytes()
    for _ in range(2):
        (found,) = answers(kd_seg("predict", runs / "teacher", image, "--out", shots / "images", "--json"))
        assert Path(found["picture"]).name == "scene0-2.png"
    assert image.read_bytes() == before
    assert sorted(path.name for path in (shots / "images").glob("scene0*")) == [
        "scene0-2.png",
        "scene0-2_mask.png",
        "scene0.png",
    ]


def test_images_of_odd_sizes_and_modes(runs: Path, tmp_path: Path) -> None:
    for name, size in (("one", (1, 1)), ("line", (200, 3)), ("odd", (33, 51))):
        Image.new("L" if name == "odd" else "RGBA", size, 90 if name == "odd" else (9, 9, 9, 0)).save(
            tmp_path / f"{name}.png"
        )
    files = [tmp_path / f"{name}.png" for name in ("one", "line", "odd")]
    found = answers(kd_seg("predict", runs / "teacher", *files, "--out", tmp_path / "out", "--json"))
    assert [(each["width"], each["height"]) for each in found] == [(1, 1), (200, 3), (33, 51)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option '--out'"),
        (["--out", "out"], "name a run folder or a config"),
        (["RUN", "--out", "out"], "name images, or a split with --split"),
        (["RUN", "missing.jpg", "--out", "out"], "there is no file missing.jpg"),
        (["RUN", "missing.jpg", "--out", "out"], "1 of 1 images failed: missing.jpg"),
        (["RUN", "broken.jpg", "--out", "out"], "broken.jpg: is not a readable image"),
        (["RUN", "empty", "--out", "out"], "empty: contains no image"),
        (["RUN", "images", "--split", "val", "--out", "out"], "name images, or a split"),
        (["RUN", "images", "--limit", "3", "--out", "out"], "--limit is for --split"),
        (["RUN", "--split", "vol", "--out", "out"], "did you mean 'val'?"),
        (["RUN", "--split", "test", "--out", "out"], "--split train or val"),
        (["RUN", "--split", "val", "--truth", "masks", "--out", "out"], "--truth is for files"),
        (["RUN", "images", "--truth", "empty", "--out", "out"], "empty: contains no image"),
        (["RUN", "other.png", "--truth", "masks", "--out", "out"], "contains no mask other.*"),
        (["RUN", "images", "--teacher", "--out", "out"], "has no model 'teacher'"),
        (["nowhere", "images", "--out", "out"], "nowhere"),
    ],
)
def test_what_is_wrong_is_said(
    runs: Path, shots: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(shots)
    Path("empty").mkdir()
    Path("broken.jpg").write_bytes(b"no image")
    Image.new("RGB", (9, 9)).save("other.png")
    refused(kd_seg("predict", *(str(runs / "teacher") if each == "RUN" else each for each in arguments)), message)
    assert not Path("out").exists()


def test_a_broken_file_is_named_last_and_the_others_are_done(runs: Path, shots: Path) -> None:
    broken = shots / "images" / "scene1.png"
    broken.write_bytes(broken.read_bytes()[:-60])
    gone = shots / "gone.png"
    done = kd_seg("predict", runs / "teacher", shots / "images", gone, "--out", shots / "out", "--json")
    assert done.exit_code == 2
    assert done.stderr.endswith(f"2 of 4 images failed; the others are done: {broken}, {gone}\n")
    told = json.loads(done.stdout)
    assert [image["name"] for image in told["images"]] == ["scene0", "scene2"]
    assert [image["name"] for image in told["failed"]] == ["scene1", "gone"]
    names = {"scene0.png", "scene0_mask.png", "scene2.png", "scene2_mask.png"}
    assert {path.name for path in (shots / "out").iterdir()} == names


def test_a_teacher_that_is_gone_is_said(runs: Path, shots: Path, tmp_path: Path) -> None:
    config = tmp_path / "lost.yaml"
    config.write_text(
        DISTILLED.replace("{run: TEACHER}", f"{{arch: unet, width: 3, depth: 2, weights: {tmp_path}/x.pt}}")
    )
    student = f"models.student.weights={runs}/student/student/model.safetensors"
    options = (shots / "images", "--out", shots / "out", "--set", student)
    shown = kd_seg("predict", config, *options)
    assert shown.exit_code == 0, shown.output
    assert "without the teacher" in shown.stderr
    refused(kd_seg("predict", config, *options, "--teacher"), "x.pt")


def tables(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file, delimiter="," if name.endswith("csv") else "\t"))


def test_a_report(runs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    plain = json.loads(kd_seg("eval", runs / "student", "--json").stdout)
    done = kd_seg("eval", runs / "student", "--report", folder, "--worst", "2", "--json")
    assert json.loads(done.stdout)["metrics"] == pytest.approx(plain["metrics"], nan_ok=True)
    matrix = np.array([[int(row[name]) for name in CLASSES] for row in tables(folder, "confusion.csv")])
    assert matrix.shape == (6, 6)
    accuracy = 100 * matrix.trace() / matrix.sum()
    assert accuracy == pytest.approx(plain["metrics"]["pixel_accuracy"])
    classes = tables(folder, "classes.tsv")
    assert [row["class"] for row in classes] == list(CLASSES)
    assert [int(row["pixels"]) for row in classes] == matrix.sum(1).tolist()
    assert [int(row["predicted"]) for row in classes] == matrix.sum(0).tolist()
    for row in classes:
        assert float(row["iou"]) == pytest.approx(plain["metrics"][f"iou/{row['class']}"], rel=1e-5)
    images = tables(folder, "images.tsv")
    assert len(images) == 9
    scores = [float(row["miou"]) for row in images]
    assert scores == sorted(scores)
    worst = sorted(path.name for path in (folder / "worst").iterdir())
    assert worst == [f"{number:02}_{row['image']}.png" for number, row in enumerate(images[:2], 1)]
    with Image.open(folder / "confusion.png") as picture:
        assert min(picture.size) > 300


def test_a_later_report_takes_an_earlier_ones_place(runs: Path, tmp_path: Path) -> None:
    assert kd_seg("eval", runs / "student", "--report", tmp_path, "--worst", "3").exit_code == 0
    own = tmp_path / "worst" / "mine.png"
    Image.new("RGB", (9, 9)).save(own)
    done = kd_seg("eval", runs / "student", "--report", tmp_path, "--worst", "1")
    assert done.exit_code == 0
    assert str(tmp_path) in done.output
    left = sorted((tmp_path / "worst").iterdir())
    assert [saved_by(path, MADE_BY) for path in left] == [True, False]
    assert kd_seg("eval", runs / "student", "--report", tmp_path, "--worst", "0").exit_code == 0
    assert list((tmp_path / "worst").iterdir()) == [own]


def test_worst_needs_a_report(runs: Path) -> None:
    refused(kd_seg("eval", runs / "student", "--worst", "3"), "--worst is for --report")


def test_the_worst_images_of_a_report(runs: Path) -> None:
    worst = worst_samples(runs / "student", 3)
    assert (worst.split, worst.samples, len(worst.views)) == ("val", 9, 3)
    lacking = [loss for loss, _ in worst.views]
    assert lacking == sorted(lacking, reverse=True)
    for loss, view in worst.views:
        assert view.facts == {view.name: f"mean IoU {100 - loss:.1f} %"}
        assert view.picture is not None
        assert view.picture.width > 3 * 48
