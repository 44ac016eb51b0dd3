"""Classes that only reading the data tells are no mismatch between models before they are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from kd_core.errors import ConfigError
from kd_core.experiment import Experiment

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
