"""GLUE's metrics against scikit-learn and scipy, and how they are accumulated."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk
from torch import Tensor
from torch.nn import functional as F

from kd_core.data.batch import Batch
from kd_core.errors import KDError
from kd_glue.data.tasks import TASKS
from kd_glue.metrics import GlueMetrics

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
EXACT = {"rel": 1e-12, "abs": 1e-12}


def judged(
    name: str | None, logits: Tensor, target: Tensor, group: Tensor | None = None, cuts: list[int] | None = None
) -> dict[str, float]:
    """The metrics of outputs (N, C), seen in batches that end at ``cuts``."""
    problem = TASKS[name].problem if name else problem_of(target)
    found = GlueMetrics(name, problem, logits.shape[1])
    index = torch.arange(len(target))
    for rows in torch.tensor_split(index, cuts or []):
        extra = {} if group is None else {"group": group[rows]}
        found.update({"logits": logits[rows]}, Batch({}, target[rows], rows, extra))
    return found.compute()


def problem_of(target: Tensor) -> str:
    return SINGLE if target.ndim == 1 else REGRESSION if target.shape[1] == 1 else MULTI


def drawn(seed: int, classes: int, count: int = 300) -> tuple[Tensor, Tensor]:
    """Logits that know something of their targets."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (count,), generator=generator)
    return torch.randn(count, classes, generator=generator) + F.one_hot(target, classes), target


def scores(seed: int, count: int = 300) -> tuple[Tensor, Tensor]:
    """Predictions and scores with ties on both sides."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 26, (count, 1), generator=generator) / 5
    return ((target + torch.randn(count, 1, generator=generator)) * 4).round() / 4, target


@pytest.mark.parametrize("name", ["cola", "sst2", "mrpc", "qqp", "qnli", "rte", "wnli", "ax"])
@pytest.mark.parametrize("seed", range(3))
def test_classes_are_judged_as_scikit_learn_does(name: str, seed: int) -> None:
    logits, target = drawn(seed, TASKS[name].num_labels)
    answers = logits.argmax(1)
    theirs = {
        "matthews_correlation": sk.matthews_corrcoef,
        "accuracy": sk.accuracy_score,
        "f1": sk.f1_score,
    }
    expected = {metric: theirs[metric](target, answers) for metric in TASKS[name].metrics}
    found = judged(name, logits, target)
    assert list(found) == [*TASKS[name].metrics, "score", "loss"]
    assert {metric: found[metric] for metric in expected} == pytest.approx(expected, **EXACT)
    assert found["score"] == pytest.approx(sum(expected.values()) / len(expected), **EXACT)
    assert found["loss"] == pytest.approx(F.cross_entropy(logits.double(), target).item(), **EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_judged_as_scipy_does(seed: int) -> None:
    output, target = scores(seed)
    found, x, y = judged("stsb", output, target), output[:, 0].double().numpy(), target[:, 0].double().numpy()
    assert found["pearson"] == pytest.approx(stats.pearsonr(x, y).statistic, **EXACT)
    assert found["spearmanr"] == pytest.approx(stats.spearmanr(x, y).statistic, **EXACT)
    assert found["score"] == pytest.approx((found["pearson"] + found["spearmanr"]) / 2, **EXACT)
    assert found["loss"] == pytest.approx(sk.mean_squared_error(y, x), **EXACT)
    assert judged(None, output, target) == {**found, "mse": found["loss"]}
    flat = GlueMetrics("stsb", REGRESSION, 1)
    flat.update(output[:, 0], Batch({}, target, torch.arange(300)))
    assert flat.compute() == found


def test_other_classes_are_judged_by_accuracy_and_macro_f1() -> None:
    logits, target = drawn(5, 7)
    target[target == 3] = 4
    logits[:, 3] = -100.0  # a class that neither occurs nor is predicted does not count
    answers, found = logits.argmax(1), judged(None, logits, target)
    assert found["f1_macro"] == pytest.approx(sk.f1_score(target, answers, average="macro"), **EXACT)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(target, answers), **EXACT)
    assert found["score"] == pytest.approx((found["accuracy"] + found["f1_macro"]) / 2, **EXACT)


def test_several_classes_a_text() -> None:
    logits, _ = drawn(6, 4)
    target = (torch.randn(300, 4, generator=torch.Generator().manual_seed(1)) + logits > 0.5).float()
    found, chosen = judged(None, logits, target), logits > 0
    expected = {
        "f1_micro": sk.f1_score(target, chosen, average="micro"),
        "f1_macro": sk.f1_score(target, chosen, average="macro"),
        "exact_match": (target == chosen).all(1).double().mean().item(),
    }
    loss = F.binary_cross_entropy_with_logits(logits.double(), target.double()).item()
    assert found == pytest.approx({**expected, "score": sum(expected.values()) / 3, "loss": loss}, **EXACT)


def test_mnli_is_scored_on_the_matched_set() -> None:
    logits, target = drawn(7, 3, 200)
    group = (torch.arange(200) % 5 == 0).long()
    right, found = logits.argmax(1) == target, judged("mnli", logits, target, group)
    matched, mismatched = (right[group == each].double().mean().item() for each in (0, 1))
    assert matched != pytest.approx(mismatched)
    assert found["accuracy"] == found["score"] == pytest.approx(matched, **EXACT)
    assert found["accuracy_mm"] == pytest.approx(mismatched, **EXACT)
    assert found["loss"] == pytest.approx(F.cross_entropy(logits.double(), target).item(), **EXACT)
    assert "accuracy_mm" not in judged("mnli", logits, target, torch.zeros_like(group))


@pytest.mark.parametrize("name", ["cola", "mrpc", "stsb", "mnli", None])
def test_neither_batches_nor_their_order_change_a_bit(name: str | None) -> None:
    logits, target = scores(8) if name == "stsb" else drawn(8, 3 if name == "mnli" else 2)
    group = torch.arange(300) % 2 if name == "mnli" else None
    whole = judged(name, logits, target, group)
    for cuts in ([1], [299], list(range(7, 300, 7)), [32, 33, 200, 200, 201]):
        assert judged(name, logits, target, group, cuts) == whole
    found = GlueMetrics(name, TASKS[name].problem if name else SINGLE, None)
    for rows in torch.randperm(300, generator=torch.Generator().manual_seed(0)).split(11):
        extra = {} if group is None else {"group": group[rows]}
        found.update(logits[rows], Batch({}, target[rows], rows, extra))
    assert found.compute() == whole


@pytest.mark.parametrize("answer", [0, 1])
@pytest.mark.parametrize("target", [[0, 0, 0], [1, 1, 1], [0, 1, 1], [0], [1]])
def test_one_answer_for_all_has_a_value(answer: int, target: list[int]) -> None:
    """Warnings are errors here: none of scikit-learn's comes through."""
    logits = F.one_hot(torch.full((len(target),), answer), 2).float()
    right = sum(each == answer for each in target)
    assert judged("cola", logits, torch.tensor(target))["matthews_correlation"] == 0
    found = judged("mrpc", logits, torch.tensor(target))
    assert found["accuracy"] == pytest.approx(right / len(target), **EXACT)
    assert found["f1"] == pytest.approx(2 * right / (right + len(target)) if answer else 0.0, **EXACT)


