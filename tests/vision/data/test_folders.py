"""Images read one by one: folders, data sets of the user's own, workers, seeds."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.transforms import v2

from kd_core.data.batch import SHARED, Splits
from kd_core.errors import KDError
from kd_vision.data.augment import Augmentation
from kd_vision.data.loading import ImageReader
from kd_vision.data.spec import DataSpec, InputSpec
from kd_vision.task import ImageClassification

TASK = ImageClassification()
CLASSES = ("ant", "bee")
PER_CLASS = 6


def picture(number: int, width: int = 40, height: int = 30) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def fill(folder: Path, classes: tuple[str, ...] = CLASSES, per_class: int = PER_CLASS) -> None:
    for position, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            picture(100 * position + number).save(folder / name / f"{number}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fill(tmp_path / "train")
    fill(tmp_path / "val", per_class=2)
    return tmp_path


def load(root: Path, seed: int = 0, **values: Any) -> Splits:
    values = {"name": "image_folder", "root": str(root), "size": 16, "test": "val", "val": 0, "workers": 0, **values}
    return TASK.load(DataSpec(**values), seed=seed)


def views(splits: Splits, order: Tensor | None = None, size: int = 4, **how: Any) -> dict[int, Tensor]:
    """Row -> image as training sees it."""
    how = {"epoch": 0, "seed": 0, "augment": True, **how}
    order = torch.arange(len(splits.train)) if order is None else order
    seen: dict[int, Tensor] = {}
    for batch in splits.train.batches(order.split(size), **how):
        seen.update(zip(batch.index.tolist(), batch.inputs[SHARED], strict=True))
    return seen


def equal(one: dict[int, Tensor], other: dict[int, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[row], other[row]) for row in one)


def test_folders_are_classes_and_splits_have_the_roles_of_their_names(root: Path) -> None:
    splits = load(root)
    assert splits.info.classes == CLASSES
    assert (len(splits.train), splits.val, len(splits.test or ())) == (12, None, 4)
    splits = load(root, val=None, test=None)
    assert (len(splits.train), len(splits.val or ()), splits.test) == (12, 4, None)
    fill(root / "test", per_class=1)
    splits = load(root, val=None, test=None)
    assert (len(splits.train), len(splits.val or ()), len(splits.test or ())) == (12, 4, 2)
    assert splits.describe()[1:] == [
        f"train: 12 training samples in {root / 'train'}; 6 of each class",
        f"val: 4 validation samples in {root / 'val'}; 2 of each class",
        f"test: 2 test samples in {root / 'test'}; 1 of each class",
    ]


def test_evaluation_resizes_and_crops_the_centre(root: Path) -> None:
    splits = load(root, size=28)
    [batch] = splits.train.batches([torch.tensor([7])], epoch=0, seed=0, augment=False)
    expected = v2.functional.center_crop(v2.functional.resize(picture(101), 32), [28, 28])
    assert torch.equal(batch.inputs[SHARED][0], v2.functional.pil_to_tensor(expected))
    assert batch.target.tolist() == [1]


def test_one_rule_brings_every_image_to_its_size(root: Path) -> None:
    """One that has the size already is no exception, and nothing is padded."""
    for size, share in ((30, 0.875), (30, 1.0), ([30, 40], 1.0), ([30, 40], 0.5), ([20, 8], 1.0)):
        splits = load(root, size=size, eval_crop=share)
        [batch] = splits.train.batches([torch.tensor([7])], epoch=0, seed=0, augment=False)
        image, (height, width) = batch.inputs[SHARED][0], (size, size) if isinstance(size, int) else size
        assert image.shape == (3, height, width)
        scale = max(height / 30, width / 40) / share
        shape = [round(30 * scale), round(40 * scale)] if height != width else [round(height / share)]
        resized = v2.functional.resize(picture(101), shape)
        expected = v2.functional.center_crop(resized, [height, width])
        assert (image.float() - v2.functional.pil_to_tensor(expected).float()).abs().mean() < 1e-6
    assert TASK.preprocessing(DataSpec(name="image_folder", size=8, eval_crop=1)) == {"size": [8, 8], "eval_crop": 1}
    assert TASK.preprocessing(DataSpec(name="digits")) == {"size": [8, 8]}


AUGMENTS: list[Any] = [
    None,
    ["resized_crop_flip", "cutout"],
    "crop_flip",
    [v2.RandomCrop(16), v2.RandomHorizontalFlip(), v2.RandAugment(), {"op": "cutout", "size": 4}],
]


@pytest.mark.parametrize("augment", AUGMENTS)
def test_views_do_not_depend_on_batches_workers_or_random_states(root: Path, augment: Any) -> None:
    expected = views(load(root, augment=augment))
    assert next(iter(expected.values())).shape == (3, 16, 16)
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    assert equal(expected, views(load(root, augment=augment), torch.randperm(12).flip(0), size=5))
    torch.set_rng_state(before[0])
    assert equal(expected, views(load(root, augment=augment, workers=2)))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), str(np.random.get_state()))


def test_views_depend_on_seed_and_epoch_and_reading_can_begin_anywhere(root: Path) -> None:
    splits = load(root)
    expected = views(splits)
    for how in ({"seed": 1}, {"epoch": 1}):
        other = views(splits, **how)
        assert all(not torch.equal(expected[row], other[row]) for row in expected)
    rest = views(splits, torch.arange(5, 12))
    assert equal({row: expected[row] for row in range(5, 12)}, rest)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_damaged_image_is_named(root: Path, workers: int, content: bytes | None) -> None:
    file = root / "train" / "bee" / "3.png"
    file.write_bytes(file.read_bytes()[:200] if content is None else content)
    with pytest.raises(KDError, match=rf"^{file}: is not a readable image"):
        views(load(root, workers=workers))


def test_a_signal_to_the_whole_group_does_not_stop_reading(root: Path) -> None:
    train = load(root, workers=2).train
    batches = train.batches(torch.arange(12).split(1), epoch=0, seed=0, augment=True)
    seen = [next(batches), next(batches)]  # one of each worker: both are ready for signals
    for child in active_children():
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child.pid or 0, number)
    seen += batches
    assert [each.index.item() for each in seen] == list(range(12))
    train.close()
    assert active_children() == []


def test_folders_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KDError, match="contains no folder 'train'"):
        load(tmp_path)
    (tmp_path / "train" / "ant").mkdir(parents=True)
    with pytest.raises(KDError, match="contains no images"):
        load(tmp_path)
    picture(0).save(tmp_path / "train" / "ant" / "0.png")
    fill(tmp_path / "val", ("wasp",))
    with pytest.raises(KDError, match="'wasp' is not a class of the training images"):
        load(tmp_path)


def test_a_class_without_test_images_keeps_the_numbers_of_the_others(root: Path) -> None:
    for file in (root / "val" / "ant").iterdir():
        file.unlink()
    (root / "val" / "ant").rmdir()
    test = load(root).test
    assert test is not None
    [batch] = test.batches([torch.arange(len(test))], epoch=0, seed=0, augment=False)
    assert batch.target.tolist() == [1, 1]


def test_unlabelled_images_join_the_training_images(root: Path, tmp_path: Path) -> None:
    fill(tmp_path / "more", ("x", "y/z"), per_class=2)
    splits = load(root, unlabelled=str(tmp_path / "more"), labelled=4)
    [batch] = splits.train.batches([torch.arange(16)], epoch=0, seed=0, augment=False)
    assert batch.index.tolist() == list(range(16))
    assert (batch.target >= 0).sum() == 4
    assert (batch.target[12:] == -100).all()
    digits = DataSpec(name="digits", limit=10, val=0, unlabelled=str(tmp_path / "more"))
    [batch] = TASK.load(digits, seed=0).train.batches([torch.arange(14)], epoch=0, seed=0, augment=False)
    assert batch.inputs[SHARED].shape == (14, 1, 8, 8)
    assert (batch.target == -100).tolist() == [False] * 10 + [True] * 4
    with pytest.raises(KDError, match="no images in"):
        load(root, unlabelled=str(tmp_path / "nothing"))


class Own(Dataset[tuple[Any, int]]):
    """Nine images of noise that is new at every reading, labels read from samples only."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return (torch.rand(3, 8, 8) + random.random() + np.random.rand()) / 3, row % 3


