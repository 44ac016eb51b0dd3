"""Which samples train, validate and test: one set of rules for every task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from kd_core.data.sources import Parts, Source, check_source
from kd_core.data.spec import DataSpec
from kd_core.data.subset import balanced, chosen, complement, hold_out, limited, split, stratified
from kd_core.data.summary import summarize
from kd_core.errors import KDError
from kd_core.notes import Note
from kd_core.registry import Registry


@dataclass(frozen=True)
class Few:
    """Samples that are their numbers, with labels or without."""

    rows: Tensor
    labels: Tensor | None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: Tensor) -> Few:
        return Few(self.rows[positions], None if self.labels is None else self.labels[positions])


def few(sizes: Sequence[int], *, labelled: bool = True) -> Few:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return Few(torch.arange(len(labels)), labels if labelled else None)


def unread() -> Parts[Few]:
    raise AssertionError("nothing is read here")


class Spec(DataSpec):
    """Data sets without options; of `three` all splits are known beforehand."""

    sources: ClassVar[Registry[Any]] = Registry("data set", "no.plugins", check_source)


Spec.sources("any")(Source("any", unread))
Spec.sources("two")(Source("train and val", unread, splits=("train", "val")))
Spec.sources("three")(Source("train, val and test", unread, splits=("train", "val", "test")))


def made(parts: Parts[Few], seed: int = 0, **values: Any) -> Parts[Few]:
    return split(parts, Spec(name="any", **values), seed)


def parts(val: Few | None = None, test: Few | None = None, *, labelled: bool = True) -> Parts[Few]:
    return Parts(few([60, 30, 10], labelled=labelled), val, test, ("ant", "bee", "cat"), {"train": "here"})


def counts(samples: Few | None) -> list[int]:
    assert samples is not None
    assert samples.labels is not None
    return torch.bincount(samples.labels, minlength=3).tolist()


def rows(samples: Few | None) -> list[int]:
    assert samples is not None
    return samples.rows.tolist()


def sizes(parts: Parts[Few]) -> tuple[int, ...]:
    return tuple(0 if samples is None else len(samples) for samples in (parts.train, parts.val, parts.test))


labels = st.lists(st.integers(0, 4), min_size=1, max_size=80).map(torch.tensor)


@settings(max_examples=100, deadline=None)
@given(labels, st.floats(0, 1), st.integers(0, 2**60))
def test_every_class_keeps_its_share_to_within_one(target: Tensor, share: float, seed: int) -> None:
    count = round(share * len(target))
    positions = stratified(target, count, seed=seed, purpose="val")
    assert len(positions) == len(positions.unique()) == count
    assert torch.equal(positions, positions.sort().values)
    exact = torch.bincount(target, minlength=5) * (count / len(target))
    assert (torch.bincount(target[positions], minlength=5) - exact).abs().max() < 1


def test_choices_for_two_purposes_differ() -> None:
    target = few([50, 30, 20]).labels
    assert target is not None
    one, other = (stratified(target, 50, seed=0, purpose=purpose) for purpose in ("val", "labelled"))
    assert not torch.equal(one, other)


def test_so_many_of_each_class() -> None:
    target = torch.tensor([0, 1, 0, 1, 1, 0])
    assert torch.bincount(target[balanced(target, 2, seed=0)]).tolist() == [2, 2]
    with pytest.raises(KDError, match=r"data\.per_class: asks for 4 samples of each class, and class 0 has 3"):
        balanced(target, 4, seed=0)


def test_the_complement_is_the_rest() -> None:
    assert complement(5, torch.tensor([3, 0])).tolist() == [1, 2, 4]


def test_without_classes_a_larger_choice_adds_to_a_smaller_one() -> None:
    samples = few([40], labelled=False)
    small, large = (set(chosen(samples, count, seed=1, purpose="val").tolist()) for count in (10, 20))
    assert small < large
    assert small != set(chosen(samples, 10, seed=2, purpose="val").tolist())


def test_a_limit_that_is_no_limit_changes_nothing() -> None:
    samples = few([5, 5])
    assert limited(samples, None, seed=0, purpose="limit") is samples
    assert limited(samples, 10, seed=0, purpose="limit") is samples


def test_a_tenth_validates_where_nothing_else_does() -> None:
    train, val = hold_out(few([60, 30, 10]), None, seed=0)
    assert (counts(train), counts(val)) == ([54, 27, 9], [6, 3, 1])
    assert sorted(rows(train) + rows(val)) == list(range(100))
    assert hold_out(few([10]), 0, seed=0)[1] is None
    with pytest.raises(KDError, match=r"data\.val: 10 of 10 samples for validation leave none to train on"):
        hold_out(few([10]), 10, seed=0)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_number_is_a_limit_of_training_samples_alone(labelled: bool) -> None:
    given = parts(val=few([20, 10, 10]), test=few([20, 20, 10]), labelled=labelled)
    assert sizes(made(given, limit=30)) == (30, 40, 50)
    assert sizes(made(given, limit={"train": 30, "val": 20, "test": 10})) == (30, 20, 10)
    assert sizes(made(parts(labelled=labelled), limit=30)) == (27, 3, 0)  # of which val takes its share
    assert sizes(made(parts(labelled=labelled), limit=30, val=0)) == (30, 0, 0)


def test_val_takes_training_samples() -> None:
    one = made(parts(test=few([10])), val=20)
    assert sizes(one) == (80, 20, 10)
    assert counts(one.val) == [12, 6, 2]
    assert sizes(made(parts(), val=0.25)) == (75, 25, 0)


def test_the_seed_of_the_data_replaces_the_runs() -> None:
    assert rows(made(parts(), seed=1).val) != rows(made(parts(), seed=2).val)
    assert rows(made(parts(), seed=1, limit=50).val) == rows(made(parts(), seed=1, limit=50).val)
    assert rows(made(parts(), seed=1, val=10).val) == rows(split(parts(), Spec(name="any", val=10, seed=1), 5).val)


@pytest.mark.parametrize("val", [0, 5, 0.5])
def test_val_beside_a_validation_split_is_an_error_that_names_both(val: float) -> None:
    with pytest.raises(KDError) as caught:
        made(parts(val=few([10])), val=val)
    says = "data.val: takes training samples to validate, but the data set has a validation split of its own"
    hint = "leave 'val' out, or write `test: val` to test on the data set's own validation split"
    assert str(caught.value) == f"{says}\n    hint: {hint}"
    with pytest.raises(KDError, match=r"hint: leave 'val' out$"):
        made(parts(val=few([10]), test=few([5])), val=val)


def test_the_validation_split_can_be_the_test_split() -> None:
    own = few([20, 10, 10])
    moved = made(parts(val=own), test="val")
    assert sizes(moved) == (90, 10, 40)
    assert moved.test is own
    assert sizes(made(parts(val=own), test="val", val=0, limit={"test": 4})) == (100, 0, 4)
    with pytest.raises(KDError, match=r"data\.test: the data set has no validation split of its own"):
        made(parts(), test="val")
    with pytest.raises(KDError, match=r"data\.test: the data set has a test split of its own"):
        made(parts(val=own, test=few([5])), test="val")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"name": "two", "val": 0.1}, "a validation split of its own"),
        ({"name": "three", "test": "val"}, "a test split of its own"),
    ],
)
def test_roles_are_checked_before_anything_is_read_where_splits_are_known(values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Spec(**values)
    assert Spec(name="two", test="val", val=0.1).val == 0.1


def test_a_data_set_without_training_samples_stays_as_it_is() -> None:
    assert sizes(made(Parts(None, few([4]), few([5]), ("ant",)), limit=2)) == (0, 4, 5)


# -- what is said of it


def test_a_summary_says_what_became_of_each_split() -> None:
    summary = summarize(made(parts(test=few([2, 2, 2])), limit=50))
    counted = "of each class: ant 27, bee 13, cat 5"
    assert summary.lines() == [
        "classes: 3 (ant, bee, cat)",
        f"train: 45 of 100 training samples in here; 5 more are held out to validate; {counted}",
        "val: 5 held out of the 100 training samples; of each class: ant 3, bee 2, cat 0",
        "test: 6 test samples; 2 of each class",
    ]
    assert [(each.role, each.samples, each.origin.samples) for each in summary.splits] == [
        ("train", 45, 100),
        ("val", 5, 100),
        ("test", 6, 6),
    ]
    assert summary.splits[1].counts == {"ant": 3, "bee": 2, "cat": 0}


def test_a_summary_says_what_a_split_was_before() -> None:
    lines = summarize(made(parts(val=few([3, 3, 3])), test="val", val=0)).lines()
    assert lines[2:] == ["test: 9 validation samples; 3 of each class", "val: none, the last checkpoint counts"]


def test_a_class_without_a_training_sample_is_a_warning() -> None:
    given = replace(parts(), classes=("ant", "bee", "cat", "dog"))
    summary = summarize(made(given, val=0))
    assert summary.missing == ["dog"]
    assert summary.lines()[-1] == "warning: the class 'dog' has no training sample"
    assert summarize(parts()).warnings() == []
    noted = summarize(replace(parts(), notes=(Note("read so"), Note.warning("3 texts are empty"))))
    assert noted.warnings() == [Note.warning("3 texts are empty")]
    assert noted.lines()[-2:] == ["read so", "warning: 3 texts are empty"]
    two = summarize(replace(given, classes=("ant", "bee", "cat", "dog", "emu")))
    assert two.warnings() == [Note.warning("2 classes have no training sample: 'dog', 'emu'")]


def test_samples_of_many_classes_are_counted_compactly() -> None:
    samples = few([5] * 98 + [1, 9])
    (line,) = (
        each for each in summarize(Parts(samples, None, None, tuple(map(str, range(100))))).lines() if "train:" in each
    )
    assert line == "train: 500 training samples; from 1 (98) to 9 (99) of each class"


def test_samples_without_a_label_are_counted() -> None:
    samples = few([3, 2])
    assert samples.labels is not None
    hidden = Few(samples.rows, torch.where(samples.rows < 2, -100, samples.labels))
    (split,) = summarize(Parts(hidden, None, None, ("ant", "bee"))).splits
    assert (split.counts, split.unlabelled) == ({"ant": 1, "bee": 2}, 2)
    assert split.line() == "train: 5 training samples; of each class: ant 1, bee 2; 2 without a label"