@pytest.mark.parametrize("target", [[2.0, 2.0, 2.0], [1.0, 2.0, 3.0], [4.0]])
def test_constant_scores_have_no_correlation(target: list[float]) -> None:
    found = judged("stsb", torch.full((len(target), 1), 2.5), torch.tensor(target)[:, None])
    assert found["pearson"] == found["spearmanr"] == found["score"] == 0
    assert found["loss"] == pytest.approx(sum((each - 2.5) ** 2 for each in target) / len(target), **EXACT)


def test_nearly_constant_scores_warn_of_nothing() -> None:
    output = torch.tensor([[1.0], [1 + 2**-52], [1 + 2**-51]], dtype=torch.float64)
    assert judged("stsb", output, torch.tensor([[0.0], [1.0], [2.0]]))["spearmanr"] == pytest.approx(1)


def test_scores_that_are_not_finite_have_no_correlation() -> None:
    output, target = scores(9, 10)
    for broken in (math.nan, math.inf):
        output[3] = broken
        found = judged("stsb", output, target)
        assert math.isnan(found["pearson"])
        assert math.isnan(found["score"])
        assert not math.isfinite(found["loss"])


def test_of_equal_logits_the_first_class_is_predicted() -> None:
    assert judged("sst2", torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]))["accuracy"] == 0.75


def test_samples_without_a_label_do_not_count() -> None:
    logits, target = drawn(10, 2)
    kept = torch.arange(300) % 3 > 0
    assert judged("mrpc", logits, target.where(kept, -100)) == judged("mrpc", logits[kept], target[kept])
    output, score = scores(10)
    hidden = score.where(kept[:, None], math.nan)
    assert judged("stsb", output, hidden) == judged("stsb", output[kept], score[kept])
    several = F.one_hot(target, 2).float()
    assert judged(None, logits, several.where(kept[:, None], -100)) == judged(None, logits[kept], several[kept])


@pytest.mark.parametrize("name", ["cola", "stsb", "mnli"])
def test_without_any_label_figures_are_nan(name: str) -> None:
    empty = GlueMetrics(name, TASKS[name].problem, TASKS[name].num_labels).compute()
    target = torch.full((4, 1), math.nan) if name == "stsb" else torch.full((4,), -100)
    hidden = judged(name, torch.randn(4, TASKS[name].num_labels), target)
    assert all(map(math.isnan, [*empty.values(), *hidden.values()]))
    assert list(hidden) == list(empty) == [*TASKS[name].metrics, "score", "loss"]


