"""Which images train, validate and test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_vision.data.labelled_subset import UNLABELLED, LabelledSubset, labelled_images
from kd_vision.data.spec import DataSpec
from kd_vision.data.splitting import split

SIZES = [50, 30, 20]


def pool(sizes: list[int] = SIZES) -> LabelledSubset:
    target = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return labelled_images(torch.zeros(len(target), 1, 2, 2, dtype=torch.uint8), target)


def parts(val: LabelledSubset | None = None) -> Parts[LabelledSubset]:
    return Parts(pool(), val, pool([5, 3, 2]), ("ant", "bee", "cat"))


def choose(seed: int = 0, given: Parts[LabelledSubset] | None = None, **values: Any) -> Parts[LabelledSubset]:
    return split(given or parts(), DataSpec(**{"name": "digits", **values}), seed)


def rows(part: LabelledSubset | None) -> set[int]:
    assert part is not None
    assert len(part.index.unique()) == len(part)
    return set(part.index.tolist())


def counts(part: LabelledSubset | None) -> list[int]:
    assert part is not None
    return torch.bincount(part.target, minlength=3).tolist()


def test_a_tenth_validates_unless_something_else_is_said() -> None:
    made = choose()
    assert rows(made.train) | rows(made.val) == set(range(100))
    assert counts(made.val) == [5, 3, 2]
    assert counts(choose(val=40).val) == [20, 12, 8]
    assert counts(choose(val=0.5).train) == [25, 15, 10]
    assert choose(val=0).val is None
    assert len(choose(val=0).train) == 100


def test_a_test_split_without_a_label_is_left_out() -> None:
    given = replace(parts(), test=pool([5, 3, 2]).hide_labels(torch.tensor([], dtype=torch.int64)))
    made = choose(given=given)
    assert made.test is None
    assert [note.text for note in made.notes] == ["none of the 10 test images has a label: they are left out"]


def test_choices_are_a_function_of_the_seed() -> None:
    assert rows(choose(seed=1).val) == rows(choose(seed=1).val)
    assert rows(choose(seed=1).val) != rows(choose(seed=2).val)


def test_a_validation_split_of_its_own_is_used_and_no_share_taken() -> None:
    own = pool([3, 3, 3])
    made = choose(given=parts(val=own))
    assert made.val is own
    assert len(made.train) == 100
    with pytest.raises(KDError, match="validation split of its own"):
        choose(given=parts(val=own), val=0.1)
    assert counts(choose(given=parts(val=own), limit={"val": 3}).val) == [1, 1, 1]


def test_limits_keep_the_shares_of_classes() -> None:
    made = choose(limit=10, val=0)
    assert counts(made.train) == [5, 3, 2]
    assert len(made.test or ()) == 10
    made = choose(limit={"train": 50, "test": 5}, val=0.2)
    assert (len(made.train), len(made.val or ()), len(made.test or ())) == (40, 10, 5)
    assert counts(choose(fraction=0.2, val=0).train) == [10, 6, 4]
    assert counts(choose(per_class=7, val=0).train) == [7, 7, 7]
    assert len(choose(limit=1000, val=0).train) == 100


def test_hidden_labels_stay_images() -> None:
    made = choose(labelled=20, val=0.5)
    assert len(made.train) == 50
    assert counts(replace(made.train, target=made.train.target[made.train.target >= 0])) == [10, 6, 4]
    assert (made.train.target == UNLABELLED).sum() == 30
    assert made.val is not None
    assert (made.val.target >= 0).all()
    assert (choose(labelled=0).train.target == UNLABELLED).all()
    few = parts()
    few = replace(few, train=few.train.hide_labels(torch.arange(5)))
    assert (choose(given=few, labelled=5, val=0).train.target >= 0).nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("classes", [["cat", "ant"], [2, 0], ["cat", 0]])
def test_some_classes_are_numbered_anew(classes: list[str | int]) -> None:
    made = choose(classes=classes, val=0)
    assert made.classes == ("cat", "ant")
    assert counts(made.train)[:2] == [20, 50]
    assert rows(made.train) == {*range(50), *range(80, 100)}
    assert counts(made.test)[:2] == [2, 5]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"classes": ["ant", "bea"]}, "did you mean 'bee'"),
        ({"classes": [0, 3]}, "no class 3"),
        ({"classes": [0, -1]}, "no class -1"),
        ({"classes": [0, "ant"]}, "named twice"),
        ({"per_class": 21}, "class 2 has 20"),
        ({"labelled": 91}, "asks for 91 samples, and there are 90"),
        ({"val": 100}, "leave none to train on"),
    ],
)
def test_what_the_data_cannot_give_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(KDError, match=says):
        choose(**values)


def test_a_wrong_number_of_classes_is_refused() -> None:
    with pytest.raises(KDError, match="is 4, and the data set has 3"):
        split(parts(), DataSpec(dataset={"train": object()}, num_classes=4), 0)


def test_a_limit_leaves_the_images_whose_labels_another_run_keeps() -> None:
    made = choose(labelled=20, val=0).train
    assert rows(choose(limit={"train": 20}, val=0).train) == set(made.index[made.target >= 0].tolist())


def test_a_fingerprint_tells_content_choice_and_labels_apart() -> None:
    whole = pool()
    other = labelled_images(torch.ones_like(whole.images), whole.target)
    digests = [whole, other, whole.take(torch.arange(99)), whole.hide_labels(torch.arange(3))]
    assert len({each.digest() for each in digests}) == 4
    assert whole.digest() == pool().digest()
