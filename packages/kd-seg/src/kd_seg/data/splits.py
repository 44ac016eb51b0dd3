"""Parts of a data set that give batches: which images are in them, and how they are read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_core.data.batch import SHARED, Batch, Split
from kd_core.data.images import Brightness
from kd_core.data.loading import SampleLoader, SampleReader
from kd_core.data.rng import CounterRNG
from kd_core.data.row_groups import RowGroups
from kd_core.data.screening import Readable
from kd_core.data.showings import positions_of
from kd_core.data.summary import shortened
from kd_core.notes import Note
from kd_seg.data.sources import VOID, PairSubset
from kd_seg.data.transforms import Crop, PairTransform

Sample = tuple[Tensor, Tensor, int]
"""An image (3, h, w), its mask (H, W) int16, and its row."""
Collated = tuple[list[Tensor], list[Tensor], Tensor]
"""Images and masks as lists of one tensor (B, ...), or of B tensors (1, ...) where sizes differ, and the rows."""


class SegSplit(Split):
    """Images and masks as ``transform`` makes them, read by ``workers`` processes or, with 0, by this one."""

    marks = True

    def __init__(
        self, part: PairSubset, transform: PairTransform, *, workers: int | None, classes: Sequence[str] = ()
    ) -> None:
        self.part = part
        self.classes = tuple(classes)
        self.masks_with: Counter[int] = Counter()
        """How many masks hold each class, or VOID, of those that were looked at."""
        self.looked = 0
        self.brightness = Brightness()
        self.transform = transform
        self.loader = SampleLoader(PairReader(part, transform), workers)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the data set and the choice."""
        state = hashlib.sha256(self.part.pairs.fingerprint.encode())
        state.update(self.part.rows.tobytes())
        return state.hexdigest()

    @property
    def content(self) -> str:
        """A hash of the whole data set."""
        return self.part.pairs.fingerprint

    def __len__(self) -> int:
        return len(self.part)

    def name(self, row: int) -> str:
        """The name of the image that has the number ``row`` in :attr:`Batch.index`."""
        return self.part.pairs.name(row)

    def batches(self, order: Iterable[Tensor], *, epoch: int, seed: int, augment: bool) -> Iterator[Batch]:
        """Batches of uint8 images (B, 3, h, w) and int64 masks (B, H, W), with ``extra["mask"]``: where a class is.

        Where sizes in a batch differ, images and masks are lists of one tensor a sample, and there is no mask. With
        workers, ``order`` is read ahead of what is yielded.
        """
        for images, masks, index in self.loader.batches(order, epoch=epoch, seed=seed, augment=augment):
            if len(images) == 1:  # int16 until here: less to hand over from process to process
                target = masks[0].long()
                yield Batch({SHARED: images[0]}, target, index, {"mask": target >= 0})
            else:
                parts = [[sample[0] for sample in samples] for samples in (images, masks)]
                yield Batch({SHARED: parts[0]}, [mask.long() for mask in parts[1]], index)

    def arrange(self, order: Tensor, batch_size: int) -> Tensor:
        """The order in which samples are read: as it is, or of those that are streamed, few row groups at a time."""
        rows = getattr(self.part.pairs, "table", None)
        if not isinstance(rows, RowGroups):
            return order
        return order[torch.from_numpy(rows.arranged(self.part.rows[positions_of(order).numpy()]))]

    def files(self) -> Readable | None:
        """Images and masks in files."""
        return self.part.files()

    def look(self, position: int, sample: tuple[Any, NDArray[np.int16]]) -> None:
        """Count the classes in a mask, and note how bright the image is."""
        self.looked += 1
        self.brightness.look(sample[0])
        self.masks_with.update(np.unique(sample[1]).tolist())

    def notes(self) -> list[Note]:
        """What there is to say of the images, and of a class in no training mask that may be void by mistake."""
        counts = self.class_counts or {}
        notes = [*self.part.pairs.notes(self.part.rows), *self.brightness.notes()]
        missing = [name for name, count in counts.items() if not count]
        if missing and isinstance(self.transform, Crop) and (void := self.masks_with[VOID]):
            names = shortened([repr(name) for name in missing])
            masks = "1 mask holds" if void == 1 else f"{void:,} masks hold"
            text = f"no mask has {names}, and {masks} void: is a class among the values of `void`?"
            notes.append(Note.warning(text))
        return notes

    @property
    def class_counts(self) -> Mapping[str, int] | None:  # type: ignore[override]
        """How many masks hold each class, where all were looked at."""
        if not self.classes or self.looked != len(self):
            return None
        return {name: self.masks_with[number] for number, name in enumerate(self.classes)}

    def close(self) -> None:
        """End the processes that read."""
        self.loader.close()


@dataclass(frozen=True)
class PairReader(SampleReader[Sample, Collated]):
    """Reads positions of a part as transformed images and masks."""

    part: PairSubset
    transform: PairTransform

    def sample(self, position: int, *, seed: int, epoch: int, augment: bool) -> Sample:
        """Image (3, h, w), mask (H, W) and row."""
        row = int(self.part.rows[position])
        draws = CounterRNG(seed, epoch, np.array([row])) if augment else None
        pixels, mask = self.transform(*self.part.read(position), draws)
        image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        return image, torch.from_numpy(np.ascontiguousarray(mask)), row

    def name(self, position: int) -> str:
        """``image 2007_000033``."""
        return f"image {self.part.name(position)}"

    def collate(self, samples: Sequence[Sample]) -> Collated:
        """One tensor of images and one of masks, or one for each sample where sizes differ."""
        images, masks, rows = zip(*samples, strict=True)
        alike = all(len({tuple(array.shape) for array in arrays}) == 1 for arrays in (images, masks))
        if alike:
            return [torch.stack(images)], [torch.stack(masks)], torch.tensor(rows)
        return [image[None] for image in images], [mask[None] for mask in masks], torch.tensor(rows)
