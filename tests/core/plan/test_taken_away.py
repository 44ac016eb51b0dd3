"""A term or a stage that is set to null is taken away from what a base holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from kd_core.errors import ConfigError
from kd_core.experiment import Experiment

KD = Path(__file__).parents[3] / "configs" / "vision" / "digits_kd.yaml"


def test_a_term_set_to_null_is_taken_away() -> None:
    whole, without = Experiment.load(KD), Experiment.load(KD, overrides=["stages.distill.losses.ce=null"])
    assert list(whole.plan.stages[0].terms) == ["ce", "kd"]
    assert list(without.plan.stages[0].terms) == ["kd"]
    assert without.check() == []


def test_a_file_takes_a_term_of_its_base_away_and_adds_another(tmp_path: Path) -> None:
    config = tmp_path / "mse.yaml"
    config.write_text(f"extends: {KD}\nstages: {{distill: {{losses: {{kd: null, mse: {{loss: mse}}}}}}}}\n")
    assert list(Experiment.load(config).plan.stages[0].terms) == ["ce", "mse"]


def test_a_stage_keeps_at_least_one_term() -> None:
    overrides = ["stages.distill.losses.ce=null", "stages.distill.losses.kd=null"]
    with pytest.raises(ConfigError) as error:
        Experiment.load(KD, overrides=overrides).check()
    (problem,) = error.value.problems
    assert (problem.path, problem.message) == ("stages.distill.losses", "needs at least one term")


def test_a_stage_set_to_null_is_taken_away() -> None:
    overrides = ["stages.tune={epochs: 1}", "stages.distill=null"]
    with pytest.raises(ConfigError, match=r"stages\.tune: missing required key 'batch_size'"):
        Experiment.load(KD, overrides=overrides).check()
