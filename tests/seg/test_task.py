"""The task: splits, what models take, what they give, what is known beforehand."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from kd_core.config.runtime import RuntimeSpec
from kd_core.data.batch import SHARED, Batch, Splits
from kd_core.data.scenes import CLASSES
from kd_core.device.runtime import Runtime
from kd_core.errors import KDError
from kd_core.task import TASKS
from kd_seg.data.info import SegInfo
from kd_seg.data.sources import VOC_CLASSES, VOID
from kd_seg.data.spec import DataSpec, InputSpec
from kd_seg.task import SemanticSegmentation

SCENES = DataSpec(name="scenes", workers=0)


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def batch(images: Any) -> Batch:
    return Batch({SHARED: images}, [torch.zeros(each.shape[1:]) for each in images], torch.arange(len(images)))


class Gives(nn.Module):
    """Whatever a function of the images gives."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, images: Tensor) -> Any:
        return self.function(images)


def call(function: Any, images: Any) -> dict[str, Any]:
    return SemanticSegmentation().call(Gives(function), images)


def small(images: Tensor, classes: int = 4) -> Tensor:
    """Logits (B, classes, h / 4, w / 4) that depend on the images."""
    return F.avg_pool2d(images, 4).mean(1, keepdim=True) * torch.arange(1, classes + 1)[:, None, None]


def test_the_task_is_registered_under_both_names() -> None:
    assert TASKS.get("semantic_segmentation") is TASKS.get("segmentation") is SemanticSegmentation


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"name": "scenes"}, SegInfo.of(6, input_shape=(3, 64, 64), classes=CLASSES)),
        ({"name": "scenes", "crop": [32, 48], "size": 40}, SegInfo.of(6, input_shape=(3, 32, 48), classes=CLASSES)),
        ({"name": "voc2012", "crop": 65}, SegInfo.of(21, input_shape=(3, 65, 65), classes=VOC_CLASSES)),
        (
            {"folders": {"train": {"images": "a", "masks": "b"}}, "classes": ["sky", "road"]},
            SegInfo.of(2, input_shape=(3, 480, 480), classes=("sky", "road")),
        ),
    ],
)
def test_info_needs_no_file(values: dict[str, Any], expected: SegInfo) -> None:
    assert SemanticSegmentation().info(DataSpec(**values, root="/nowhere")) == expected


def test_classes_are_for_folders() -> None:
    with pytest.raises(ValidationError, match=r"(?s)classes.*Extra inputs"):
        DataSpec(name="scenes", classes=["a", "b"])


def test_scenes_are_split() -> None:
    splits = SemanticSegmentation().load(SCENES, seed=0)
    assert splits.val is not None
    assert splits.test is None
    assert (len(splits.train), len(splits.val), splits.info.model_parameters) == (400, 100, {"num_classes": 6})
    assert splits.info.classes == CLASSES
    (seen,) = splits.val.batches([torch.arange(3)], epoch=0, seed=0, augment=False)
    assert [each.shape for each in seen.target] == [each.shape[1:] for each in seen.inputs[SHARED]]
    assert len({each.shape for each in seen.target}) > 1


def test_the_seed_of_the_data_replaces_the_runs() -> None:
    def prints(run: int, **values: Any) -> str:
        data = DataSpec(name="scenes", limit=50, workers=0, **values)
        return SemanticSegmentation().load(data, seed=run).train.fingerprint

    assert prints(0) != prints(1)
    assert prints(0, seed=7) == prints(1, seed=7)


def test_without_augmentation_every_epoch_is_the_same() -> None:
    def targets(epoch: int, **values: Any) -> Tensor:
        train = SemanticSegmentation().load(DataSpec(name="scenes", workers=0, **values), seed=0).train
        (made,) = train.batches([torch.arange(4)], epoch=epoch, seed=0, augment=True)
        return made.target

    assert torch.equal(targets(0, augment=False), targets(1, augment=False))
    assert not torch.equal(targets(0), targets(1))


def test_evaluation_at_a_size() -> None:
    data = DataSpec(name="scenes", workers=0, eval_size=48)
    val = SemanticSegmentation().load(data, seed=0).val
    assert val is not None
    (seen,) = val.batches([torch.tensor([2])], epoch=0, seed=0, augment=False)
    assert min(seen.inputs[SHARED].shape[-2:]) == 48
    assert min(seen.target.shape[-2:]) >= 64