def test_half_precision_is_judged_in_double() -> None:
    logits, target = drawn(11, 3)
    assert judged("mnli", logits.bfloat16(), target) == judged("mnli", logits.bfloat16().double(), target)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"logits": x}, lambda x: SimpleNamespace(logits=x)])
def test_logits_are_found_in_an_output(wrap: Any) -> None:
    found = GlueMetrics("sst2", SINGLE, 2)
    found.update(wrap(torch.eye(2)), Batch({}, torch.arange(2), torch.arange(2)))
    assert found.compute()["accuracy"] == 1


@pytest.mark.parametrize("shape", [(4, 3), (3, 2), (4, 2, 2), (4,)])
def test_what_are_no_logits_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(KDError, match="is scored on outputs"):
        GlueMetrics("sst2", SINGLE, 2).update(torch.zeros(shape), Batch({}, torch.zeros(4).long(), torch.arange(4)))


def test_outputs_are_as_wide_as_targets() -> None:
    with pytest.raises(KDError, match=r"a regression is scored on outputs \(4, 1\), the model returned \(4, 2\)"):
        GlueMetrics("stsb", REGRESSION, 1).update(torch.zeros(4, 2), Batch({}, torch.zeros(4, 1), torch.arange(4)))
    with pytest.raises(KDError, match=r"scored on outputs \(4, 3\), the model returned \(4, 2\)"):
        GlueMetrics(None, MULTI, 3).update(torch.zeros(4, 2), Batch({}, torch.zeros(4, 3), torch.arange(4)))
    with pytest.raises(KDError, match="returned list"):
        GlueMetrics("sst2", SINGLE, 2).update([torch.zeros(4, 2)], Batch({}, torch.zeros(4).long(), torch.arange(4)))


LOAD = """
import json, socket, sys
import numpy as np

def refused(*_):
    raise AssertionError("a connection was opened")

socket.socket.connect = refused
import evaluate
from kd_glue.metrics import MODULE

found = {}
for name, (predictions, references) in json.load(sys.stdin).items():
    module = evaluate.load(MODULE, name)
    module.add_batch(predictions=predictions[:5], references=references[:5])
    module.add_batch(predictions=predictions[5:], references=references[5:])
    found[name] = module.compute()
print(json.dumps(found))
"""


def test_the_evaluate_module_works_without_the_hub(tmp_path: Path) -> None:
    """Loaded from the installed package in a fresh interpreter whose caches are empty."""
    given = {}
    for name, task in TASKS.items():
        output, target = scores(12, 40) if name == "stsb" else drawn(12, task.num_labels, 40)
        answers = output[:, 0] if name == "stsb" else output.argmax(1)
        given[name] = (answers.tolist(), target.flatten().tolist())
    given["mnli_mismatched"] = given["mnli"]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOAD],
        input=json.dumps(given),
        env={**os.environ, "HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    for name, (answers, target) in given.items():
        task = TASKS[name.removesuffix("_mismatched")]
        wide = np.asarray(answers)[:, None] if name == "stsb" else np.eye(task.num_labels)[answers]
        ours = judged(
            task.name, torch.from_numpy(wide), torch.tensor(target)[:, None] if name == "stsb" else torch.tensor(target)
        )
        assert found[name] == {metric: ours[metric] for metric in task.metrics}


def figures_of(problem: str, logits: Tensor, target: Tensor, group: Tensor | None = None) -> Any:
    found = GlueMetrics(None, problem, logits.shape[1])
    index = torch.arange(len(target))
    found.update(logits, Batch({}, target, index, {} if group is None else {"group": group}))
    return found.by_class()


def test_classes_have_precision_recall_and_f1() -> None:
    logits, target = drawn(5, 3)
    group = (torch.arange(len(target)) < 20).long()
    figures = figures_of(SINGLE, logits, target, group)
    kept, answers = target[20:].numpy(), logits[20:].argmax(1).numpy()
    expected = sk.precision_recall_fscore_support(kept, answers)
    for name, values in zip(("precision", "recall", "f1", "samples"), expected, strict=True):
        assert figures.columns[name] == pytest.approx(values.tolist()), name
    assert figures.confusion.tolist() == sk.confusion_matrix(kept, answers).tolist()


def test_labels_of_texts_with_several_have_the_same() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, target = torch.randn(200, 4, generator=generator), torch.randint(0, 2, (200, 4), generator=generator)
    figures = figures_of(MULTI, logits, target)
    expected = sk.precision_recall_fscore_support(target.numpy(), (logits > 0).numpy())
    for name, values in zip(("precision", "recall", "f1", "samples"), expected, strict=True):
        assert figures.columns[name] == pytest.approx(values.tolist()), name
    assert figures.confusion is None


def test_a_regression_has_no_classes() -> None:
    assert figures_of(REGRESSION, *scores(2)) is None
