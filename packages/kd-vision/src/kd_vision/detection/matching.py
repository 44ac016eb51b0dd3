"""COCO's comparison of detections with the truth, for all images and classes at once.

What pycocotools does image by image and class by class, in loops, is done here on flat arrays: the same numbers in a
tenth of the time. Overlaps and the constants are pycocotools' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Whole = NDArray[np.int64]
CHUNK = 1024
"""Pairs of an image and a class that are matched at once."""
NEARLY = 1 - 1e-10
"""What a threshold of 1 stands for, as overlaps are rounded."""


@dataclass(frozen=True)
class Rules:
    """COCO's parameters for boxes, masks (T = 10, R = 101, A = 4, M = 3) or keypoints (A = 3, M = 1).

    ``thresholds`` (T,) of the overlap, ``recalls`` (R,) at which precision is taken, ``areas`` (A, 2) smallest and
    largest area of an object, the first all, and ``limits`` (M,), ascending: so many detections of an image and a class
    count.
    """

    thresholds: Floats
    recalls: Floats
    areas: Floats
    limits: tuple[int, ...]

    @classmethod
    def of(cls, kind: str) -> Rules:
        """Those that pycocotools has for ``bbox``, ``segm`` or ``keypoints``."""
        from pycocotools.cocoeval import Params

        params = Params(kind)
        return cls(params.iouThrs, params.recThrs, np.array(params.areaRng, np.float64), tuple(params.maxDets))


@dataclass(frozen=True)
class Detections:
    """D detections of all images: number of the image, label, score and area of each (D,)."""

    image: Whole
    label: Whole
    score: Floats
    area: Floats


@dataclass(frozen=True)
class Truth:
    """G objects of all images: number of the image, label and area of each (G,).

    Objects to ``ignore`` need not be found and are no fault where they are; of ``crowd`` any number is in one.
    """

    image: Whole
    label: Whole
    area: Floats
    ignore: Flags
    crowd: Flags


Overlap = Callable[[Whole, Whole], Floats]
"""Positions of d detections and of g objects, all of one image and class -> their overlaps (d, g)."""


@dataclass(frozen=True)
class Matches:
    """The detections that count, sorted by label, image and falling score, and what each of them found.

    ``order`` (D',) are their positions among all, ``rank`` (D',) the place of each among those of its image and class,
    ``label`` and ``score`` (D',) what they are; ``hit`` (D', A, T) bool: it is matched, and ``skip`` (D', A, T): it is
    neither right nor wrong. ``truth`` (D', A, T) is the position of the object that it is matched to, -1 for none.
    """

    order: Whole
    rank: Whole
    label: Whole
    score: Floats
    truth: NDArray[np.int32]
    skip: Flags

    @cached_property
    def hit(self) -> Flags:
        """(D', A, T) whether each is matched."""
        return self.truth >= 0


def match(found: Detections, truth: Truth, overlap: Overlap, rules: Rules) -> Matches:
    """Match detections to the objects of their image and class, the likeliest first, each to the one it overlaps most.

    An object is matched once, a crowd as often as need be. One to be ignored, or of another area, is matched only where
    no other one is left. Of equal scores the first counts, of equal overlaps the last, as with pycocotools.
    """
    order = np.lexsort((-found.score, found.image, found.label))
    groups = _Groups.of(found.label[order], found.image[order])
    kept = groups.rank < rules.limits[-1]
    order, rank = order[kept], groups.rank[kept]
    shape = (len(order), len(rules.areas), len(rules.thresholds))
    matches = np.full(shape, -1, np.int32)  # of 500,000 detections 80 MB
    outside = _outside(truth.area, rules.areas) | truth.ignore[:, None]
    pairs = _pairs(found, truth, order, overlap, rules)
    for start in range(0, len(pairs), CHUNK):
        _match_chunk(pairs[start : start + CHUNK], matches, outside, truth.crowd, rules)
    hit = matches >= 0
    areas = np.arange(shape[1])[:, None]
    ignored = outside[matches, areas] if len(outside) else hit
    skip = np.where(hit, ignored, _outside(found.area[order], rules.areas)[:, :, None])
    return Matches(order, rank, found.label[order], found.score[order], matches, skip)


def _outside(area: Floats, bounds: Floats) -> Flags:
    """(N, A) whether each of N areas is smaller or larger than what counts."""
    return (area[:, None] < bounds[:, 0]) | (area[:, None] > bounds[:, 1])


@dataclass(frozen=True)
class _Groups:
    """Runs of equal (label, image) in sorted arrays: ``start`` and ``end`` of each, and the ``rank`` of each entry."""

    label: Whole
    image: Whole
    start: Whole
    end: Whole
    rank: Whole

    @classmethod
    def of(cls, label: Whole, image: Whole) -> _Groups:
        """The runs of arrays (N,) that are sorted by label and image."""
        new = np.ones(len(label), bool)
        new[1:] = (label[1:] != label[:-1]) | (image[1:] != image[:-1])
        start = np.flatnonzero(new)
        end = np.append(start[1:], len(label))
        rank = np.arange(len(label)) - np.repeat(start, end - start)
        return cls(label[start], image[start], start, end, rank)

    def items(self) -> Iterator[tuple[tuple[int, int], slice]]:
        """(label, image) of each run, and where it is."""
        keys = zip(self.label.tolist(), self.image.tolist(), strict=True)
        return zip(keys, map(slice, self.start.tolist(), self.end.tolist()), strict=True)


@dataclass(frozen=True)
class _Pair:
    """An image and a class: rows of the detections that overlap anything enough, objects, and overlaps (d, g)."""

    rows: Whole
    objects: Whole
    overlaps: Floats


def _pairs(found: Detections, truth: Truth, order: Whole, overlap: Overlap, rules: Rules) -> list[_Pair]:
    """The images and classes in which something may be matched, those with many objects first."""
    by_class = np.lexsort((truth.image, truth.label))
    objects = dict(_Groups.of(truth.label[by_class], truth.image[by_class]).items())
    lowest = min(rules.thresholds.min(), NEARLY)
    pairs = []
    for key, rows in _Groups.of(found.label[order], found.image[order]).items():
        if (there := objects.get(key)) is not None:
            overlaps = overlap(order[rows], by_class[there])
            enough = np.flatnonzero((overlaps >= lowest).any(1))
            if len(enough):
                pairs.append(_Pair(rows.start + enough, by_class[there], overlaps[enough]))
    return sorted(pairs, key=lambda pair: -len(pair.objects))


def _match_chunk(
    pairs: Sequence[_Pair], matches: NDArray[np.int32], outside: Flags, crowd: Flags, rules: Rules
) -> None:
    """Write into ``matches`` (D', A, T) what the detections of some pairs find."""
    pairs = sorted(pairs, key=lambda pair: -len(pair.rows))
    count = np.array([len(pair.rows) for pair in pairs])
    size, width = len(pairs), max(len(pair.objects) for pair in pairs)
    overlaps = np.full((size, count[0], width), -1.0)
    objects, rows = np.full((size, width), -1), np.zeros((size, count[0]), np.int64)
    for number, pair in enumerate(pairs):
        overlaps[number, : len(pair.rows), : len(pair.objects)] = pair.overlaps
        objects[number, : len(pair.objects)], rows[number, : len(pair.rows)] = pair.objects, pair.rows
    ignored = outside[objects].transpose(0, 2, 1)[:, :, None]  # (P, A, 1, G)
    many = crowd[objects][:, None, None]
    thresholds = np.minimum(rules.thresholds, NEARLY)[:, None]
    taken = np.zeros((size, len(rules.areas), len(rules.thresholds), width), bool)
    for place in range(count[0]):  # the likeliest of each pair, then the second
        now = int((count > place).sum())
        here = overlaps[:now, place, None, None]
        fit = (here >= thresholds) & (~taken[:now] | many[:now])
        regular = fit & ~ignored[:now]
        fit = np.where(regular.any(-1, keepdims=True), regular, fit)
        best = width - 1 - np.where(fit, here, -1)[..., ::-1].argmax(-1)  # the last of equal ones
        hit = fit.any(-1)
        matches[rows[:now, place]] = np.where(hit, objects[np.arange(now)[:, None, None], best], -1)
        taken[:now] |= hit[..., None] & (np.arange(width) == best[..., None])


@dataclass(frozen=True)
class Curves:
    """What :func:`curves` gives for K labels; -1 where a label has no object of an area.

    ``precision`` (T, R, K, A) at each recall, ``score`` (T, R, K, A) of the detection with which it is reached, and
    ``recall`` (T, K, A, M) in all; pycocotools has ``precision`` for fewer detections, too, and prints none of it.
    """

    labels: tuple[int, ...]
    precision: Floats
    score: Floats
    recall: Floats


def curves(matches: Matches, truth: Truth, labels: Sequence[int], rules: Rules) -> Curves:
    """Precision and recall of each label."""
    many, areas = len(labels), len(rules.areas)
    shape = (len(rules.thresholds), len(rules.recalls), many, areas)
    precision, score = np.full(shape, -1.0), np.full(shape, -1.0)
    recall = np.full((shape[0], many, areas, len(rules.limits)), -1.0)
    counted = ~(_outside(truth.area, rules.areas) | truth.ignore[:, None])
    first, last = (np.searchsorted(matches.label, labels, side) for side in ("left", "right"))
    for k, label in enumerate(labels):
        objects = counted[truth.label == label].sum(0)
        rows = np.arange(first[k], last[k])
        rows = rows[np.argsort(-matches.score[rows], kind="stable")]
        for area in np.flatnonzero(objects):
            right, wrong = _verdicts(matches, rows, int(area))
            for m, limit in enumerate(rules.limits):
                recall[:, k, area, m] = right[:, matches.rank[rows] < limit].sum(1) / objects[area]
            best = _precision(right, wrong, int(objects[area]), rules.recalls)
            scores = np.append(matches.score[rows], 0.0)
            precision[:, :, k, area], score[:, :, k, area] = best[0], scores[best[1]]
    return Curves(tuple(labels), precision, score, recall)


def _verdicts(matches: Matches, rows: Whole, area: int) -> tuple[Flags, Flags]:
    """(T, n) which of the detections ``rows`` are right, and which are wrong."""
    hit, skip = matches.hit[rows, area].T, matches.skip[rows, area].T
    return hit & ~skip, ~hit & ~skip


def _precision(right: Flags, wrong: Flags, objects: int, recalls: Floats) -> tuple[Floats, Whole]:
    """(T, R) the best precision at each recall or a higher one, 0 where none is reached, and the detection there."""
    hits, faults = (np.cumsum(verdicts, 1).astype(np.float64) for verdicts in (right, wrong))
    precision = hits / (faults + hits + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    precision = np.concatenate([precision, np.zeros((len(right), 1))], 1)
    places = np.stack([np.searchsorted(reached, recalls, side="left") for reached in hits / objects])
    return np.take_along_axis(precision, places, 1), places


def object_keypoint_similarity(found: Floats, truth: Floats, boxes: Floats, areas: Floats, sigmas: Floats) -> Floats:
    """(d, g) how close keypoints (d, K, 3) are to (g, K, 3): OKS of https://cocodataset.org/#keypoints-eval.

    ``boxes`` (g, 4) x, y, width, height; ``areas`` (g,) of the objects; ``sigmas`` (K,). An object without any visible
    keypoint is compared by how far keypoints are outside twice its box.
    """
    overlaps = np.zeros((len(found), len(truth)))
    for number, (points, box, area) in enumerate(zip(truth, boxes, areas, strict=True)):
        seen = points[:, 2] > 0
        if seen.any():
            away = found[..., :2] - points[:, :2]
        else:
            low, high = box[:2] - box[2:], box[:2] + 2 * box[2:]
            away = np.maximum(0, low - found[..., :2]) + np.maximum(0, found[..., :2] - high)
        error = (away**2).sum(-1) / (2 * sigmas) ** 2 / (area + np.spacing(1)) / 2
        overlaps[:, number] = np.exp(-np.ascontiguousarray(error[:, seen] if seen.any() else error)).mean(1)
    return overlaps


def box_overlap(found: Any, truth: Any, crowd: Flags) -> Floats:
    """(d, g) pycocotools' IoU of boxes x, y, width, height or of run lengths; with a crowd, the share that is in it."""
    from pycocotools import mask as runs

    overlaps: Floats = runs.iou(found, truth, crowd.astype(np.uint8))
    return overlaps
