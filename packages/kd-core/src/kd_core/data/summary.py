"""What the splits of a run are: how many samples, of which classes, from where. For people, and for tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kd_core.data.sources import Origin, Parts, S
from kd_core.notes import Note

SHOWN = 12
"""Classes whose samples are counted one by one in a line."""
NAMES = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class SplitSummary:
    """One split: its samples, where they come from, and how many there are of each class.

    ``counts`` is None where samples have no single class, or it is not known.
    """

    role: str
    samples: int
    origin: Origin
    counts: Mapping[str, int] | None = None
    unlabelled: int = 0

    def line(self, held_out: int = 0) -> str:
        """The split in a line; ``held_out`` of its samples validate instead."""
        split_name = NAMES[self.origin.split]
        text = f"{self.role}: {self.samples:,} "
        if self.origin.held_out:
            text += f"held out of the {self.origin.samples:,} {split_name} samples"
        elif self.samples == self.origin.samples:
            text += f"{split_name} samples"
        else:
            text += f"of {self.origin.samples:,} {split_name} samples"
        text += f" in {self.origin.place}" if self.origin.place is not None and not self.origin.held_out else ""
        notes = [f"{held_out:,} more are held out to validate"] if held_out else []
        notes += [counts_text(self.counts)] if self.counts and self.unlabelled < self.samples else []
        notes += [f"{self.unlabelled:,} without a label"] if self.unlabelled else []
        return "; ".join([text, *notes])


@dataclass(frozen=True)
class DataSummary:
    """All splits of a run, and what its source notes of them (:attr:`Parts.notes`).

    ``classes`` are the names of the classes, None where there are none; ``known`` is the ``DatasetInfo`` of what was
    read, and ``train`` the training split, where it was made.
    """

    splits: tuple[SplitSummary, ...] = ()
    classes: tuple[str, ...] | None = None
    notes: tuple[Note, ...] = ()
    known: Any = field(default=None, compare=False, repr=False)
    train: Any = field(default=None, compare=False, repr=False)

    def samples(self, role: str) -> int | None:
        """How many samples a split has, None where there is none."""
        return next((split.samples for split in self.splits if split.role == role), None)

    @property
    def missing(self) -> list[str]:
        """The classes without a training sample."""
        train = next((split for split in self.splits if split.role == "train"), None)
        if train is None or not train.counts or train.unlabelled == train.samples:
            return []
        return [name for name, count in train.counts.items() if count == 0]

    def lines(self) -> list[str]:
        """What a run says of its data before it trains."""
        held = sum(split.samples for split in self.splits if split.origin.held_out)
        lines = [split.line(held if split.role == "train" else 0) for split in self.splits]
        if self.splits and not any(split.role == "val" for split in self.splits):
            lines.append("val: none, the last checkpoint counts")
        roles = {split.role for split in self.splits}
        if "val" in roles and "train" in roles and "test" not in roles:
            lines.append("test: none, the validation split chooses the best checkpoint and is what the run reports")
        if self.classes:
            lines.insert(0, f"classes: {len(self.classes)} ({shortened(self.classes)})")
        return [*lines, *map(str, self.remarks())]

    def remarks(self) -> list[Note]:
        """What there is to say of the samples beside their numbers, warnings last."""
        return [*(note for note in self.notes if not note.is_warning), *self.warnings()]

    def warnings(self) -> list[Note]:
        """What is probably not meant to be so, and is noted in the run's result too."""
        warnings, missing = [note for note in self.notes if note.is_warning], self.missing
        names = shortened([repr(name) for name in missing])
        if len(missing) == 1:
            warnings.append(Note.warning(f"the class {names} has no training sample"))
        elif missing:
            warnings.append(Note.warning(f"{len(missing)} classes have no training sample: {names}"))
        return warnings


def summarize(parts: Parts[S]) -> DataSummary:
    """What there is to say of the splits of a run."""
    parts = parts.with_origins()
    splits = []
    for role, samples in parts.items().items():
        labels, counts, unlabelled = samples.labels, None, 0
        if labels is not None and parts.classes is not None:
            numbers = labels[labels >= 0].bincount(minlength=len(parts.classes)).tolist()
            counts, unlabelled = dict(zip(parts.classes, numbers, strict=False)), int((labels < 0).sum())
        splits.append(SplitSummary(role, len(samples), parts.origins[role], counts, unlabelled))
    return DataSummary(tuple(splits), parts.classes, parts.notes)


def counts_text(counts: Mapping[str, int]) -> str:
    """Samples of each class: one by one, or of many classes the fewest and the most."""
    fewest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[fewest] == counts[most]:
        return f"{counts[most]:,} of each class"
    if len(counts) <= SHOWN:
        return "of each class: " + ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return f"from {counts[fewest]:,} ({fewest}) to {counts[most]:,} ({most}) of each class"


def shortened(names: Sequence[str]) -> str:
    """Names in a line, the first of them where they are many."""
    rest = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