def test_inputs_are_normalised_as_torchvision_does_it() -> None:
    images = noise(2, 3, 8, 8)
    normalise = v2.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    made = SemanticSegmentation().prepare(batch(images), {"student": InputSpec()}, SCENES, training=True).inputs[SHARED]
    torch.testing.assert_close(made, normalise(images / 255), rtol=0, atol=2e-6)
    assert made.dtype == torch.float32
    several = [noise(3, 8, 8), noise(3, 6, 9)]
    listed = (
        SemanticSegmentation().prepare(batch(several), {"student": InputSpec()}, SCENES, training=True).inputs[SHARED]
    )
    for one, other in zip(several, listed, strict=True):
        torch.testing.assert_close(other, normalise(one / 255), rtol=0, atol=2e-6)


def test_models_that_take_the_same_share_one_tensor() -> None:
    same = InputSpec(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    other = InputSpec(mean=[0.5] * 3, std=[0.25] * 3)
    images = noise(1, 3, 4, 4)
    made = SemanticSegmentation().prepare(
        batch(images), {"student": InputSpec(), "a": same, "b": other}, SCENES, training=True
    )
    assert made.for_model("student") is made.for_model("a")
    torch.testing.assert_close(made.for_model("b"), (images / 255 - 0.5) / 0.25)
    data = DataSpec(name="scenes", mean=[0.5] * 3, std=[0.25] * 3)
    made = SemanticSegmentation().prepare(batch(images), {"student": InputSpec(), "b": other}, data, training=True)
    assert made.for_model("student") is made.for_model("b")


def test_the_dummy_batch_has_every_class_and_void() -> None:
    made = SemanticSegmentation().dummy_batch(DataSpec(name="scenes", crop=[32, 48]), 2, training=True)
    assert made.inputs[SHARED].shape == (2, 3, 32, 48)
    assert made.target.shape == (2, 32, 48)
    assert made.target.unique().tolist() == [VOID, *range(6)]
    assert torch.equal(made.extra["mask"], made.target != VOID)


def test_logits_are_scaled_to_the_images() -> None:
    images = torch.rand(2, 3, 16, 24)
    low = small(images)
    expected = F.interpolate(low, (16, 24), mode="bilinear", align_corners=False)
    for given in (low, {"out": low}, {"logits": low}, SimpleNamespace(logits=low)):
        made = call(lambda _, given=given: given, images)
        assert torch.equal(made["out"], expected)
        assert list(made) == ["out"]


def test_auxiliary_maps_are_scaled_and_other_entries_stay() -> None:
    images = torch.rand(2, 3, 16, 24)
    given = {"features": torch.rand(2, 9, 4, 6), "out": small(images), "aux": 2 * small(images), "loss": None}
    made = call(lambda _: given, images)
    assert list(made) == ["out", "features", "aux"]
    torch.testing.assert_close(made["aux"], 2 * made["out"])
    assert made["features"] is given["features"]
    full = torch.rand(2, 4, 16, 24)
    assert call(lambda _: full, images)["out"] is full


def test_images_of_several_sizes_go_through_one_by_one() -> None:
    images = [torch.rand(3, 16, 24), torch.rand(3, 12, 8)]
    made = call(small, images)["out"]
    assert [each.shape for each in made] == [(4, 16, 24), (4, 12, 8)]
    for one, image in zip(made, images, strict=True):
        assert torch.equal(one, call(small, image[None])["out"][0])


def test_images_of_several_sizes_in_another_memory_format() -> None:
    runtime = Runtime(RuntimeSpec(device="cpu", channels_last=True))
    model = runtime.place(nn.Conv2d(3, 4, 3, stride=2, padding=1))
    images = [torch.rand(3, 16, 24), torch.rand(3, 12, 8)]
    made = runtime.format(batch(images)).for_model("student")
    out = SemanticSegmentation().call(model, made)["out"]
    for one, image in zip(out, images, strict=True):
        torch.testing.assert_close(one, SemanticSegmentation().call(model, image[None])["out"][0])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (torch.rand(2, 5), r"a tensor \(2, 5\) for its logits"),
        ({"scores": torch.rand(2, 5, 4, 4)}, "neither 'out' nor 'logits' but scores"),
        ({}, "but nothing"),
        ({"out": [1]}, "a list for its logits"),
        ("text", "Gives returns a str"),
    ],
)
def test_outputs_without_maps_are_refused(given: Any, says: str) -> None:
    with pytest.raises(KDError, match=says):
        call(lambda _: given, torch.rand(2, 3, 8, 8))


def test_metrics_name_the_classes_of_the_data_asked_about() -> None:
    task = SemanticSegmentation()
    assert "iou/disc" not in task.metrics(SegInfo.of(6)).compute()
    scores = task.metrics(task.info(SCENES)).compute()
    assert [name for name in scores if "/" in name] == [f"iou/{name}" for name in CLASSES]
    assert task.monitor in scores


