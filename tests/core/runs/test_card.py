"""The model card: scores with seeds, lineage, licences, and front matter that the hub understands."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from torch import nn

from kd_core.runs.card import CardFacts, lineage_list, model_card, without_front_matter
from kd_core.runs.run_folder import RunFolder

HOSTILE = "<script>|`[x](javascript:1)\x1b[2J"
TEACHER = {"zoo": "resnet56", "licence": "BSD-3-Clause", "parameters": 850_000, "weights": "ab12"}
LINEAGE = {
    "student": {"arch": "cnn", "parameters": 438, "weights": "cd34"},
    "models": {"teacher": {"run": "big", "weights": "ef56", "lineage": {"models": {"teacher": TEACHER}}}},
    "data": {"train": {"samples": 86, "fingerprint": "0a1b"}},
}
CONFIG = {"data": {"name": "digits"}, "license": "apache-2.0", "description": "Reads digits."}


def facts(**values: Any) -> CardFacts:
    result = {"metrics": {"top1": 84.125, "loss": math.nan, "iou/a": 3.0}, "split": "test", "samples": 25}
    given = {"lineage": LINEAGE, "pipeline_tag": "image-classification", "data": ["train: 86 of 96"], **values}
    return CardFacts("mine", result, CONFIG, "arch: cnn\n", "kd-vision train x.yaml", **given)


def test_its_front_matter_is_what_the_hub_reads() -> None:
    data = ModelCard(model_card(facts())).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "kd-core", "image-classification")
    assert data.tags == ["kd-core", "knowledge-distillation"]
    assert data.model_name == "mine"
    [result] = data.eval_results
    assert (result.metric_type, result.metric_value) == ("top1", 84.125)
    assert (result.dataset_name, result.dataset_split, result.task_type) == ("digits", "test", "image-classification")


def test_a_card_of_little_is_valid_too() -> None:
    result = {"metrics": {}, "split": None, "samples": None}
    text = model_card(CardFacts("1e3", result, {}, "arch: x\n", "unknown"))
    assert yaml.safe_load(text.split("---\n")[1]) == {"library_name": "kd-core", "tags": ["kd-core"]}
    assert "Not scored." in text
    assert "names no licence" in text
    assert without_front_matter(text).startswith("# 1e3\n")


def test_the_lineage_goes_back_to_the_first_teacher() -> None:
    lines = lineage_list(LINEAGE).splitlines()[2:]
    assert lines == [
        "- **student**: arch cnn, 438 parameters, weights cd34",
        "  - **teacher**: run big, weights ef56",
        "    - **teacher**: zoo resnet56, 850,000 parameters, licence BSD-3-Clause, weights ab12",
    ]


def test_the_licences_of_published_weights_are_told() -> None:
    text = model_card(facts())
    assert "- The student: apache-2.0." in text
    assert "- The published weights resnet56: BSD-3-Clause." in text
    assert "Reads digits." in text
    assert "- train: 86 of 96" in text


def test_texts_in_it_are_texts() -> None:
    lineage = {"student": {"arch": HOSTILE}, "models": {HOSTILE: {"zoo": HOSTILE, "licence": HOSTILE}}, "data": {}}
    text = model_card(facts(lineage=lineage, data=[HOSTILE]))
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "\n[x](" not in text
    ModelCard(text)


def finished(folder: Path, seed: int, top1: float, config: str = "task: x\n") -> RunFolder:
    with RunFolder.create("x", seed, folder) as run:
        run.write_config(f"{config}seed: {seed}\n")
        run.write_manifest(command="kd-vision train x.yaml")
        run.export_student(nn.Linear(2, 2).state_dict(), "arch: tiny\n")
        run.finish({"metrics": {"top1": top1}, "best": None, "samples": 5, "split": "test"}, "image-classification")
    return run


def test_runs_of_a_study_that_differ_in_the_seed_have_their_mean(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{}")
    runs = [finished(tmp_path / f"{seed:03d}", seed, 80.0 + seed) for seed in range(3)]
    other = finished(tmp_path / "003", 0, 10.0, "task: y\n")
    for seed, run in enumerate(runs):
        text = run.card.read_text()
        assert "mean ± standard deviation of 3 seeds" in text
        assert f"| top1 | {80 + seed} | 81 ± 1 |" in text
    assert "| top1 | 10 |" in other.card.read_text()
    assert "seeds" not in other.card.read_text()


def test_a_sibling_that_is_damaged_hinders_nothing_and_a_profile_stays(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{}")
    first, second = (finished(tmp_path / f"{seed}", seed, 80.0) for seed in range(2))
    profile = "<!-- profile -->\nlatency\n<!-- end of profile -->\n"
    first.card.write_text(f"{first.card.read_text()}\n{profile}")
    (second.student / "model.yaml").unlink()
    (tmp_path / "notes.txt").write_text("")
    finished(tmp_path / "2", 2, 83.0)
    text = first.card.read_text()
    assert text.count(profile) == 1
    assert "81 ± 1.7" in text


@pytest.mark.parametrize("alone", [True, False])
def test_runs_beside_each_other_are_no_study(tmp_path: Path, alone: bool) -> None:
    finished(tmp_path / "0", 0, 80.0)
    run = finished(tmp_path / "1", 0 if alone else 1, 81.0)
    assert "seeds" not in run.card.read_text()
    assert json.loads((run.path / "result.json").read_text())["metrics"] == {"top1": 81.0}
