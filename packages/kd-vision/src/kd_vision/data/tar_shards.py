"""Images in tar files of WebDataset's layout: ``data: {shards: {train: 'train-{0000..0099}.tar', val: b.tar}}``."""

from __future__ import annotations

import glob
import hashlib
import math
import re
from collections.abc import Sequence
from itertools import chain, product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset

from kd_core.config.schema import StrictModel
from kd_core.data.images import image_in
from kd_core.data.packed import Packed
from kd_core.data.sources import Parts
from kd_core.errors import ConfigError, ConfigProblem, KDError
from kd_core.files import user_path
from kd_vision.data.folders import White, class_order
from kd_vision.data.labelled_subset import UNLABELLED, LabelledSubset
from kd_vision.data.sample_contents import SampleContents
from kd_vision.data.sources import SOURCES, ImageSource
from kd_vision.data.tar_index import TarIndex, member_name, tar_index
from kd_vision.data.torch_datasets import check_labels

Name = Annotated[str, Field(min_length=1)]
Names = Name | Annotated[list[Name], Field(min_length=1)]
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
"""A range of numbers in a name, as shells and webdataset write it."""
MOST = 1_000_000
"""More files no pattern names, and more classes no data set has."""
NUMBER = re.compile("-?[0-9]+")
"""The label that is a class's number; a negative one stands for no label."""


class Shards(StrictModel):
    """Tar files of each split: a file, a pattern, a folder of tar files, or a list of these."""

    train: Names
    val: Names | None = None
    test: Names | None = None


class TarImages(Dataset[tuple[Any, int]]):
    """Images in tar files and their labels; one is decoded, upright and in RGB, when it is asked for."""

    def __init__(self, paths: Sequence[Path], indices: Sequence[TarIndex], labels: Tensor, white: float | None) -> None:
        self.paths = paths
        self.targets, self.white = labels, white
        self.shards = np.repeat(np.arange(len(paths), dtype=np.int32), [len(index) for index in indices])
        self.offsets = np.concatenate([index.offsets for index in indices])
        self.sizes = np.concatenate([index.sizes for index in indices])

    def __len__(self) -> int:
        return len(self.targets)

    def name(self, row: int) -> str:
        """``train-0003.tar: n01440764/0017.jpg``."""
        path = self.paths[int(self.shards[row])]
        return f"{path}: {member_name(path, int(self.offsets[row]))}"

    def encoded(self, row: int) -> bytes:
        """The bytes of an image's file."""
        with self.paths[int(self.shards[row])].open("rb") as file:
            file.seek(int(self.offsets[row]))
            return file.read(int(self.sizes[row]))

    def __getitem__(self, row: int) -> tuple[Any, int]:
        try:
            return image_in(self.encoded(row), "", white=self.white), int(self.targets[row])
        except KDError as error:
            problem = error.problems[0]
            raise KDError(f"{self.name(row)}{problem.message}", hint=problem.hint) from error


def read_shards(
    root: Path, *, shards: Shards, image: Name | None = None, label: Name = "cls", white: White = None
) -> Parts[LabelledSubset]:
    """The splits that ``shards`` names. Labels are whole numbers, or names of classes.

    KDError for files that are not there, all damaged ones together, and labels that are not of a training image.
    """
    if label == "json":
        raise KDError("a json member has many entries", hint="`label: json.KEY` names one", path="label")
    paths = {split: files_of(root, names, f"shards.{split}") for split, names in shards if names is not None}
    indices = {split: indices_of(files, image, label) for split, files in paths.items()}
    texts = {str(text) for index in indices["train"] for text in index.labels if text}
    if label != "cls" and not texts:
        raise KDError(f"no training sample has the label {label!r}", path="label")
    numbered = all(NUMBER.fullmatch(text) for text in texts)
    classes = () if numbered else class_order(sorted(texts))
    numbers = {name: number for number, name in enumerate(classes)}
    subsets = {}
    for split, files in paths.items():
        targets = [targets_of(path, index, numbers) for path, index in zip(files, indices[split], strict=True)]
        subsets[split] = shards_subset(files, indices[split], torch.cat(targets), white)
    check_labels(torch.cat([subset.target for subset in subsets.values()]), classes, "label", "take 1 off each")
    places = {split: f"{len(files)} tar files, {files[0]} ..." for split, files in paths.items()}
    return Parts(subsets["train"], subsets.get("val"), subsets.get("test"), classes or None, places)