def test_scores_at_full_resolution_are_those_of_the_maps() -> None:
    """A model that sees the truth in a quarter of the resolution, scored on images of several sizes."""
    task, data = SemanticSegmentation(), DataSpec(name="scenes", workers=0)
    val = task.load(data, seed=0).val
    assert val is not None
    together, alone = (task.metrics(task.info(data)) for _ in range(2))
    for orders, metrics in (([range(4)], together), ([[each] for each in range(4)], alone)):
        for seen in val.batches(map(torch.tensor, orders), epoch=0, seed=0, augment=False):
            truths = [F.one_hot(each.clamp(min=0), 6).movedim(-1, 0).float() for each in seen.target]
            outputs = [F.avg_pool2d(each[None], 2) for each in truths]
            both = zip(outputs, truths, strict=True)
            scaled = [call(lambda _, out=out: out, truth[None, :3])["out"][0] for out, truth in both]
            metrics.update({"out": scaled}, seen)
    figures = together.compute()
    assert figures == pytest.approx(alone.compute(), nan_ok=True)
    assert 85 < figures["miou"] < 100
    assert not math.isnan(figures["iou/cross"])


def masks(tmp_path: Path, *values: list[list[int]], deep: bool = False, **data: Any) -> Splits:
    """Data of an image for each mask of those values, ``deep`` of 16 bits, screened as a run does before it begins."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir(exist_ok=True)
    for number, mask in enumerate(values):
        array = np.array(mask, np.uint8)
        Image.fromarray(array).save(tmp_path / "masks" / f"{number}.png")
        image = Image.fromarray(array.astype(np.uint16) if deep else np.dstack([array] * 3))
        image.save(tmp_path / "images" / f"{number}.png")
    spec = {"root": str(tmp_path), "folders": {"train": {"images": "images", "masks": "masks"}}, "workers": 0, "val": 0}
    splits = SemanticSegmentation().load(DataSpec(**spec, **data), seed=0)
    splits.screen()
    SemanticSegmentation().check_splits(splits)
    return splits


def test_masks_of_one_class_only_are_refused(tmp_path: Path) -> None:
    classes = ["background", "crack"]
    message = r"data: no training mask holds 'crack': every pixel is 'background' or void\n +hint: .*values: \[0, 255\]"
    with pytest.raises(KDError, match=message):
        masks(tmp_path, [[0, 255]], [[0, 0]], classes=classes)
    splits = masks(tmp_path, [[0, 255]], [[0, 0]], classes=classes, values=[0, 255], void=[])
    assert splits.train.class_counts == {"background": 2, "crack": 1}
    with pytest.raises(KDError, match="no training mask holds 'background', 'crack': every pixel is void"):
        masks(tmp_path, [[255, 255]], [[255, 255]], classes=classes)


def test_a_class_that_no_training_mask_holds_is_named(tmp_path: Path) -> None:
    splits = masks(tmp_path, [[0, 1]], [[1, 1]], classes=["ground", "road", "car"])
    assert "warning: the class 'car' has no training sample" in splits.describe()
    assert not any("void" in line for line in splits.describe())
    splits = masks(tmp_path, [[0, 1]], [[1, 255]], classes=["ground", "road", "car"])
    note = "warning: train: no mask has 'car', and 1 mask holds void: is a class among the values of `void`?"
    assert note in splits.describe()
    splits = masks(tmp_path, [[0, 1]], [[1, 1]], classes=["ground", "road", "car"])
    assert "of each class: ground 1, road 2, car 0" in splits.describe()[1]


def test_images_that_are_nearly_black_are_told_of(tmp_path: Path) -> None:
    """As those of cameras with 12 bits in files of 16."""
    splits = masks(tmp_path, [[0, 1]], [[1, 0]], classes=["ground", "road"])
    assert "warning: train: no image is brighter than 1 of 255" in splits.describe()
    splits = masks(tmp_path, [[0, 1]], [[1, 0]], classes=["ground", "road"], deep=True)
    assert any(line.startswith("warning: train: no image is brighter than 0 of 255: 16-") for line in splits.describe())


def test_pairs_that_cannot_be_read_are_left_out_where_that_is_asked_for(tmp_path: Path) -> None:
    classes = ["ground", "road"]
    with pytest.raises(KDError, match=r"(?s)2 files cannot be read:.*holds the value 7.*holds the value 9"):
        masks(tmp_path, [[0, 7]], [[9, 1]], [[0, 1]], classes=classes)
    splits = masks(tmp_path, [[0, 7]], [[9, 1]], [[0, 1]], classes=classes, on_error="skip")
    assert len(splits.train) == 1
    assert any("2 of 3 samples cannot be read and are left out" in line for line in splits.describe())
