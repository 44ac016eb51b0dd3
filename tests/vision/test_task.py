"""The task: splits, what models take, what is known beforehand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from kd_core.data.batch import SHARED, Batch
from kd_core.errors import KDError
from kd_core.task import TASKS
from kd_vision.data.info import ImageInfo
from kd_vision.data.spec import DataSpec, InputSpec
from kd_vision.task import ImageClassification

TASK = ImageClassification()
CIFAR = DataSpec(name="cifar10")
CALL: Any = object()


def batch(images: Tensor) -> Batch:
    return Batch({SHARED: images}, torch.arange(len(images)), torch.arange(len(images)))


def noise(channels: int = 3, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (4, channels, side, side), dtype=torch.uint8, generator=generator)


def test_the_task_is_registered_under_both_names() -> None:
    assert TASKS.get("image_classification") is TASKS.get("classification") is ImageClassification


def test_digits_are_split_and_every_image_is_somewhere_once() -> None:
    splits = TASK.load(DataSpec(name="digits"), seed=0)
    assert splits.val is not None
    assert splits.test is not None
    assert (len(splits.train), len(splits.val), len(splits.test)) == (1294, 144, 359)
    rows = [
        row
        for part in (splits.train, splits.val, splits.test)
        for each in part.batches([torch.arange(len(part))], epoch=0, seed=0, augment=False)
        for row in each.index.tolist()
    ]
    assert sorted(rows) == list(range(1797))
    other = TASK.load(DataSpec(name="digits"), seed=1)
    assert other.test is not None
    assert other.test.fingerprint == splits.test.fingerprint
    assert other.train.fingerprint != splits.train.fingerprint
    fixed = [TASK.load(DataSpec(name="digits", seed=7), seed=seed).train.fingerprint for seed in (0, 1)]
    assert fixed[0] == fixed[1]


@pytest.mark.realdata
def test_the_cifar_subset_is_read_by_its_root(real_data: Any) -> None:
    data = DataSpec(name="cifar10", root=str(real_data / "cifar10"), limit={"train": 500, "test": 100}, download=False)
    splits = TASK.load(data, seed=0)
    assert (len(splits.train), len(splits.val or ()), len(splits.test or ())) == (450, 50, 100)
    [first] = splits.train.batches([torch.arange(450)], epoch=0, seed=0, augment=True)
    assert first.inputs[SHARED].shape == (450, 3, 32, 32)
    assert torch.bincount(first.target).tolist() == [45] * 10


def test_inputs_are_normalised_as_torchvision_does_it() -> None:
    images = noise()
    normalise = v2.Normalize(mean=[0.49139968, 0.48215841, 0.44653091], std=[0.24703223, 0.24348513, 0.26158784])
    made = TASK.prepare(batch(images), {"student": InputSpec()}, CIFAR, training=True).inputs[SHARED]
    torch.testing.assert_close(made, normalise(images / 255), rtol=0, atol=0)
    assert made.dtype == torch.float32


def test_models_that_take_the_same_share_one_tensor() -> None:
    same = InputSpec(mean=list(CIFAR_MEAN), std=list(CIFAR_STD), size=32, channels=3)
    made = TASK.prepare(batch(noise()), {"student": InputSpec(), "teacher": same}, CIFAR, training=True)
    assert made.for_model("student") is made.for_model("teacher")
    other = {"student": InputSpec(), "teacher": InputSpec(size=[16, 24], mean=[0.5], std=[0.5]), "second": InputSpec()}
    made = TASK.prepare(batch(noise()), other, CIFAR, training=True)
    assert made.for_model("student") is made.for_model("second")
    expected = F.interpolate(noise() / 255, (16, 24), mode="bilinear", antialias=True)
    torch.testing.assert_close(made.for_model("teacher"), (expected - 0.5) / 0.5)


CIFAR_MEAN, CIFAR_STD = (0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)


def test_grey_and_colour_become_each_other() -> None:
    grey = noise(1, 8)
    colour = TASK.prepare(
        batch(grey), {"m": InputSpec(channels=3, mean=[0.0], std=[1.0])}, DataSpec(name="digits"), training=True
    )
    torch.testing.assert_close(colour.inputs[SHARED], (grey / 255).expand(-1, 3, -1, -1))
    images = noise()
    made = TASK.prepare(
        batch(images), {"m": InputSpec(channels=1, mean=[0.0], std=[1.0])}, CIFAR, training=True
    ).inputs[SHARED]
    expected = v2.functional.rgb_to_grayscale(images / 255)
    torch.testing.assert_close(made, expected, rtol=0, atol=2e-4)
    assert TASK.prepare(batch(images), {"m": InputSpec(channels=1)}, CIFAR, training=True).inputs[SHARED].shape == (
        4,
        1,
        32,
        32,
    )


@pytest.mark.parametrize(
    ("channels", "spec", "says"),
    [(3, {"channels": 4}, "cannot become 4"), (3, {"mean": [0.1, 0.2]}, "2 values for images of 3 channels")],
)
def test_channels_that_do_not_fit_are_refused(channels: int, spec: dict[str, Any], says: str) -> None:
    with pytest.raises(KDError, match=says):
        TASK.prepare(batch(noise(channels)), {"m": InputSpec(**spec)}, CIFAR, training=True)


def test_the_batch_itself_stays_as_it_was() -> None:
    images = torch.rand(2, 3, 8, 8)
    before = images.clone()
    TASK.prepare(batch(images), {"m": InputSpec()}, CIFAR, training=True)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"name": "digits"}, ImageInfo.of(10, input_shape=(1, 8, 8))),
        ({"name": "cifar100"}, ImageInfo.of(100, input_shape=(3, 32, 32))),
        ({"name": "cifar100", "classes": [3, 4, 5]}, ImageInfo.of(3, input_shape=(3, 32, 32))),
        ({"name": "imagenet"}, ImageInfo.of(None, input_shape=(3, 224, 224))),
        ({"name": "imagenet", "num_classes": 1000, "size": [96, 128]}, ImageInfo.of(1000, input_shape=(3, 96, 128))),
        ({"dataset": {"train": CALL}}, ImageInfo.of(None)),
    ],
)
def test_info_needs_no_file(values: dict[str, Any], expected: ImageInfo) -> None:
    data = DataSpec(**values, root="/nowhere")
    assert TASK.info(data) == expected
    if expected.input_shape is None:
        with pytest.raises(KDError, match="not known before they are read"):
            TASK.dummy_batch(data, 2, training=True)
    else:
        made = TASK.prepare(TASK.dummy_batch(data, 2, training=True), {"m": InputSpec()}, data, training=True)
        assert made.inputs[SHARED].shape == (2, *expected.input_shape)
        assert made.target.tolist() == [0, 1 % (expected.num_classes or 1)]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "give 'name', a data set by its name, or 'dataset'"),
        ({"name": "cifar10", "dataset": {"train": CALL}}, "Extra inputs"),
        ({"name": "cifar"}, "did you mean 'cifar10'"),
        ({"dataset": {"trian": CALL}}, "did you mean 'train'"),
        ({"dataset": {"test": CALL}}, "missing required key 'train'"),
        ({"name": "digits", "limit": 10, "fraction": 0.5}, "'fraction' and 'limit' both"),
        ({"name": "digits", "per_class": 1, "fraction": 0.5}, "both choose"),
        ({"name": "digits", "limit": 0}, "greater than or equal to 1"),
        ({"name": "digits", "limit": True}, "valid integer"),
        ({"name": "digits", "val": 1.0}, "less than 1"),
        ({"name": "digits", "val": -1}, "greater than or equal to 0"),
        ({"name": "digits", "size": 32}, "images of one size"),
        ({"name": "digits", "augment": "mixup"}, "no augmentation 'mixup'"),
        ({"name": "digits", "augment": 3}, "neither the name"),
        ({"name": "digits", "augment": [None]}, "neither the name"),
        ({"name": "digits", "num_classes": 9}, "has 10 classes, not 9"),
        ({"name": "digits", "roots": "x"}, "Extra inputs"),
        ({"name": "digits", "test": "val"}, "no validation split of its own to test on"),
        ({"name": "digits", "std": [0.0]}, "greater than 0"),
    ],
)
def test_a_data_mapping_that_makes_no_sense_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        DataSpec(**values)