def files_of(root: Path, names: str | Sequence[str], where: str) -> list[Path]:
    """The files that names and patterns mean, in their order, below ``root`` or else as they are written."""
    files: list[Path] = []
    for name in [names] if isinstance(names, str) else names:
        found: list[Path] = []
        for each in expanded(name):
            path = next((path for path in (root / user_path(each), user_path(each)) if path.exists()), None)
            if path is not None:
                found += sorted(path.glob("*.tar")) if path.is_dir() else [path]
            else:
                patterns = (str(root / user_path(each)), str(user_path(each)))
                matches = next(filter(None, map(glob.glob, patterns)), [])
                if not matches:
                    raise KDError(f"there is no file {root / each}", path=where)
                found += sorted(map(Path, matches))
        if not found:
            raise KDError(f"there are no tar files in {root / name}", path=where)
        files += found
    return files


def expanded(name: str) -> list[str]:
    """A name with its ranges written out: ``a-{08..10}`` is ``a-08``, ``a-09``, ``a-10``.

    KDError for a range that counts down, and for ranges that make too many names.
    """
    ranges = [range(int(first), int(last) + 1) for first, last in RANGE.findall(name)]
    if not all(ranges):
        raise KDError(f"{name} has a range that counts down", path="shards")
    if math.prod(each.stop - each.start for each in ranges) > MOST:
        raise KDError(f"{name} names more than {MOST:,} files", path="shards")
    parts = RANGE.split(name)
    widths = map(len, parts[1::3])
    numbers = [[str(number).zfill(width) for number in each] for each, width in zip(ranges, widths, strict=True)]
    return ["".join(chain(*zip(parts[::3], (*chosen, ""), strict=True))) for chosen in product(*numbers)]


def indices_of(files: Sequence[Path], image: str | None, label: str) -> list[TarIndex]:
    """The index of each file; ConfigError that names all which cannot be read."""
    indices, problems = [], list[ConfigProblem]()
    for path in files:
        try:
            indices.append(tar_index(path, image=image, label=label))
        except KDError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    if not any(map(len, indices)):
        raise KDError(f"there are no samples in {files[0]}{' and the others' if len(files) > 1 else ''}")
    return indices


def targets_of(path: Path, index: TarIndex, numbers: dict[str, int]) -> Tensor:
    """(N,) the class of each sample, -100 where it has no label; ``numbers`` are empty where labels are numbers."""
    values = []
    for text in map(str, index.labels):
        number = numbers.get(text) if numbers else int(text) if NUMBER.fullmatch(text) else None
        if text and (number is None or number >= MOST):
            what = "the number of a class" if number else "a class of the training images"
            raise KDError(f"{path}: {text!r} is not {what}", path="label")
        values.append(UNLABELLED if number is None or number < 0 else number)
    return torch.tensor(values, dtype=torch.int64)[torch.from_numpy(index.codes)]


def shards_subset(files: list[Path], indices: list[TarIndex], target: Tensor, white: float | None) -> LabelledSubset:
    """All images of some files, told apart by the files' names and the places, labels and content of images."""
    images = TarImages(Packed(files), indices, target, white)
    state = hashlib.sha256("\0".join(path.name for path in files).encode("utf-8", "surrogateescape"))
    for array in (images.shards, images.offsets, images.sizes, target.numpy()):
        state.update(array.tobytes())
    return LabelledSubset(images, target, torch.arange(len(target)), SampleContents(images, state.hexdigest()))


SOURCES("shards")(
    ImageSource(
        "images in tar files of WebDataset's layout: {train: 'train-{0000..0099}.tar', val: b.tar}",
        read_shards,
        size=224,
        channels=3,
        augment="resized_crop_flip",
    )
)