def own(train: Any, **values: Any) -> Splits:
    values = {"dataset": {"train": train}, "val": 0, "workers": 0, **values}
    return TASK.load(DataSpec(**values), seed=0)


def test_a_data_set_of_ones_own_is_seeded_sample_by_sample() -> None:
    splits = own(Own())
    assert splits.info.model_parameters["num_classes"] == 3
    assert splits.test is None
    assert equal(views(splits), views(own(Own()), torch.arange(9).flip(0), size=2))
    assert not equal(views(splits), views(splits, epoch=1))
    assert equal(views(splits), views(own(Own(), workers=2)))


def test_float_images_are_taken_as_they_are() -> None:
    images = torch.rand(6, 3, 4, 4)
    splits = own(TensorDataset(images, torch.arange(6)))
    [batch] = splits.train.batches([torch.arange(6)], epoch=0, seed=0, augment=False)
    assert torch.equal(batch.inputs[SHARED], images)
    data = DataSpec(dataset={"train": Own()}, mean=[0.0], std=[1.0])
    assert torch.equal(TASK.prepare(batch, {"student": InputSpec()}, data, training=True).inputs[SHARED], images)


def test_pictures_with_palettes_and_arrays_with_a_size_are_read_as_they_look() -> None:
    image = picture(1).convert("P")
    splits = own([(image, 0)])
    [batch] = splits.train.batches([torch.arange(1)], epoch=0, seed=0, augment=False)
    assert torch.equal(batch.inputs[SHARED][0], v2.functional.pil_to_tensor(image.convert("RGB")))
    assert views(own([(np.array(picture(1)), 0)], size=8))[0].shape == (3, 8, 8)


