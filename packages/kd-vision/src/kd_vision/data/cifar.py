"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) in the layout torchvision uses."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd_core.data.sources import Parts
from kd_core.download import fetch
from kd_core.download import unpack as unpack_archive
from kd_core.errors import KDError
from kd_vision.data.labelled_subset import LabelledSubset, labelled_images
from kd_vision.data.sources import SOURCES, ImageSource

_RECONSTRUCT: Any = np.empty(0).__reduce__()[0]


@dataclass(frozen=True)
class CifarLayout:
    """The archive of one of the two data sets, its folder, the files in it and their keys."""

    url: str
    sha256: str
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str
    num_classes: int


CIFAR10 = CifarLayout(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    folder="cifar-10-batches-py",
    train=("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"),
    test="test_batch",
    meta="batches.meta",
    labels="labels",
    names="label_names",
    num_classes=10,
)
CIFAR100 = CifarLayout(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    folder="cifar-100-python",
    train=("train",),
    test="test",
    meta="meta",
    labels="fine_labels",
    names="fine_label_names",
    num_classes=100,
)


def read_cifar(layout: CifarLayout, root: Path, download: bool) -> Parts[LabelledSubset]:
    """50,000 + 10,000 images of 32x32 pixels, or those of them that the files hold."""
    folder = find_folder(layout, root, download)
    names = unpickle(folder / layout.meta).get(layout.names)
    if not isinstance(names, list) or len(names) != layout.num_classes:
        raise KDError(f"{folder / layout.meta}: contains no list {layout.names!r} of {layout.num_classes} names")
    train = read_files(layout, [folder / file for file in layout.train])
    places = {"train": str(folder), "test": str(folder / layout.test)}
    return Parts(train, None, read_files(layout, [folder / layout.test]), tuple(map(str, names)), places)


def find_folder(layout: CifarLayout, root: Path, download: bool) -> Path:
    """The folder of the files, downloaded where ``root`` does not hold it; KDError where a file is missing."""
    folder = root / layout.folder
    if not folder.exists():
        if (root / layout.test).is_file():
            raise KDError(f"{root}: data.root is the folder that holds {layout.folder!r}: {root.resolve().parent}")
        if not download:
            raise KDError(f"{root}: contains no folder {layout.folder!r}, and data.download is false")
        unpack(layout, root)
    missing = [file for file in (*layout.train, layout.test, layout.meta) if not (folder / file).is_file()]
    if missing:
        raise KDError(f"{folder}: {', '.join(missing)} missing; remove the folder to download all of it again")
    return folder


def unpack(layout: CifarLayout, root: Path) -> None:
    """Download and unpack the archive into ``root``, all of it or nothing."""
    hint = f"or set data.root to a folder that holds {layout.folder!r}"
    try:
        archive = fetch(layout.url, sha256=layout.sha256, folder=root)
    except KDError as error:
        raise KDError(f"{error}, {hint}") from error
    unpack_archive(archive, layout.folder, root)


def read_files(layout: CifarLayout, files: list[Path]) -> LabelledSubset:
    """The images and labels of some files, in their order."""
    images, labels = zip(*(read_file(layout, file) for file in files), strict=True)
    return labelled_images(torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels)))


def read_file(layout: CifarLayout, file: Path) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images (N, 3, 32, 32) and labels (N,) of one file; KDError where it holds anything else."""
    content = unpickle(file)
    images, labels = content.get("data"), content.get(layout.labels)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3072:
        raise KDError(f"{file}: 'data' is not an array of rows of 3,072 bytes")
    if not isinstance(labels, list) or len(labels) != len(images):
        raise KDError(f"{file}: {layout.labels!r} is not a list of {len(images)} labels")
    if not all(type(label) is int and 0 <= label < layout.num_classes for label in labels):
        raise KDError(f"{file}: {layout.labels!r} has labels outside 0 .. {layout.num_classes - 1}")
    return images.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def unpickle(file: Path) -> dict[str, Any]:
    """The mapping in a pickle that may hold plain values and numpy arrays, and can call nothing else.

    A data folder may come from a stranger, and a pickle is a program. KDError, naming the file, for any other content.
    """
    try:
        content = _ArraysOnly(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    except Exception as error:  # a broken pickle can raise nearly anything
        raise KDError(f"{file}: is not a readable CIFAR file ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise KDError(f"{file}: contains a {type(content).__name__}, not the mapping of a CIFAR file")
    return content


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """One of the few functions that CIFAR's files need; UnpicklingError for any other."""
        allowed: dict[tuple[str, str], Any] = {
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.multiarray", "_reconstruct"): _empty_array,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _encode,  # how protocol 2 writes bytes
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which CIFAR files do not hold")
        return allowed[module, name]


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes | str) -> np.ndarray:
    if kind is not np.ndarray or shape != (0,):  # numpy writes every array so; another shape could ask for any memory
        raise pickle.UnpicklingError("an array is not written the way numpy does")
    return _RECONSTRUCT(kind, shape, code)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are written as {encoding!r}")
    return text.encode("latin1")


SOURCES("cifar10")(
    ImageSource(
        "50,000 + 10,000 images of 32x32 pixels, 10 classes; downloaded (163 MB)",
        partial(read_cifar, CIFAR10),
        splits=("train", "test"),
        num_classes=10,
        shape=(3, 32, 32),
        mean=(0.49139968, 0.48215841, 0.44653091),
        std=(0.24703223, 0.24348513, 0.26158784),
        augment="crop_flip",
    )
)
SOURCES("cifar100")(
    ImageSource(
        "50,000 + 10,000 images of 32x32 pixels, 100 classes; downloaded (161 MB)",
        partial(read_cifar, CIFAR100),
        splits=("train", "test"),
        num_classes=100,
        shape=(3, 32, 32),
        mean=(0.5070754, 0.48655024, 0.44091907),
        std=(0.26733398, 0.25643876, 0.2761503),
        augment="crop_flip",
    )
)
