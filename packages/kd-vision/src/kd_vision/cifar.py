"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) in the layout torchvision uses."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from kd_core.errors import KDError
from kd_vision.pool import Pool, pool_of
from kd_vision.sources import SOURCES, Parts

if TYPE_CHECKING:
    from kd_vision.spec import Data

HOST = "https://www.cs.toronto.edu/~kriz"
_RECONSTRUCT = np.empty(0).__reduce__()[0]


class _Cifar:
    """What both share: where the files are, and what is in them."""

    folder: ClassVar[str]
    archive: ClassVar[str]
    md5: ClassVar[str]
    train_files: ClassVar[tuple[str, ...]]
    test_file: ClassVar[str]
    meta_file: ClassVar[str]
    label_key: ClassVar[str]
    names_key: ClassVar[str]
    num_classes: ClassVar[int]
    shape = (3, 32, 32)
    augment = "crop_flip"

    def read(self, data: Data) -> Parts:
        folder = self._folder(Path(data.root).expanduser(), data.download)
        names = unpickle(folder / self.meta_file).get(self.names_key)
        if not isinstance(names, list) or len(names) != self.num_classes:
            raise KDError(f"{folder / self.meta_file}: holds no list {self.names_key!r} of {self.num_classes} names")
        train = self._pool([folder / file for file in self.train_files])
        return Parts(train, None, self._pool([folder / self.test_file]), tuple(map(str, names)))

    def _folder(self, root: Path, download: bool) -> Path:
        folder = root / self.folder
        if not folder.exists():
            if (root / self.test_file).exists():
                raise KDError(f"{root}: data.root is the folder that holds {self.folder}, here {root.resolve().parent}")
            self._fetch(root, download)
        files = (*self.train_files, self.test_file, self.meta_file)
        missing = [file for file in files if not (folder / file).is_file()]
        if missing:
            raise KDError(
                f"{folder}: {', '.join(missing)} missing; put back, or remove the folder to download {self.archive} again"
            )
        return folder

    def _fetch(self, root: Path, download: bool) -> None:
        raise KDError(
            f"{root}: holds no {self.folder}; unpack {HOST}/{self.archive} there, or set data.root to the folder that holds it"
        )

    def _pool(self, files: list[Path]) -> Pool:
        batches = [self._batch(file) for file in files]
        images, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return pool_of(torch.from_numpy(images), torch.from_numpy(labels))

    def _batch(self, file: Path) -> tuple[np.ndarray, np.ndarray]:
        """uint8 images (N, 3, 32, 32) and labels (N,) of one file."""
        content = unpickle(file)
        images, labels = content.get("data"), content.get(self.label_key)
        if (
            not isinstance(images, np.ndarray)
            or images.dtype != np.uint8
            or images.ndim != 2
            or images.shape[1] != 3072
        ):
            raise KDError(f"{file}: 'data' is no array of uint8 rows of 3,072")
        if not isinstance(labels, list) or len(labels) != len(images):
            raise KDError(f"{file}: {self.label_key!r} is no list of {len(images)} labels")
        if not all(type(label) is int and 0 <= label < self.num_classes for label in labels):
            raise KDError(f"{file}: {self.label_key!r} holds labels that are not in 0 .. {self.num_classes - 1}")
        return images.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


@SOURCES("cifar10")
class Cifar10(_Cifar):
    """50,000 + 10,000 images of 32x32 pixels in 10 classes."""

    folder = "cifar-10-batches-py"
    archive = "cifar-10-python.tar.gz"
    md5 = "c58f30108f718f92721af3b95e74349a"
    train_files = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
    test_file, meta_file = "test_batch", "batches.meta"
    label_key, names_key = "labels", "label_names"
    num_classes = 10
    mean = (0.49139968, 0.48215841, 0.44653091)
    std = (0.24703223, 0.24348513, 0.26158784)


@SOURCES("cifar100")
class Cifar100(_Cifar):
    """50,000 + 10,000 images of 32x32 pixels in 100 classes."""

    folder = "cifar-100-python"
    archive = "cifar-100-python.tar.gz"
    md5 = "eb9058c3a382ffc7106e4002c42a8d85"
    train_files = ("train",)
    test_file, meta_file = "test", "meta"
    label_key, names_key = "fine_labels", "fine_label_names"
    num_classes = 100
    mean = (0.5070754, 0.48655024, 0.44091907)
    std = (0.26733398, 0.25643876, 0.2761503)


def unpickle(file: Path) -> dict[str, Any]:
    """The mapping in a pickle that may hold plain values and numpy arrays, and can call nothing else.

    A data folder may come from a stranger, and a pickle is a program. KDError, naming the file, for any other content.
    """
    try:
        content = _ArraysOnly(io.BytesIO(file.read_bytes()), encoding="latin1").load()
    except Exception as error:  # a broken pickle can raise nearly anything
        raise KDError(f"{file}: is no readable CIFAR file ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise KDError(f"{file}: holds a {type(content).__name__}, not the mapping of a CIFAR file")
    return content


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _empty_array
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 writes bytes
            return _encode
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which CIFAR files do not hold")


def _empty_array(kind: type, shape: tuple[int, ...], code: bytes | str) -> np.ndarray:
    if kind is not np.ndarray or shape != (0,):
        raise pickle.UnpicklingError("an array is not built the way numpy does")
    return _RECONSTRUCT(kind, shape, code)


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are written in {encoding!r}")
    return text.encode("latin1")
