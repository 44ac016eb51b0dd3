"""What is said of samples that are there twice, and of images of many bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kd_core.data.images import read_image
from kd_core.data.seen import SeenSamples, quoted


class Named:
    """A split of samples in memory."""

    def __init__(self, hashes: list[int], classes: list[int] | None = None) -> None:
        self._hashes = dict(enumerate(hashes))
        self._classes = classes

    @property
    def sample_classes(self) -> Tensor | None:
        return None if self._classes is None else torch.tensor(self._classes)

    def contents(self) -> Mapping[int, int]:
        return self._hashes

    def sample_name(self, position: int) -> str:
        return f"sample {position}"


def said(splits: Mapping[str, Named], seen: SeenSamples | None = None) -> list[str]:
    return list(map(str, (seen or SeenSamples()).notes(splits)))


def test_samples_of_two_splits_are_counted_and_one_is_named() -> None:
    splits = {"train": Named([5, 6, 7]), "val": Named([8, 7]), "test": Named([6, 5, 1, 8])}
    assert said(splits) == [
        "warning: 1 of 2 validation samples is a training sample, too: sample 1 is sample 2",
        "warning: 2 of 4 test samples are training samples, too: sample 0 is sample 1",
        "warning: 1 of 4 test samples is a validation sample, too: sample 3 is sample 0",
    ]
    assert said({"train": Named([1, 1]), "test": Named([2])}) == []


def test_equal_training_samples_of_different_classes_are_told() -> None:
    assert said({"train": Named([4, 9, 4, 9, 3], [0, 1, 1, 1, 0])}) == [
        "warning: 1 training sample is there with different classes: sample 0 and sample 2"
    ]
    assert said({"train": Named([4, 4], [0, -100])}) == []


def write(path: Path, values: np.ndarray) -> Image.Image:
    Image.fromarray(values).save(path)
    return read_image(path)


@pytest.mark.parametrize(("others", "level"), [(1, "warning: "), (0, "")])
def test_images_of_many_bits_are_counted(tmp_path: Path, others: int, level: str) -> None:
    seen = SeenSamples()
    seen.look("train", 0, (write(tmp_path / "deep.png", np.full((4, 4), 40_000, np.uint16)), 0))
    for position in range(1, 1 + others):
        seen.look("train", position, (write(tmp_path / "usual.png", np.full((4, 4), 40, np.uint8)), 0))
    [line] = said({"train": Named([])}, seen)
    assert line.startswith(f"{level}1 of {1 + others} images have more than 8 bits a value, such as sample 0: 65,535")


def test_a_white_that_is_given_is_not_doubtful(tmp_path: Path) -> None:
    write(tmp_path / "deep.png", np.full((4, 4), 4000, np.uint16))
    seen = SeenSamples()
    seen.look("train", 0, read_image(tmp_path / "deep.png", white=4095))
    assert said({"train": Named([])}, seen) == []


def test_equal_pixels_of_other_sizes_are_other_images(tmp_path: Path) -> None:
    seen = SeenSamples()
    seen.look("train", 0, write(tmp_path / "a.png", np.zeros((4, 2, 3), np.uint8)))
    seen.look("test", 0, write(tmp_path / "b.png", np.zeros((2, 4, 3), np.uint8)))
    seen.look("test", 1, write(tmp_path / "c.bmp", np.zeros((4, 2, 3), np.uint8)))
    seen.look("test", 2, "no image")
    [line] = said({"train": Named([]), "test": Named([])}, seen)
    assert "1 of 2 test samples is a training sample" in line


def test_long_texts_are_cut() -> None:
    assert quoted("a\n" + "b" * 90, "c") == "'a\\n" + "b" * 58 + "...' / 'c'"
