"""What is noted of samples that are read before a run begins: those that are there twice, images of many bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kd_core.data.images import DEEP
from kd_core.data.summary import NAMES
from kd_core.notes import Note

LONGEST = 60
"""Characters of a text that a line quotes."""


class NamedSamples(Protocol):
    """What is asked of a split (:class:`kd_core.data.batch.Split`)."""

    @property
    def sample_classes(self) -> Tensor | None:
        """The class of each sample (N,), negative where it has none."""
        ...

    def contents(self) -> Mapping[int, int]:
        """Hashes of the contents of samples in memory, by position."""
        ...

    def sample_name(self, position: int) -> str:
        """What a line calls a sample."""
        ...


@dataclass
class SeenSamples:
    """Hashes of the contents of samples, and the images of more than 8 bits a value, by split and position.

    Hashes are those of this process: they tell equal samples of one run.
    """

    hashes: dict[str, dict[int, int]] = field(default_factory=dict)
    deep: dict[str, list[int]] = field(default_factory=dict)

    def look(self, role: str, position: int, sample: Any) -> None:
        """Note a sample, which is an image or begins with one; others are passed over."""
        image = sample[0] if isinstance(sample, tuple) and sample else sample
        if not hasattr(image, "tobytes") or not hasattr(image, "mode"):
            return
        self.hashes.setdefault(role, {})[position] = hash((image.size, image.mode, image.tobytes()))
        if image.info.get(DEEP):
            self.deep.setdefault(role, []).append(position)

    def notes(self, splits: Mapping[str, NamedSamples]) -> list[Note]:
        """What there is to say of the samples of a run's splits."""
        contents = {role: {**self.hashes.get(role, {}), **split.contents()} for role, split in splits.items()}
        notes = []
        for earlier, later in combinations([role for role in NAMES if contents.get(role)], 2):
            notes += _repeated(earlier, later, contents, splits)
        if contents.get("train"):
            notes += _contradictions(contents["train"], splits["train"])
        return [*notes, *self._deep_notes(splits)]

    def _deep_notes(self, splits: Mapping[str, NamedSamples]) -> list[Note]:
        """Of images with more than 8 bits a value beside others: their values may have another white."""
        count = sum(map(len, self.deep.values()))
        total = sum(len(self.hashes.get(role, {})) for role in splits)
        if not count:
            return []
        role = next(iter(self.deep))
        name = splits[role].sample_name(self.deep[role][0]) if role in splits else role
        text = f"{count:,} of {total:,} images have more than 8 bits a value, such as {name}"
        hint = "65,535, or 1 of floats, is read as white; `data.white` says another value"
        return [Note(f"{text}: {hint}", "info" if count == total else "warning")]


def _repeated(
    earlier: str, later: str, contents: Mapping[str, Mapping[int, int]], splits: Mapping[str, NamedSamples]
) -> list[Note]:
    """A warning where samples of one split are samples of an earlier one, too."""
    first, second = _arrays(contents[earlier]), _arrays(contents[later])
    found = np.isin(second[1], first[1])
    if not (count := int(found.sum())):
        return []
    position = int(second[0][found][0])
    partner = int(first[0][first[1] == contents[later][position]][0])
    names = splits[later].sample_name(position), splits[earlier].sample_name(partner)
    example = names[0] if names[0] == names[1] else f"{names[0]} is {names[1]}"
    verb = "is a" if count == 1 else "are"
    samples = f"{NAMES[earlier]} sample{'s' * (count > 1)}"
    return [Note.warning(f"{count:,} of {len(found):,} {NAMES[later]} samples {verb} {samples}, too: {example}")]


def _contradictions(contents: Mapping[int, int], split: NamedSamples) -> list[Note]:
    """A warning where equal samples have different classes."""
    classes = split.sample_classes
    if classes is None:
        return []
    positions, hashes = _arrays(contents)
    labels = classes.numpy()[positions]
    positions, hashes, labels = positions[labels >= 0], hashes[labels >= 0], labels[labels >= 0]
    order = np.lexsort((labels, hashes))
    same, other = np.diff(hashes[order]) == 0, np.diff(labels[order]) != 0
    pairs = np.flatnonzero(same & other)
    if not len(pairs):
        return []
    first, second = (split.sample_name(int(positions[order][pairs[0] + step])) for step in (0, 1))
    example = first if first == second else f"{first} and {second}"
    count = len(np.unique(hashes[order][pairs]))
    told = "1 training sample is" if count == 1 else f"{count:,} training samples are"
    return [Note.warning(f"{told} there with different classes: {example}")]


def _arrays(contents: Mapping[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions (N,) and hashes (N,)."""
    return np.fromiter(contents, np.int64, len(contents)), np.fromiter(contents.values(), np.int64, len(contents))


def quoted(*texts: str) -> str:
    """Texts as a line quotes them, cut where they are long."""
    return " / ".join(repr(text if len(text) <= LONGEST else f"{text[:LONGEST]}...") for text in texts)
