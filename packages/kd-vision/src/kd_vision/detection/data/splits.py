"""Parts of a data set that give batches of images with boxes, masks and keypoints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_core.data.batch import SHARED, Batch, Split
from kd_core.data.images import Brightness
from kd_core.data.loading import SampleLoader, SampleReader
from kd_core.data.rng import CounterRNG
from kd_core.data.screening import Readable
from kd_core.data.shapes import pixels_of
from kd_core.data.showings import positions_of
from kd_core.errors import KDError
from kd_core.notes import Note
from kd_vision.detection.data.geometry import Sample, mirror_of
from kd_vision.detection.data.transforms import Augmentation, parse

if TYPE_CHECKING:
    from PIL.Image import Image

    from kd_vision.detection.data.info import DetectionInfo
    from kd_vision.detection.data.sources import Annotated, BoxSubset
    from kd_vision.detection.data.spec import DataSpec

Target = dict[str, Any]
"""A target as it is handed over from process to process: arrays, which are cheaper to send, and masks as a tensor."""
Read = tuple[Tensor, Target, int]
"""An image (3, H, W) uint8, its target, and its row."""


class DetectionSplit(Split):
    """Images with their objects, read by ``workers`` processes or, with 0, by this one.

    For ``training`` crowds and boxes without an area are left out, and ``augmentation`` transforms what is left. With
    ``masks`` a target has the masks, and with ``keypoint_names`` the keypoints. ``groups`` as torchvision's
    ``--aspect-ratio-group-factor``: batches are made of images of like shape, of 2 ``groups`` + 2 ranges of height
    over width; None: they are not.
    """

    marks = True

    def __init__(
        self,
        part: BoxSubset,
        augmentation: Augmentation | None = None,
        *,
        workers: int | None,
        training: bool = False,
        masks: bool = False,
        keypoint_names: Sequence[str] | None = None,
        groups: int | None = None,
    ) -> None:
        self.part = part
        self.groups = groups
        self.brightness = Brightness()
        augmentation = Augmentation() if augmentation is None else augmentation
        self.fixed = augmentation.fixed
        mirror = None if keypoint_names is None or self.fixed else mirror_of(keypoint_names)
        reader = BoxReader(part, augmentation, training, masks, keypoint_names is not None, mirror)
        self.loader = SampleLoader(reader, workers)

    @classmethod
    def of(cls, part: BoxSubset, data: DataSpec, info: DetectionInfo, *, training: bool) -> DetectionSplit:
        """The split that a config asks for; in evaluation nothing is augmented, and batches are as they come."""
        return cls(
            part,
            parse(data.augment) if training else None,
            workers=data.workers,
            training=training,
            masks=data.masks,
            keypoint_names=info.keypoint_names if data.keypoints else None,
            groups=data.group_by_aspect_ratio if training else None,
        )

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the data set and the choice."""
        state = hashlib.sha256(self.part.boxes.fingerprint.encode())
        state.update(self.part.rows.tobytes())
        return state.hexdigest()

    def __len__(self) -> int:
        return len(self.part)

    def name(self, row: int) -> str:
        """The name of the image that has the number ``row`` in :attr:`Batch.index`."""
        return self.part.boxes.name(row)

    def batches(self, order: Iterable[Tensor], *, epoch: int, seed: int, augment: bool) -> Iterator[Batch]:
        """Batches whose inputs are ``{"images": [uint8 (3, H, W), ...]}`` and whose targets are mappings, one an image.

        A target has ``boxes`` float32 (n, 4) x1, y1, x2, y2 in pixels of the image, ``labels`` int64 (n,), ``area``
        float32 (n,), ``iscrowd`` uint8 (n,), ``image_id`` int64 () and ``size`` int64 (2,), height and width of the
        file; ``masks`` uint8 (n, H, W) and ``keypoints`` float32 (n, K, 3) where they are asked for. With workers,
        ``order`` is read ahead of what is yielded.
        """
        for samples in self.loader.batches(order, epoch=epoch, seed=seed, augment=augment):
            images, targets, rows = zip(*samples, strict=True)
            yield Batch({SHARED: {"images": list(images)}}, list(map(_tensors, targets)), torch.tensor(rows))

    def arrange(self, order: Tensor, batch_size: int) -> Tensor:
        """``order`` with images of like shape in each batch, as torchvision's ``GroupedBatchSampler`` makes them.

        A batch comes when its last image does in ``order``. What fills no batch of its group comes at the end, sorted
        by group, so that all images are seen.
        """
        if self.groups is None or len(order) <= batch_size:
            return order
        groups = self._group_of[positions_of(order).numpy()]
        batches: list[NDArray[np.int64]] = []
        rest: list[NDArray[np.int64]] = []
        for group in np.unique(groups):
            places = np.flatnonzero(groups == group)
            whole = len(places) // batch_size * batch_size
            batches += list(places[:whole].reshape(-1, batch_size))
            rest.append(places[whole:])
        batches.sort(key=lambda places: places[-1])
        return order[torch.from_numpy(np.concatenate([*batches, *rest]))]

    @cached_property
    def _group_of(self) -> NDArray[np.int64]:
        """(N,) the range of height over width that each image is in."""
        sizes = np.array([self.part.size(position) for position in range(len(self))], np.float64).reshape(-1, 2)
        bins = 2 ** np.linspace(-1, 1, 2 * self.groups + 1) if self.groups else np.ones(1)
        return np.searchsorted(bins, sizes[:, 0] / sizes[:, 1], side="right")

    def files(self) -> Readable | None:
        """Images in files."""
        return self.part.files()

    def look(self, position: int, sample: tuple[Image, Annotated]) -> None:
        """Note how bright an image is."""
        self.brightness.look(sample[0])

    def notes(self) -> list[Note]:
        """What there is to say of the images and their annotations."""
        return [*self.part.notes(), *self.brightness.notes()]

    @property
    def class_pairs(self) -> Tensor:
        """(2, P) positions and the classes of objects in them, each object by itself."""
        return self.part.class_pairs

    @property
    def class_counts(self) -> Mapping[str, int]:  # type: ignore[override]
        """How many images hold each class."""
        return self.part.class_counts

    def close(self) -> None:
        """End the processes that read."""
        self.loader.close()


