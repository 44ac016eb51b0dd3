"""Which images are in which split, and the batches they give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from kd_core.data.batch import SHARED, Batch
from kd_core.data.sources import Parts
from kd_core.data.subset import split
from kd_core.errors import KDError
from kd_seg.data.scenes import Scenes
from kd_seg.data.sources import VOID, PairSubset
from kd_seg.data.spec import DataSpec
from kd_seg.data.splits import SegSplit
from kd_seg.data.transforms import Crop, PairTransform, Whole

CROP = Crop(64, (32, 40))


@dataclass
class Own:
    """Images of the sizes given; those in ``broken`` are an error."""

    sizes: list[tuple[int, int]]
    broken: dict[int, Exception] = field(default_factory=dict)
    fingerprint: str = "own"

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, row: int) -> str:
        return f"image{row}"

    def paths(self, row: int) -> tuple[()]:
        return ()

    def notes(self, rows: np.ndarray) -> list[Any]:
        return []

    def read(self, row: int) -> tuple[Image.Image, np.ndarray]:
        if row in self.broken:
            raise self.broken[row]
        height, width = self.sizes[row]
        mask = np.full((height, width), row, np.int16)
        mask[0] = VOID
        return Image.new("RGB", (width, height), (row, 0, 0)), mask


def batches(made: SegSplit, *orders: Any, epoch: int = 0, augment: bool = True) -> list[Batch]:
    return list(made.batches(map(torch.tensor, orders), epoch=epoch, seed=0, augment=augment))


def of(pairs: Any, view: PairTransform, workers: int = 0) -> SegSplit:
    return SegSplit(PairSubset(pairs), view, workers=workers)


def test_training_batches_have_tensors_of_one_size() -> None:
    (batch,) = batches(of(Scenes(0, 20), CROP), [3, 17, 5])
    images, target = batch.inputs[SHARED], batch.target
    assert (images.shape, images.dtype) == ((3, 3, 32, 40), torch.uint8)
    assert (target.shape, target.dtype) == ((3, 32, 40), torch.int64)
    assert torch.equal(batch.extra["mask"], target >= 0)
    assert set(target.unique().tolist()) <= {VOID, 0, 1, 2, 3, 4, 5}
    assert batch.index.tolist() == [3, 17, 5]
    assert images.is_contiguous()


def test_evaluation_batches_have_images_as_they_are() -> None:
    sizes = [(30, 41), (30, 41), (25, 33)]
    alike, several = batches(of(Own(sizes), Whole()), [0, 1], [1, 2], augment=False)
    assert alike.inputs[SHARED].shape == (2, 3, 30, 41)
    assert alike.target.shape == (2, 30, 41)
    assert alike.extra["mask"].sum() == 2 * 29 * 41
    assert [each.shape for each in several.inputs[SHARED]] == [(3, 30, 41), (3, 25, 33)]
    assert [each.shape for each in several.target] == [(30, 41), (25, 33)]
    assert {each.dtype for each in several.target} == {torch.int64}
    assert several.extra == {}
    assert [int(each.amax()) for each in several.target] == [1, 2]
    assert [int(each[0].amax()) for each in several.inputs[SHARED]] == [1, 2]


def test_scaled_images_keep_their_masks() -> None:
    sizes = [(30, 40), (60, 80)]
    (batch,) = batches(of(Own(sizes), Whole(15)), [0, 1], augment=False)
    assert [each.shape for each in batch.inputs[SHARED]] == [(3, 15, 20)] * 2
    assert [each.shape for each in batch.target] == sizes
    (batch,) = batches(of(Own(sizes), Whole(15)), [1], augment=False)
    assert batch.inputs[SHARED].shape == (1, 3, 15, 20)
    assert batch.target.shape == (1, 60, 80)


def test_a_training_split_gives_its_crop_without_chance_too() -> None:
    (batch,) = batches(of(Own([(40, 60), (50, 64)]), Crop(40, (32, 32))), [0, 1], augment=False)
    assert batch.inputs[SHARED].shape == (2, 3, 32, 32)


def test_samples_do_not_depend_on_batches_workers_or_random_states() -> None:
    expected = batches(of(Scenes(0, 12), CROP), range(12), epoch=3)[0]
    state = torch.get_rng_state()
    made = batches(of(Scenes(0, 12), CROP, workers=2), range(5), range(5, 12), epoch=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.cat([each.inputs[SHARED] for each in made]), expected.inputs[SHARED])
    assert torch.equal(torch.cat([each.target for each in made]), expected.target)
    other = batches(of(Scenes(0, 12), CROP), range(12), epoch=4)[0]
    assert not torch.equal(other.target, expected.target)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "says"), [(KDError("a.png: no mask\n    hint: b"), "a.png: no mask"), (OSError("gone"), "image1: gone")]
)
def test_what_is_wrong_with_an_image_is_told(workers: int, error: Exception, says: str) -> None:
    with pytest.raises(KDError, match=says):
        batches(of(Own([(8, 8)] * 3, {1: error}), Whole(), workers), [0], [1, 2], augment=False)


def parts(train: int = 40, val: int | None = None) -> Parts[PairSubset]:
    subsets = [
        None if count is None else PairSubset(Scenes(100 * start, count)) for start, count in ((0, train), (1, val))
    ]
    return Parts(subsets[0], subsets[1], None, ("a", "b"))


def chosen(**values: Any) -> PairSubset:
    train = split(parts(val=10), DataSpec(name="scenes", **values), 0).train
    assert train is not None
    return train


def test_images_without_a_class_are_chosen_by_a_hash() -> None:
    assert set(chosen(limit=10).rows) < set(chosen(limit=20).rows)
    both = split(parts(), DataSpec(name="scenes"), 0)
    assert both.train is not None
    assert both.val is not None
    assert sorted([*both.train.rows, *both.val.rows]) == list(range(40))
    assert len(both.val) == 4


def test_the_fingerprint_tells_which_images_there_are() -> None:
    def prints(**values: Any) -> str:
        return SegSplit(chosen(**values), CROP, workers=0).fingerprint

    assert len({prints(), prints(limit=5), prints(limit=6), of(Scenes(1, 40), CROP).fingerprint}) == 4
    assert prints() == of(Scenes(0, 40), CROP).fingerprint


def test_rows_have_names() -> None:
    train = chosen(limit=5)
    made = SegSplit(train, CROP, workers=0)
    (batch,) = batches(made, [2])
    assert made.name(int(batch.index[0])) == f"scene_{train.rows[2]:04}"