def test_what_readers_get_can_be_sent_to_processes_that_are_not_forked(root: Path) -> None:
    reader = ImageReader(load(root).train.subset, Augmentation(), (8, 8))  # type: ignore[attr-defined]
    copy = pickle.loads(pickle.dumps(reader))
    one, other = (each.sample(3, seed=0, epoch=0, augment=False)[0] for each in (reader, copy))
    assert torch.equal(one, other)


class Dicts(Own):
    targets = [0] * 9

    def __getitem__(self, row: int) -> Any:
        return {"image": torch.rand(3, 4, 4)}


def test_samples_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(KDError, match="must be a pair of an image and a label, not dict"):
        views(own(Dicts()))


@pytest.mark.parametrize("kind", ["pil", "array", "grey array", "uint8"])
def test_images_may_come_in_several_kinds(kind: str) -> None:
    image = picture(1, 8, 6)
    made = {
        "pil": image,
        "array": np.array(image),
        "grey array": np.array(image.convert("L")),
        "uint8": v2.functional.pil_to_tensor(image),
    }[kind]
    splits = own([(made, 0), (made, 1)])
    [batch] = splits.train.batches([torch.arange(2)], epoch=0, seed=0, augment=False)
    expected = v2.functional.pil_to_tensor(image.convert("L") if "grey" in kind else image)
    assert torch.equal(batch.inputs[SHARED][0], expected)


def test_labels_are_found_without_reading_all_images() -> None:
    class Kept(Own):
        def __init__(self, repeats: int = 3) -> None:
            self.targets, self.read = [2, 1, 0] * repeats, set[int]()

        def __len__(self) -> int:
            return len(self.targets)

        def __getitem__(self, row: int) -> tuple[Any, int]:
            self.read.add(row)
            return None, 2 - row % 3

    assert own(Subset(Kept(), [0, 2])).info.model_parameters["num_classes"] == 3
    joined = own(ConcatDataset([Kept(), Subset(Kept(), [1])]), per_class=3)
    assert len(joined.train) == 9
    many = Kept(3_000)
    own(many)
    assert 8_999 in many.read
    assert len(many.read) <= 32


