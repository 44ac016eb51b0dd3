"""Errors are data: message, hint, path and place are fields, and only ``str`` puts them together."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest

from kd_core.config import loads
from kd_core.config.validation import locate_errors
from kd_core.errors import (
    ConfigError,
    ConfigProblem,
    KDError,
    Mark,
    Unverified,
    did_you_mean,
    error_path,
    nearest,
)

TEXT = "task: x\nmodels:\n  student: {arch: cnn, width: 0}\n"


def test_an_error_prints_its_place_path_message_and_hint() -> None:
    error = KDError("must be above 0", hint="write 1", path="models.student.width", mark=Mark("a.yaml", 3, 31))
    assert str(error) == "a.yaml:3:31: models.student.width: must be above 0\n    hint: write 1"
    assert str(KDError("gone")) == "gone"
    assert str(KDError("gone", hint="look elsewhere")) == "gone\n    hint: look elsewhere"
    assert str(KDError("2 columns", mark=Mark("t.csv", 7))) == "t.csv:7: 2 columns"


def test_a_text_that_looks_like_a_place_or_a_hint_stays_the_message() -> None:
    text = "models.student: odd\n    hint: none"
    (problem,) = KDError(text).problems
    assert problem == ConfigProblem(text)
    document = loads(TEXT)
    with pytest.raises(ConfigError) as caught, locate_errors(document):
        raise KDError("models.student: odd")
    assert caught.value.problems == [ConfigProblem("models.student: odd")]


@pytest.mark.parametrize(
    ("path", "front", "expected"),
    [
        ("", ("models", "student"), "models.student"),
        ("width", ("models", "student"), "models.student.width"),
        ("0.lr", ("groups",), "groups.0.lr"),
        ("models.student.width", ("models", "student"), "models.student.width"),
        ("models.student", ("models", "student"), "models.student"),
        ("student", (), "student"),
        ("lr", ("groups", 0), "groups.0.lr"),
        ("models.students", ("models.student",), "models.student.models.students"),
    ],
)
def test_layers_put_the_beginning_in_front_of_a_path(path: str, front: tuple[str | int, ...], expected: str) -> None:
    error = KDError("wrong", hint="right", path=path, at_key=True).at(*front)
    assert error.problems == [ConfigProblem("wrong", expected, None, "right")]
    assert error.problems[0].at_key


@pytest.mark.parametrize("make", [KDError, Unverified, lambda text: ConfigError(ConfigProblem(text))])
def test_an_error_keeps_its_class_when_it_moves(make: Callable[[str], KDError]) -> None:
    error = make("wrong")
    with pytest.raises(type(error)) as caught, error_path("stages", "distill"), error_path("losses"):
        raise error
    assert type(caught.value) is type(error)
    assert [problem.path for problem in caught.value.problems] == ["stages.distill.losses"]
    assert [problem.path for problem in error.problems] == [""]


def test_errors_survive_pickling() -> None:
    for error in (KDError("a", hint="b", path="c", mark=Mark("f", 1, 2)), ConfigError([ConfigProblem("a", "b")])):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), copy.problems, str(copy)) == (type(error), error.problems, str(error))


@pytest.mark.parametrize(("at_key", "column"), [(False, 31), (True, 24)])
def test_a_document_adds_the_place_of_a_value_or_of_its_key(at_key: bool, column: int) -> None:
    with pytest.raises(ConfigError) as caught, locate_errors(loads(TEXT, "a.yaml")), error_path("models", "student"):
        raise KDError("must be above 0", path="width", at_key=at_key)
    assert caught.value.problems[0].mark == Mark("a.yaml", 3, column)


def test_a_place_that_is_known_already_stays() -> None:
    with pytest.raises(ConfigError) as caught, locate_errors(loads(TEXT, "a.yaml")):
        raise KDError("odd", path="models.student", mark=Mark("model.yaml", 1, 1))
    assert caught.value.problems[0].mark == Mark("model.yaml", 1, 1)


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("KD", ["kd", "crd"], "kd"),
        ("Cross-Entropy", ["cross_entropy", "mse"], "cross_entropy"),
        ("batchsize", ["batch_size", "eval_batch_size"], "batch_size"),
        ("layer3", ["layers.layer3", "layer"], "layers.layer3"),
        ("zebra", ["kd"], None),
    ],
)
def test_the_nearest_name_knows_case_and_underscores(name: str, known: list[str], expected: str | None) -> None:
    assert nearest(name, known) == expected


def test_did_you_mean_lists_what_there_is() -> None:
    assert did_you_mean("zebra", ["b", "a"]) == "choose one of: a, b"
    assert did_you_mean("x", []) == "there are none to choose from"


class Own(KDError):
    """An error whose constructor takes something else than a message."""

    def __init__(self, place: str, count: int) -> None:
        super().__init__(f"{place} has {count}", hint="count again", path=place)
        self.count = count


def test_an_error_of_a_class_of_its_own_is_copied_and_pickled() -> None:
    for error in (pickle.loads(pickle.dumps(Own("split", 3))), Own("split", 3).at()):
        assert type(error) is Own
        assert (str(error), error.count) == (str(Own("split", 3)), 3)
    assert Own("split", 3).at("data").problems[0].path == "data.split"
