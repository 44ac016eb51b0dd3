"""A transformer's features taught on a folder without labels, and classes on a few labelled images after that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from kd_core.errors import KDError
from kd_core.experiment import Experiment, resume
from kd_core.observers import OBSERVERS, Observer, StepEvent
from kd_vision.data.spec import DataSpec

pytest.importorskip("timm")
ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "configs" / "vision" / "unlabelled_dinov2_resnet18.yaml"
SMALL = [
    *("data.root=labelled", "data.per_class=2", "data.size=64", "data.workers=0", "data.val=0"),
    *("stages.features.data={images: unlabelled, size: 64, workers: 0}", "stages.features.epochs=2"),
    *(
        "stages.classes.data={name: image_folder, root: labelled, size: 64, workers: 0, val: 0}",
        "stages.classes.epochs=1",
    ),
    *("stages.features.batch_size=4", "stages.classes.batch_size=4"),
    *("models.student={timm: test_resnet, pretrained: false}", "stages.features.scheduler=null"),
    "models.teacher={timm: test_vit, weights: null, num_classes: 0, img_size: 64}",
]


def draw(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        pixels = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")


@pytest.mark.parametrize(
    "student",
    [
        "{timm: test_resnet, pretrained: false}",
        "{arch: torchvision.squeezenet1_1}",
        "{timm: test_vit, pretrained: false, img_size: 64}",
    ],
)
def test_the_recipe_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, student: str) -> None:
    monkeypatch.chdir(tmp_path)
    draw(tmp_path / "unlabelled" / "deep", 8)
    for split in ("train", "test"):
        for name in ("a", "b"):
            draw(tmp_path / "labelled" / split / name, 3)
    experiment = Experiment.load(RECIPE, overrides=[*SMALL, f"models.student={student}"])
    experiment.check(strict="timm" in student)
    result = experiment.train()
    assert result.samples == 6
    assert experiment.plan.stages[0].data.options["images"].endswith("unlabelled")


def test_a_folder_without_labels(tmp_path: Path) -> None:
    draw(tmp_path / "photos", 3)
    parts = DataSpec(images=str(tmp_path / "photos")).read()
    assert parts.train.target.tolist() == [-100] * 3
    (tmp_path / "empty").mkdir()
    for name, told in (("empty", "there are no images in"), ("nowhere", "there is no folder")):
        with pytest.raises(KDError, match=rf"data\.images: {told}"):
            DataSpec(images=str(tmp_path / name)).read()


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code catches it."""


class Killer(Observer):
    at = 0

    def after_step(self, event: StepEvent) -> None:
        if event.total == self.at:
            raise Killed


@pytest.mark.slow
def test_a_dinov2_on_the_disk_teaches_and_a_killed_run_ends_in_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(OBSERVERS._items, "killer", Killer)
    draw(tmp_path / "unlabelled" / "deep", 8)
    for split in ("train", "test"):
        for name in ("a", "b"):
            draw(tmp_path / "labelled" / split / name, 3)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).save_pretrained(tmp_path / "dinov2")
    pooled = "teacher.output/pooler_output"
    wires = [f"adapters.student_image.match={pooled}", f"stages.features.losses.image.teacher={pooled}"]
    more = [
        *wires,
        "models.teacher={hub: dinov2, num_classes: 0}",
        "checkpoint={every_steps: 1}",
        "observers={killer: {}}",
    ]

    def trained(run: str) -> bytes:
        Experiment.load(RECIPE, overrides=[*SMALL, *more]).train(tmp_path / run)
        return (tmp_path / run / "student" / "model.safetensors").read_bytes()

    whole = trained("whole")
    for number in (3, 5):  # in the stage of features, and in that of classes
        monkeypatch.setattr(Killer, "at", number)
        with pytest.raises(Killed):
            trained(f"cut{number}")
        monkeypatch.setattr(Killer, "at", 0)
        resume(tmp_path / f"cut{number}")
        assert (tmp_path / f"cut{number}" / "student" / "model.safetensors").read_bytes() == whole
