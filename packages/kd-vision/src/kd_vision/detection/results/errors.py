"""What is wrong about the detections in an image: the kinds of errors of TIDE, simplified.

Source: Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors, ECCV 2020, arXiv 2008.08115,
section 2. Here errors are counted, those of boxes above one threshold of the score; TIDE weighs each kind by what it
costs in AP.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kd_vision.detection.results.objects import Objects

FOREGROUND, BACKGROUND = 0.5, 0.1
"""The overlap (IoU) from which on a box has found an object, and from which on it is about it at all."""
MISSED, FALSE, WRONG_CLASS, BADLY_PLACED, BOTH, DUPLICATE = (
    *("missed", "false", "wrong class", "badly placed"),
    *("wrong class and badly placed", "duplicate"),
)
KINDS = {
    MISSED: "an object that no box has found, and that none of the wrong class or badly placed is about",
    FALSE: f"a box that overlaps no object by {BACKGROUND:g} or more",
    WRONG_CLASS: f"a box that overlaps an object of another class by {FOREGROUND:g} or more",
    BADLY_PLACED: f"a box that overlaps an object of its class by {BACKGROUND:g} or more, but less than {FOREGROUND:g}",
    BOTH: f"the same with an object of another class, and with none of its own by {BACKGROUND:g}",
    DUPLICATE: "a box on an object that one with a higher score has found",
}
"""Each kind of error, in a sentence."""


@dataclass(frozen=True)
class ImageErrors:
    """The errors in an image of n objects and m detections."""

    detections: tuple[str | None, ...]
    """(m,): the kind of error of each, None where it is right or on a crowd."""
    objects: tuple[str | None, ...]
    """(n,): what became of each: None where it is found or a crowd, else the kind of the box about it, or missed."""

    @property
    def total(self) -> int:
        """How many there are."""
        return self.counts().total()

    def counts(self) -> Counter[str]:
        """How many of each kind there are."""
        kinds = [*self.detections, *(kind for kind in self.objects if kind == MISSED)]
        return Counter(kind for kind in kinds if kind is not None)


def errors_of(detections: Objects, truth: Objects) -> ImageErrors:
    """The errors of detections, of which the highest score comes first.

    Each finds the object of its class that it overlaps most, of those that are not found yet, by 0.5 at least. What is
    left and has half of its area on a crowd of its class is no error.
    """
    crowds = np.zeros(len(truth), bool) if truth.crowds is None else truth.crowds
    overlaps, covered = overlaps_of(detections.boxes, truth.boxes)
    same = detections.labels[:, None] == truth.labels
    overlaps = np.where(crowds, 0, overlaps)
    found = np.zeros(len(truth), bool)
    about: dict[int, str] = {}
    kinds: list[str | None] = []
    for overlap, on_crowd, alike in zip(overlaps, covered, same, strict=True):
        free = np.where(alike & ~found, overlap, 0)
        if free.max(initial=0) >= FOREGROUND:
            found[free.argmax()] = True
            kinds.append(None)
        elif (on_crowd[crowds & alike] >= FOREGROUND).any():
            kinds.append(None)
        else:
            kind, number = kind_of(overlap, alike)
            kinds.append(kind)
            if kind in (WRONG_CLASS, BADLY_PLACED):
                about.setdefault(number, kind)
    fine = (found | crowds).tolist()
    return ImageErrors(tuple(kinds), tuple(None if ok else about.get(k, MISSED) for k, ok in enumerate(fine)))


def kind_of(overlap: NDArray[np.float64], alike: NDArray[np.bool_]) -> tuple[str, int]:
    """The kind of error of a detection that found nothing, by its overlaps (n,) with objects, and the object it is
    about, -1 for none; ``alike`` (n,) are those of its class."""
    mine, others = np.where(alike, overlap, 0), np.where(alike, 0, overlap)
    for kind, overlaps, least in (
        (DUPLICATE, mine, FOREGROUND),
        (WRONG_CLASS, others, FOREGROUND),
        (BADLY_PLACED, mine, BACKGROUND),
        (BOTH, others, BACKGROUND),
    ):
        if overlaps.max(initial=0) >= least:
            return kind, int(overlaps.argmax())
    return FALSE, -1


def overlaps_of(
    boxes: NDArray[np.floating], others: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(m, n) the intersections of boxes (m, 4) with others (n, 4), divided by the union, and by the boxes' own area."""
    first, second = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    corners = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    common = corners.clip(0).prod(-1)
    own, other = ((sides[..., 2:] - sides[..., :2]).clip(0).prod(-1) for sides in (first, second))
    tiny = np.finfo(np.float64).tiny
    return common / np.maximum(own + other - common, tiny), common / np.maximum(own, tiny)
