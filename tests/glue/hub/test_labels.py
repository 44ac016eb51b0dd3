"""A model's classes in the data's order, whatever its own is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kd_core.data.batch import DatasetInfo
from kd_core.errors import KDError
from kd_core.models.hub import HubModelRequest
from kd_core.models.labels import names_of, order_of
from kd_core.notes import Note
from kd_glue.data.info import TextInfo
from kd_glue.hub.models import TransformersHub

from .tiny_models import NLI, SCORES, SENTIMENT, config, logits, save

THEIRS = ("Contradiction", "Neutral", "ENTAILMENT")


def build(name: Path, info: DatasetInfo, *, new_head: bool = False, **values: Any) -> Any:
    return TransformersHub().build(HubModelRequest(str(name), info, True, new_head), **values)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra", "deberta-v2", "albert", "gpt2"])
def test_outputs_come_in_the_datas_order(tmp_path: Path, kind: str) -> None:
    theirs = save(tmp_path, kind, THEIRS, pad_token_id=0)
    ours = build(tmp_path, NLI)
    torch.testing.assert_close(logits(ours), logits(theirs)[:, [2, 1, 0]])
    assert ours.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}
    assert ours.config.label2id == {"entailment": 0, "neutral": 1, "contradiction": 2}


@pytest.mark.parametrize("names", [3, ("0", "1", "2"), ("entailment", "neutral", "contradiction")])
def test_classes_without_names_and_in_the_same_order_stay(tmp_path: Path, names: Any) -> None:
    theirs = save(tmp_path, labels=names)
    ours = build(tmp_path, NLI)
    assert torch.equal(logits(ours), logits(theirs))
    assert ours.config.id2label == {0: "entailment", 1: "neutral", 2: "contradiction"}


def test_a_config_names_a_models_classes(tmp_path: Path) -> None:
    theirs = save(tmp_path, labels=3)
    ours = build(tmp_path, NLI, labels=["neutral", "contradiction", "entailment"])
    assert torch.equal(logits(ours), logits(theirs)[:, [2, 0, 1]])


def test_names_of_a_config_win_over_the_models(tmp_path: Path) -> None:
    theirs = save(tmp_path, labels=("good", "bad"))
    ours = build(tmp_path, SENTIMENT, labels=["positive", "negative"])
    assert torch.equal(logits(ours), logits(theirs)[:, [1, 0]])


@pytest.mark.parametrize(
    ("names", "labels", "told"),
    [
        (("good", "bad"), None, r"good, bad, and .* negative, positive\n    hint: .*labels: \[\.\.\.\]"),
        (THEIRS, None, r"Contradiction, Neutral, ENTAILMENT, and .* negative, positive"),
        (2, ["bad", "good"], r"bad, good, and .* negative, positive"),
        (2, ["negative", "neutral", "positive"], r"labels: 3 names .* for a model of 2 outputs"),
        (3, None, r"classifier\.bias has shape \(3,\), not \(2,\).*new_head: true"),
    ],
)
def test_what_cannot_be_aligned_is_an_error(tmp_path: Path, names: Any, labels: Any, told: str) -> None:
    save(tmp_path, labels=names)
    with pytest.raises(KDError, match=f"(?s){told}"):
        build(tmp_path, SENTIMENT, labels=labels)


@pytest.mark.parametrize("names", [3, THEIRS, ("good", "bad")])
def test_a_head_of_other_classes_is_a_new_one_where_that_may_be(tmp_path: Path, names: Any) -> None:
    theirs = save(tmp_path, labels=names, initializer_range=0.5)
    ours = build(tmp_path, SENTIMENT, new_head=True)
    again = build(tmp_path, SENTIMENT, new_head=True)
    assert torch.equal(ours.bert.embeddings.word_embeddings.weight, theirs.bert.embeddings.word_embeddings.weight)
    assert ours.classifier.weight.shape == (2, 32)
    assert not torch.equal(ours.classifier.weight, theirs.classifier.weight[:2])
    assert not ours.classifier.bias.any()
    assert not torch.equal(ours.classifier.weight, again.classifier.weight)
    assert 0.3 < ours.classifier.weight.std() < 0.7


def test_labels_that_do_not_fit_are_an_error_even_with_a_new_head(tmp_path: Path) -> None:
    save(tmp_path, labels=2)
    with pytest.raises(KDError, match="bad, good"):
        build(tmp_path, SENTIMENT, new_head=True, labels=["bad", "good"])


def test_a_regression_has_one_output(tmp_path: Path) -> None:
    theirs = save(tmp_path, labels=1)
    ours = build(tmp_path, SCORES)
    assert torch.equal(logits(ours), logits(theirs))
    assert (ours.config.num_labels, ours.config.problem_type) == (1, "regression")
    assert build(tmp_path, SENTIMENT, new_head=True).config.num_labels == 2
    with pytest.raises(KDError, match=r"classifier\.bias has shape \(1,\), not \(2,\)"):
        build(tmp_path, SENTIMENT)


def test_classes_that_nobody_knows_yet_stay(tmp_path: Path) -> None:
    theirs = save(tmp_path, labels=THEIRS)
    ours = build(tmp_path, DatasetInfo())
    assert torch.equal(logits(ours), logits(theirs))
    assert tuple(ours.config.id2label.values()) == THEIRS


@pytest.mark.parametrize(
    ("theirs", "classes", "order"),
    [
        (["b", "a"], ["a", "b"], [1, 0]),
        (["Not Entailment", "ENTAILMENT"], ["entailment", "not_entailment"], [1, 0]),
        (["not-equivalent", "equivalent"], ["not_equivalent", "equivalent"], [0, 1]),
        (["A", "a"], ["a", "A"], [1, 0]),
        (["A", "a"], ["a", "b"], None),
        (["a b", "ab"], ["a_b", "c"], None),
        (["a", "b", "c"], ["a", "b"], None),
        (["a"], ["a", "b"], None),
    ],
)
def test_names_are_matched_whatever_their_spelling(theirs: Any, classes: Any, order: Any) -> None:
    assert order_of(theirs, classes) == order


def test_labels_of_the_library_are_no_names() -> None:
    assert names_of(config("bert", 2)) is None
    assert names_of(config("bert", ["0", "1"])) is None
    assert names_of(config("bert", ["LABEL_1", "LABEL_0"])) == ("LABEL_1", "LABEL_0")
    assert names_of(config("bert", ["no", "yes"])) == ("no", "yes")


# -- what a run says before it trains


@pytest.mark.parametrize(
    ("names", "values", "told"),
    [
        (("positive", "negative"), {}, "classes by name: output 1 is 'negative', output 0 is 'positive'"),
        (2, {}, "warning: order assumed: its outputs have no names, output 0 is 'negative', output 1 is 'positive'"),
        (2, {"labels": ["positive", "negative"]}, "classes by name: output 1 is 'negative', output 0 is 'positive'"),
        (3, {"new_head": True}, "new head: the classifier begins at random"),
        (
            THEIRS,
            {"new_head": True},
            "new head: it was trained for the classes Contradiction, Neutral, ENTAILMENT, which",
        ),
        (("good", "bad"), {"new_head": True}, "warning: new head: it was trained for the classes good, bad, which"),
    ],
)
def test_what_an_output_is_is_told(tmp_path: Path, names: Any, values: dict[str, Any], told: str) -> None:
    save(tmp_path, labels=names)
    notes: list[Note] = []
    request = HubModelRequest(str(tmp_path), SENTIMENT, True, values.pop("new_head", False), log=notes.append)
    TransformersHub().build(request, **values)
    [note] = notes
    assert str(note).startswith(told)


def told(folder: Path, info: DatasetInfo) -> list[str]:
    notes: list[Note] = []
    TransformersHub().build(HubModelRequest(str(folder), info, True, False, log=notes.append))
    return list(map(str, notes))


def test_outputs_without_names_of_a_model_of_the_task_are_in_its_order(tmp_path: Path) -> None:
    save(tmp_path, labels=2, finetuning_task="sst2")
    info = TextInfo.of(2, classes=("negative", "positive"), task="sst2")
    assert told(tmp_path, info)[0].startswith("classes of sst2, for which it was trained: output 0 is 'negative'")
    assert told(tmp_path, replace(info, task="cola"))[0].startswith("warning: order assumed")


def test_classes_that_are_numbers_need_no_names(tmp_path: Path) -> None:
    save(tmp_path, labels=2)
    assert told(tmp_path, TextInfo.of(2, classes=("0", "1")))[0].startswith("classes by number: output 0 is '0'")


def test_a_regression_and_unknown_classes_have_nothing_to_tell(tmp_path: Path) -> None:
    save(tmp_path, labels=1)
    notes: list[Note] = []
    for info in (SCORES, DatasetInfo()):
        TransformersHub().build(HubModelRequest(str(tmp_path), info, True, False, log=notes.append))
    assert notes == []
