"""Shapes of many objects one after the other: the numbers of all polygons in one array, run lengths packed."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from kd_core.data.packed import Packed
from kd_core.data.shapes import FAR, POINTS, Shape, runs_of

BLOCK = 1 << 20
"""Numbers of polygons that are looked at together."""


class ShapeColumns:
    """Shapes one after the other: the numbers of all polygons in one array, run lengths packed."""

    def __init__(self) -> None:
        self.points = array("d")
        self.ends = array("q")
        """Where each polygon ends in ``points``."""
        self.last = array("q")
        """How many polygons there are with each annotation's own."""
        self.runs: dict[int, Any] = {}
        """Of annotations, by their row, that have run lengths."""

    def add(self, entry: Mapping[str, Any]) -> None:
        """The shape of one annotation; ValueError, and nothing is added, where it is none."""
        if "segmentation" not in entry:
            raise ValueError("has no 'segmentation'")
        segmentation = entry["segmentation"]
        if isinstance(segmentation, Mapping):
            self.runs[len(self.last)] = _runs(segmentation)
        else:
            points, polygons = len(self.points), len(self.ends)
            try:
                for polygon in segmentation:
                    self.points.fromlist(polygon)
                    self.ends.append(len(self.points))
            except (TypeError, OverflowError):
                del self.points[points:], self.ends[polygons:]
                text = json.dumps(segmentation)[:60]
                raise ValueError(f"has a 'segmentation' that is neither polygons nor run lengths: {text}") from None
        self.last.append(len(self.ends))


def _runs(segmentation: Mapping[str, Any]) -> Any:
    """Run lengths as (height, width) and numbers; None where they have no pixel."""
    try:
        shape = runs_of(segmentation)
        if not isinstance(shape, Mapping):
            return None
        height, width = (int(side) for side in shape["size"])
        counts = np.asarray(shape["counts"])
        if counts.dtype.kind not in "iu" or counts.ndim != 1 or counts.min() < 0:
            raise TypeError
    except KeyError as error:
        raise ValueError(f"has run lengths without {error}") from None
    except (TypeError, OverflowError):
        raise ValueError("has run lengths that are not whole numbers with a 'size' of [height, width]") from None
    return (height, width), counts.astype(np.int32)


class ShapeList(Sequence[Shape]):
    """The shapes of M objects, made when they are asked for.

    ``points`` are the numbers of all polygons, ``starts`` (Q + 1,) where each of these begins, ``polygons`` (M, 2) the
    first and the last but one that an object has, and ``runs`` the row of its run lengths among ``packed``, or -1.
    """

    def __init__(
        self,
        points: NDArray[np.float64],
        starts: NDArray[np.int64],
        polygons: NDArray[np.int64],
        runs: NDArray[np.int64],
        packed: Sequence[Any],
    ) -> None:
        self.points, self.starts, self.polygons, self.runs, self.packed = points, starts, polygons, runs, packed
        self.good = _good_polygons(points, starts)

    @classmethod
    def of(cls, columns: ShapeColumns) -> ShapeList:
        """The shapes that were read."""
        ends, last = np.array(columns.ends, np.int64), np.array(columns.last, np.int64)
        polygons = np.stack([np.concatenate([[0], last[:-1]]), last], 1) if len(last) else np.zeros((0, 2), np.int64)
        runs = np.full(len(last), -1)
        runs[list(columns.runs)] = np.arange(len(columns.runs))
        points = np.frombuffer(columns.points) if len(columns.points) else np.zeros(0)
        return cls(points, np.concatenate([[0], ends]), polygons, runs, Packed(columns.runs.values()))

    def take(self, rows: NDArray[np.int64]) -> ShapeList:
        """Those of some objects."""
        taken = ShapeList.__new__(ShapeList)
        taken.points, taken.starts, taken.good, taken.packed = self.points, self.starts, self.good, self.packed
        taken.polygons, taken.runs = self.polygons[rows], self.runs[rows]
        return taken

    def __len__(self) -> int:
        return len(self.runs)

    @overload
    def __getitem__(self, index: int) -> Shape: ...
    @overload
    def __getitem__(self, index: slice) -> list[Shape]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """One shape, or a list of some; polygons that have an area."""
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        if (run := int(self.runs[index])) >= 0:
            content = self.packed[run]
            return [] if content is None else {"size": list(content[0]), "counts": content[1].tolist()}
        first, last = self.polygons[index].tolist()
        numbers = [number for number in range(first, last) if self.good[number]]
        return [self.points[self.starts[number] : self.starts[number + 1]] for number in numbers]

    def faults(self, sizes: NDArray[np.int64]) -> Iterator[tuple[int, str]]:
        """Rows of shapes that cannot be, and why; ``sizes`` (M, 2) are those of the images, height and width."""
        lengths = np.diff(self.starts)
        odd, far = lengths % 2 == 1, np.zeros(len(lengths), bool)
        for low in range(0, len(self.points), BLOCK):
            outside = low + np.flatnonzero(~(np.abs(self.points[low : low + BLOCK]) <= FAR))
            far[np.searchsorted(self.starts, outside, side="right") - 1] = True
        for polygon in np.flatnonzero(odd | far).tolist():
            row = int(np.searchsorted(self.polygons[:, 1], polygon, side="right"))
            text = f"has a polygon of {lengths[polygon]} numbers: it takes x and y of each point"
            distant = f"has a polygon with a point that is more than {FAR:,} pixels away, or nowhere"
            yield row, text if odd[polygon] else distant
        for row in np.flatnonzero(self.runs >= 0).tolist():
            if (content := self.packed[int(self.runs[row])]) is not None:
                (height, width), counts = content
                if [height, width] != sizes[row].tolist() or counts.sum(dtype=np.int64) != height * width:
                    said = f"{counts.sum(dtype=np.int64):,} pixels of {height} x {width}"
                    yield row, f"has run lengths of {said} in an image of {sizes[row][0]} x {sizes[row][1]}"

    @property
    def empty(self) -> NDArray[np.bool_]:
        """(M,) whether a shape has no pixel: no polygon with an area, and no run."""
        good = np.concatenate([[0], np.cumsum(self.good)])
        none = good[self.polygons[:, 1]] == good[self.polygons[:, 0]]
        blank = np.array([content is None for content in self.packed] + [True], bool)
        return none & blank[self.runs]


def _good_polygons(points: NDArray[np.float64], starts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(Q,) which polygons have three points or more, and an area (the shoelace formula)."""
    lengths = np.diff(starts)
    good = (lengths >= 2 * POINTS) & (lengths % 2 == 0)
    chosen = np.flatnonzero(good)
    low = 0
    while low < len(chosen):
        high = max(int(np.searchsorted(starts[chosen], starts[chosen[low]] + BLOCK)), low + 1)
        part = chosen[low:high]
        sizes = lengths[part] // 2
        offsets = np.cumsum(sizes) - sizes
        index = np.arange(int(sizes.sum())) - np.repeat(offsets, sizes)
        at = np.repeat(starts[part], sizes) + 2 * index
        after = np.repeat(starts[part], sizes) + 2 * ((index + 1) % np.repeat(sizes, sizes))
        first_x, first_y = (np.repeat(points[starts[part] + axis], sizes) for axis in (0, 1))
        with np.errstate(all="ignore"):  # of points that are nowhere, which are faults
            crossed = (points[at] - first_x) * (points[after + 1] - first_y)
            crossed -= (points[after] - first_x) * (points[at + 1] - first_y)
            good[part] = np.add.reduceat(crossed, offsets) != 0
        low = high
    return good
