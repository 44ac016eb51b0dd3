"""Classes that only reading the data tells are no mismatch between models before they are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from kd_core.data.batch import Batch
from kd_core.errors import ConfigError, KDError
from kd_core.experiment import Experiment
from kd_core.train.run import Result
from kd_glue.data.info import TextInfo
from kd_glue.task import TextClassification

from .hub.tiny_models import save, save_tokenizer

CONFIG = """
task: glue
data: {files: {train: t.csv}, text: text, label: label, max_length: 32}
models: {student: {hub: m3}, teacher: {hub: t2}}
stages:
  distill:
    epochs: 1
    batch_size: 4
    losses: {ce: {loss: cross_entropy}, kd: {loss: kd}}
    optimizer: !call:torch.optim.AdamW {lr: 1.0e-3}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config whose student comes from a model of three classes and whose teacher has the data's two."""
    for name, labels in (("m3", ("contradiction", "neutral", "entailment")), ("t2", ("no", "yes"))):
        save(tmp_path / name, labels=labels)
        save_tokenizer(tmp_path / name)
    (tmp_path / "t.csv").write_text("text,label\n" + "good film,yes\nbad film,no\n" * 8)
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize("overrides", [[], ["data.labels=[no, yes]"]])
def test_a_student_of_other_classes_gets_those_of_the_data(config: Path, overrides: list[str]) -> None:
    Experiment.load(config, overrides=overrides).check(strict=True)


def test_a_mismatch_of_known_classes_is_one(config: Path) -> None:
    overrides = ["data.labels=[no, yes]", "models.student.labels=[a, b, c, d]"]
    with pytest.raises(ConfigError, match="4 names"):
        Experiment.load(config, overrides=overrides).check()


# -- outputs without names


def texts(count: int) -> str:
    return "text,label\n" + "good film,yes\nbad film,no\n" * count


@pytest.fixture
def teacher(config: Path) -> Path:
    """The folder of a teacher that tells `good` from `bad`, whose outputs, yes and no, have no names."""
    folder = config.parent / "g2"
    model = save(folder, labels=2, initializer_range=0.5)
    save_tokenizer(folder)
    tokens = AutoTokenizer.from_pretrained(folder)(["bad film", "good film"], return_tensors="pt")
    bad, good = model.bert(**tokens).pooler_output.detach()
    with torch.no_grad():
        model.classifier.weight[0] = (good - bad) / (good - bad).square().sum() * 20
        model.classifier.bias[0] = -model.classifier.weight[0] @ (good + bad) / 2
        model.classifier.weight[1], model.classifier.bias[1] = 0.0, 0.0
    model.save_pretrained(folder)
    return folder


def train(config: Path, *overrides: str) -> Result:
    overrides = ("models.teacher.hub=g2", "models.student.hub=t2", *overrides)
    return Experiment.load(config, overrides=overrides).train(config.parent / "run")


def test_warnings_about_texts_and_models_are_noted_in_the_result(
    config: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.parent)
    (config.parent / "t.csv").write_text(texts(6) + ",no\n")
    empty, order, _ = train(config, "data.val=0").warnings
    assert "t.csv: 1 of 13 texts in column 'text' is empty (line 14)" in empty
    assert order.startswith("models.teacher: order assumed: its outputs have no names")


def test_a_teacher_whose_outputs_are_in_another_order_is_refused(
    config: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.parent)
    (config.parent / "t.csv").write_text(texts(40))
    with pytest.raises(KDError) as caught:
        train(config)
    [problem] = caught.value.problems
    assert problem.path == "models.teacher"
    assert "in the data's order they agree with 0 of 64 labels, in the order yes, no with 64" in problem.message
    assert problem.hint == "`labels: [yes, no]`"
    train(config, "models.teacher.labels=[yes, no]")


def test_few_labels_and_outputs_of_chance_decide_nothing() -> None:
    task, info = TextClassification(), TextInfo.of(2, classes=("no", "yes"))

    def check(logits: torch.Tensor, target: torch.Tensor) -> None:
        task.check_order({"logits": logits}, Batch({}, target, torch.arange(len(target))), info)

    alternate = torch.arange(64) % 2
    opposite = torch.nn.functional.one_hot(1 - alternate, 2).float()
    with pytest.raises(KDError):
        check(opposite, alternate)
    check(opposite[:15], alternate[:15])
    check(opposite, torch.full((64,), -100))
    check(torch.nn.functional.one_hot(alternate, 2).float(), alternate)
    check(torch.eye(2).repeat_interleave(32, 0), alternate)
    check(opposite, torch.rand(64, 1))