def test_a_list_of_labels_that_is_not_the_samples_is_refused() -> None:
    class Swapped(Own):
        targets = [0, 1, 2] * 3

        def __getitem__(self, row: int) -> tuple[Any, int]:
            return super().__getitem__(row)[0], 1 - min(row % 3, 1)

    with pytest.raises(KDError, match=r"train: sample 0 has the label 1, and the data set's list of labels says 0\n"):
        own(Swapped())


def test_labels_from_one_are_refused() -> None:
    images = torch.rand(4, 3, 4, 4)
    with pytest.raises(KDError, match="the labels run from 1 to 2, and those of the first class must be 0"):
        own(TensorDataset(images, torch.tensor([1, 2, 1, 2])))
    named = TensorDataset(images, torch.tensor([1, 2, 1, 2]))
    named.classes = ["none", "a", "b"]  # type: ignore[attr-defined]  # as EMNIST's letters
    assert "warning: the class 'none' has no training sample" in own(named).describe()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.full((3, 2, 2), 254.0), "image 0 holds values from 254 to 254, and images are floats in"),
        (np.full((2, 2, 3), 9.0), "image 0 holds values from 9 to 9, and images are floats in"),
        (torch.full((3, 2, 2), -1.5), "(?s)image 0 holds values from -1.5 to .*the run normalises images itself"),
        (torch.full((3, 2, 2), 300), "image 0 holds values from 300 to 300, and images are integers in"),
        (torch.full((3, 2, 2), float("nan")), "image 0 holds values from nan"),
    ],
)
def test_values_that_no_image_has_are_refused(image: Any, message: str) -> None:
    with pytest.raises(KDError, match=message):
        views(own([(image, 0), (image, 1)]))


def test_images_that_are_normalised_already_go_with_a_mean_of_zero() -> None:
    image = torch.full((3, 2, 2), -1.5)
    assert torch.equal(views(own([(image, 0), (image, 1)], mean=[0.0], std=[1.0]))[1], image)


@pytest.mark.parametrize("dtype", [np.uint16, np.int64, bool])
def test_other_types_of_images_are_scaled_to_bytes(dtype: Any) -> None:
    grey = np.array([[0, 1], [1, 0]])
    image = (grey * {np.uint16: 65535, np.int64: 255, bool: 1}[dtype]).astype(dtype)
    for sample in (image, *([Image.fromarray(image)] if dtype == np.uint16 else [])):
        seen = views(own([(sample, 0), (sample, 1)]))[0]
        assert (seen.dtype, seen.tolist()) == (torch.uint8, [[[0, 255], [255, 0]]])


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([])


@pytest.mark.parametrize(
    ("train", "says"),
    [
        (Endless(), "is not a map-style data set"),
        ([], "is empty"),
        ([1, 2], "not pairs of an image and a label"),
        ([(torch.rand(3, 4, 4), 0.5)], "one integer label"),
        ([(torch.rand(3, 4, 4), "ant")], "labels are not integers"),
        ([(torch.rand(3, 4, 4), [1, 0])], "one integer label"),
    ],
)
def test_what_is_no_data_set_for_classification_is_refused(train: Any, says: str) -> None:
    with pytest.raises(KDError, match=f"data.dataset.train.*{says}"):
        own(train)


def test_images_of_several_sizes_need_a_size() -> None:
    dataset = [(picture(0, 10, 10), 0), (picture(1, 12, 10), 1)]
    with pytest.raises(KDError, match=r"(?s)differ in shape.*data\.size"):
        views(own(dataset))
    assert views(own(dataset, size=8))[1].shape == (3, 8, 8)


