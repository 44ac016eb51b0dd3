"""CIRKD's memory: pixels of a batch against those, and the regions, that a teacher saw in earlier batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.data.rng import random_bits
from kd_core.errors import KDError
from kd_core.losses.crossimage import similarity_kl
from kd_core.losses.reduction import over_batch
from kd_core.losses.regions import labels_at, membership
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import hidden, same_shape, shape
from kd_core.ranges import NonNegativeInt, PositiveFloat, PositiveInt

PIXELS, REGIONS = -1, -2
"""The keys of the two draws of slots; those of pixels have their image's row as a key."""


@LOSSES("cirkd_memory")
@over_batch
class PixelMemory(nn.Module):
    """CIRKD's memory-based losses: how similar a pixel is to remembered pixels and regions of all classes.

    student, teacher (B, ``dim``, H, W) features; target (B, h, w) labels, brought to H x W by nearest neighbour
    -> scalar: ``kd_temperature`` squared times KL(teacher || student) of the softmax of cosine similarities with what
    the memory holds of the teacher, divided by ``temperature`` and ``kd_temperature``; the mean over pixels with a
    label, 0 where there is none; ``pixel_weight`` times it with pixels plus ``region_weight`` times it with regions.
    ``num_classes`` is ``!run num_classes``. For each class ``pixel_memory`` and ``region_memory`` vectors are
    remembered; of these ``pixel_contrast`` // num_classes + 1 and ``region_contrast`` // num_classes + 1 slots are
    drawn, the same for all classes. In training each pass then adds, for every image and every class in it, the mean
    feature and up to ``update`` pixels. All draws are a pure function of the seed and the pass. KDError where shapes
    do not fit or values are out of range.
    Yang et al., CIRKD, CVPR 2022 (arXiv 2204.06986); checked against winycg/CIRKD, which adds the batch to
    the memory first, and as pixels of a class takes any of the image.
    """

    pixels: Tensor
    """(num_classes, pixel_memory, dim), of unit length, as are ``regions``."""
    regions: Tensor
    next_pixel: Tensor
    """(num_classes,) where the next pixel goes; ``next_region`` likewise."""
    next_region: Tensor
    seed: Tensor

    def __init__(
        self,
        *,
        num_classes: PositiveInt,
        dim: PositiveInt = 256,
        pixel_memory: PositiveInt = 20000,
        region_memory: PositiveInt = 2000,
        pixel_contrast: NonNegativeInt = 4096,
        region_contrast: NonNegativeInt = 1024,
        update: PositiveInt = 16,
        temperature: PositiveFloat = 0.1,
        kd_temperature: PositiveFloat = 1.0,
        pixel_weight: float = 1.0,
        region_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if pixel_memory < update:
            raise KDError(f"pixel_memory must be at least update, {update}, not {pixel_memory}")
        self.num_classes, self.dim, self.update = num_classes, dim, update
        self.temperature, self.kd_temperature = temperature, kd_temperature
        self.pixel_weight, self.region_weight = pixel_weight, region_weight
        self.pixel_slots = min(pixel_contrast // num_classes + 1, pixel_memory)
        self.region_slots = min(region_contrast // num_classes + 1, region_memory)
        for name, size in {"pixel": pixel_memory, "region": region_memory}.items():
            self.register_buffer(f"{name}s", F.normalize(torch.randn(num_classes, size, dim), dim=2))
            self.register_buffer(f"next_{name}", torch.zeros(num_classes, dtype=torch.long))
        self.register_buffer("seed", torch.randint(2**62, ()))
        self.passes = 0

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
        student, teacher = same_shape(student, teacher)
        if student.ndim != 4 or student.shape[1] != self.dim:
            hint = "write the teacher's channels as `dim:`; adapters `projector` bring the student's to them"
            raise KDError(f"student {shape(student)} must be features (B, {self.dim}, H, W)", hint=hint, path="student")
        members = membership(labels_at(target, student), self.num_classes)
        places = members.any(1)
        visible = hidden(places.view(len(student), *student.shape[2:]), student, teacher, dim=1)
        student, teacher = (F.normalize(tensor, dim=1).flatten(2).mT for tensor in visible)
        counts = places.flatten()
        pixels = self.pixels[:, self.slots(PIXELS, self.pixels.shape[1])[: self.pixel_slots]]
        regions = self.regions[:, self.slots(REGIONS, self.regions.shape[1])[: self.region_slots]]
        loss = self.pixel_weight * self._contrast(student, teacher, pixels, counts)
        loss = loss + self.region_weight * self._contrast(student, teacher, regions, counts)
        if self.training:
            self.remember(teacher, members)
            self.passes += 1
        return loss

    def _contrast(self, student: Tensor, teacher: Tensor, memory: Tensor, counts: Tensor) -> Tensor:
        """The loss of (B, N, dim) pixels, of which ``counts`` (B x N,) count, with a memory (num_classes, M, dim)."""
        keys = memory.to(student.dtype).flatten(0, 1)[None]
        rows = student.flatten(0, 1), teacher.flatten(0, 1)
        divergence = similarity_kl(rows, (keys, keys), temperature=self.temperature * self.kd_temperature)
        return torch.where(counts, divergence, 0.0).sum() / counts.sum().clamp(min=1) * self.kd_temperature**2

    def slots(self, key: int, size: int) -> Tensor:
        """(size,) the slots of a memory in the random order of this pass."""
        keys = torch.full((1,), key, device=self.seed.device)
        return random_bits(self.seed + self.passes, keys, size)[0].argsort(stable=True)

    def drawn(self, members: Tensor) -> Tensor:
        """(B, num_classes, N) members -> (B, num_classes, update) different pixels of each class in random order.

        Where a class has fewer pixels, its row goes on with others.
        """
        images, classes, pixels = members.shape
        sizes = members.sum(2)
        number = torch.arange(classes, device=members.device)[:, None]
        labels = torch.where(members, number, 0).sum(1) + classes * ~members.any(1)  # void comes last
        bits = random_bits(self.seed + self.passes, torch.arange(images, device=members.device), pixels)
        order = (labels * 2**31 + bits).argsort(dim=1, stable=True)
        first = (sizes.cumsum(1) - sizes)[..., None]
        ranks = (first + torch.arange(self.update, device=members.device)).clamp(max=pixels - 1)
        return order.gather(1, ranks.flatten(1)).view_as(ranks)

    @torch.no_grad()
    def remember(self, teacher: Tensor, members: Tensor) -> None:
        """Add (B, N, dim) features of unit length whose classes are ``members`` (B, num_classes, N), image by image."""
        sizes, drawn = members.sum(2), self.drawn(members)
        regions = F.normalize(members.to(teacher.dtype) @ teacher, dim=2)[:, :, None]
        for image in range(len(teacher)):
            push(self.regions, self.next_region, regions[image], sizes[image].clamp(max=1))
            push(self.pixels, self.next_pixel, teacher[image][drawn[image]], sizes[image].clamp(max=self.update))

    def get_extra_state(self) -> int:
        """The number of training passes, which the draws depend on."""
        return self.passes

    def set_extra_state(self, state: int) -> None:
        """Go on after so many passes."""
        self.passes = state


def push(memory: Tensor, cursors: Tensor, rows: Tensor, counts: Tensor) -> None:
    """Write the first ``counts`` (K,) of rows (K, V, dim) into ``memory`` (K, size, dim) from ``places`` (K,) on.

    Both are changed in place. As the authors do, rows that would reach the end are written to the last slots, and the
    next ones to the first.
    """
    size, most = memory.shape[1], rows.shape[1]
    ends = cursors + counts >= size
    start = torch.where(ends, size - counts, cursors)
    step = torch.arange(most, device=memory.device)
    slots = ((start[:, None] + step) % size)[..., None].expand(-1, -1, memory.shape[2])
    fresh = (step < counts[:, None])[..., None]
    memory.scatter_(1, slots, torch.where(fresh, rows.to(memory.dtype), memory.gather(1, slots)))
    cursors.copy_(torch.where(ends, 0, cursors + counts))