def _tensors(target: Target) -> dict[str, Tensor]:
    return {key: value if isinstance(value, Tensor) else torch.from_numpy(value) for key, value in target.items()}


@dataclass(frozen=True)
class BoxReader(SampleReader[Read, list[Read]]):
    """Reads positions of a part as transformed images and targets."""

    part: BoxSubset
    augmentation: Augmentation
    training: bool = False
    masks: bool = False
    keypoints: bool = False
    mirror: NDArray[np.int64] | None = None

    def sample(self, position: int, *, seed: int, epoch: int, augment: bool) -> Read:
        """Image (3, H, W), target and row."""
        row = int(self.part.rows[position])
        image, annotated = self.part.read(position)
        draws = CounterRNG(seed, epoch, np.array([row])) if augment and not self.augmentation.fixed else None
        sample = self.augmentation(self._objects(image, annotated), draws)
        target = {
            "boxes": sample.boxes.astype(np.float32),
            "labels": sample.labels,
            "area": sample.areas.astype(np.float32),
            "iscrowd": sample.crowds.astype(np.uint8),
            "image_id": np.array(annotated.image_id, np.int64),
            "size": np.array([image.height, image.width], np.int64),
        }
        if sample.masks is not None:
            target["masks"] = torch.from_numpy(np.ascontiguousarray(sample.masks))
        if sample.keypoints is not None:
            target["keypoints"] = sample.keypoints.astype(np.float32)
        return planes(sample.image), target, row

    def name(self, position: int) -> str:
        """``image 000000000139``."""
        return f"image {self.part.name(position)}"

    def collate(self, samples: Sequence[Read]) -> list[Read]:
        """The samples as they are: images of a batch have any sizes."""
        return list(samples)

    def _objects(self, image: Image, annotated: Annotated) -> Sample:
        """The image with its objects; KDError where masks or keypoints are asked for that are not there."""
        if self.training:
            annotated = annotated.for_training((image.height, image.width))
        if self.keypoints and annotated.keypoints is None:
            raise KDError(f"image {annotated.name} has no keypoints", hint="leave `keypoints` out", path="data")
        keypoints = annotated.keypoints.astype(np.float64) if self.keypoints else None  # type: ignore[union-attr]
        if keypoints is not None and self.mirror is not None and keypoints.shape[1] != len(self.mirror):
            raise KDError(
                f"image {annotated.name} has {keypoints.shape[1]} keypoints of an object, and the data set names "
                f"{len(self.mirror)}: which of them change sides in a mirrored image cannot be told"
            )
        return Sample(
            image,
            annotated.boxes.astype(np.float64),
            annotated.labels,
            annotated.areas.astype(np.float64),
            annotated.crowds,
            drawn(image, annotated) if self.masks else None,
            keypoints,
            self.mirror,
        )


def planes(image: Image) -> Tensor:
    """An RGB image as uint8 (3, H, W).

    Pillow packs one channel after the other into it: half the time of turning an array (H, W, 3) about.
    """
    pixels = torch.empty(3, image.height, image.width, dtype=torch.uint8)
    for plane, channel in zip(pixels.view(3, -1).numpy(), "RGB", strict=True):
        plane[:] = np.frombuffer(image.tobytes("raw", channel), np.uint8)
    return pixels


def drawn(image: Image, annotated: Annotated) -> NDArray[np.uint8]:
    """The masks (n, H, W) of the objects of an image; KDError where they have none."""
    if annotated.shapes is None:
        raise KDError(f"image {annotated.name} has no masks", hint="leave `masks` out", path="data")
    masks = np.empty((len(annotated.shapes), image.height, image.width), np.uint8)
    for number, shape in enumerate(annotated.shapes):
        try:
            masks[number] = pixels_of(shape, image.height, image.width)
        except ValueError as error:
            raise KDError(f"image {annotated.name}: the mask of object {number} cannot be drawn ({error})") from error
    return masks