def test_images_in_memory_take_transforms_too() -> None:
    data = {"name": "digits", "limit": 10, "val": 0, "workers": 0}
    splits = TASK.load(DataSpec(**data, augment=[v2.RandomAffine(15), "flip"]), seed=0)
    assert next(iter(views(splits).values())).shape == (1, 8, 8)
    assert equal(views(splits), views(splits, size=1))


def test_hidden_and_empty_folders_are_no_classes_and_links_are_followed(root: Path, tmp_path: Path) -> None:
    picture(1).save(root / "train" / "ant" / "kept.jfif", "JPEG")
    for name in (".ipynb_checkpoints/0.png", "ant/.ipynb_checkpoints/0.png", "ant/._0.png"):
        (root / "train" / name).parent.mkdir(exist_ok=True)
        (root / "train" / name).write_bytes(b"no image")
    for name in ("ant/Thumbs.db", "ant/notes.txt", "loose.png"):
        (root / "train" / name).write_bytes(b"x")
    (root / "train" / "zzz").mkdir()
    (root / "val" / "unknown").mkdir()
    fill(tmp_path / "elsewhere", ("cat",))
    (root / "train" / "cat").symlink_to(tmp_path / "elsewhere" / "cat")
    (root / "train" / "bee" / "more").symlink_to(tmp_path / "elsewhere" / "cat")
    splits = load(root)
    assert splits.info.classes == ("ant", "bee", "cat")
    assert splits.summary.splits[0].counts == {"ant": 7, "bee": 12, "cat": 6}
    assert list(map(str, splits.summary.notes)) == [
        f"warning: {root / 'train' / 'zzz'} holds no image and is not a class",
        f"warning: 1 file in {root / 'train'} lies in no folder of a class",
        f"warning: 1 file is passed over in {root / 'train'}, by the ending: 1 .txt",
        f"warning: {root / 'val' / 'unknown'} holds no image and is not a class",
    ]


def test_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    names = tuple(map(str, range(1, 12)))
    fill(tmp_path / "train", names, per_class=1)
    splits = load(tmp_path, test=None)
    assert splits.info.classes == names
    assert splits.summary.notes[0].text.startswith(
        "class folders are numbers, taken by value: class 0 is '1', 1 is '2'"
    )
    assert load(tmp_path, test=None, classes=["2", "11"]).info.classes == ("2", "11")
    with pytest.raises(KDError, match="2 may be the class named '2', or the class at position 2"):
        load(tmp_path, test=None, classes=[2, 11])


def test_a_split_by_another_name_is_said_not_to_be_read(root: Path) -> None:
    (root / "val").rename(root / "valid")
    (root / "notes").mkdir()
    lines = [str(note) for note in load(root, test=None).summary.notes]
    assert lines == [f"warning: {root / 'valid'} is not read: the folders of a data set are train, val and test"]


def test_a_class_that_training_has_not_is_refused_in_every_split(root: Path) -> None:
    for split in ("val", "test"):
        fill(root / split, ("wasp",), per_class=1)
        with pytest.raises(KDError, match=rf"{split}: 'wasp' is not a class of the training images"):
            load(root, test=None)
        shutil.rmtree(root / split / "wasp")


def test_an_image_of_two_splits_is_told_where_files_are_read_whole(root: Path) -> None:
    source, copy = root / "train" / CLASSES[0] / "5.png", root / "test" / CLASSES[0] / "copy.png"
    copy.parent.mkdir(parents=True)
    shutil.copy(source, copy)
    splits = load(root, val=None, test=None)
    splits.screen()
    assert f"test samples is a training sample, too: {copy} is {source}" in "\n".join(splits.describe())


def test_all_folders_without_a_class_are_named(root: Path) -> None:
    fill(root / "test", per_class=1)
    for split, name in (("val", "wasp"), ("test", "moth")):
        (root / split / CLASSES[0]).rename(root / split / name)
    with pytest.raises(KDError, match=r"(?s)'wasp' is not a class.*'moth' is not a class"):
        load(root, val=None, test=None)
