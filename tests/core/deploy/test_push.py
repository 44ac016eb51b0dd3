"""Students of every task on a server on loopback that stands for the hub: what is uploaded, loads again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from tests.glue.hub.hub_server import FakeHub, serving

import kd_core
from kd_core.deploy.push import for_others, push
from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_seg.cli import main as kd_seg
from kd_vision.cli import main as kd_vision

IMAGES = """
task: image_classification
data: {name: digits, limit: 60, augment: none}
models:
  student: {arch: cnn, width: 4, depth: 1}
  teacher: {arch: cnn, width: 8, depth: 1, weights: null}
stages:
  train:
    steps: 1
    batch_size: 8
    losses: {kd: {loss: kd, temperature: 4.0}}
    optimizer: !call:torch.optim.SGD {lr: 0.05}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("push")
    (folder / "config.yaml").write_text(IMAGES)
    Experiment.load(folder / "config.yaml").train(folder / "run")
    return folder / "run"


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_real_one")


def test_what_is_uploaded_loads_and_predicts_the_same(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(FakeHub({}), monkeypatch) as hub:
        done = CliRunner().invoke(kd_vision, ["push", str(run), "me/digits", "--private"])
        assert (done.exit_code, done.stdout) == (0, f"{hub.url}/me/digits\n")
    assert [made["visibility"] for made in hub.created] == ["private"]
    [files] = hub.commits
    assert set(files) == {"model.safetensors", "model.yaml", "lineage.json", "README.md"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    image = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8)
    assert torch.equal(kd_core.load(tmp_path)(image), kd_core.load(run)(image))


def test_the_card_says_what_it_is_and_how_it_loads(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FakeHub({}), monkeypatch) as hub:
        push(run, "me/digits")
    text = hub.commits[0]["README.md"].decode()
    facts: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    assert (facts["library_name"], facts["pipeline_tag"]) == ("kd-core", "image-classification")
    assert facts["tags"] == ["kd-core", "knowledge-distillation"]
    [result] = facts["model-index"][0]["results"]
    assert result["dataset"] == {"name": "digits", "type": "digits", "split": "test"}
    assert [metric["type"] for metric in result["metrics"]] == ["top1", "top5", "ece"]
    assert 'student = kd_core.load(snapshot_download("me/digits"))' in text
    assert "{run: FOLDER}" in text
    assert str(run) not in text


def test_a_dry_run_lists_the_files_and_needs_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with serving(FakeHub({}), monkeypatch) as hub:
        done = CliRunner().invoke(kd_vision, ["push", str(run), "me/digits", "--dry-run"])
        assert done.exit_code == 0, done.stderr
        told = CliRunner().invoke(kd_vision, ["push", str(run), "me/digits", "--dry-run", "--json"])
    assert hub.asked == []
    names = [*sorted(path.name for path in (run / "student").iterdir()), "README.md"]
    assert [line.split()[-1] for line in done.stdout.splitlines()[:-1]] == names
    assert done.stdout.endswith(f"  to {hub.url}/me/digits; nothing was sent\n")
    sizes = json.loads(told.stdout)["files"]
    assert sizes["model.safetensors"] == (run / "student" / "model.safetensors").stat().st_size


def test_without_a_token_there_is_one_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with serving(FakeHub({}), monkeypatch) as hub:
        done = CliRunner().invoke(kd_vision, ["push", str(run), "me/digits"])
    assert (done.exit_code, hub.asked) == (2, [])
    assert done.stderr.startswith("the hub needs a token, and none is here\n    hint: `hf auth login`")
    with pytest.raises(KDError, match="a name on the hub is ORG/NAME"):
        push(run, "a b", dry_run=True)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("- train: 3 samples in /home/me/my_data/train; 1 more", "- train: 3 samples in train; 1 more"),
        ("By `kd-vision train ~/x/c.yaml --out C:\\\\runs\\\\a`", "By `kd-vision train c.yaml --out a`"),
        ("see https://example.org/a/b and {run: FOLDER}, a/b", "see https://example.org/a/b and {run: FOLDER}, a/b"),
        ("- warning: 1 sample is there twice: 'secret'", None),
    ],
)
def test_paths_and_samples_stay_at_home(line: str, told: str | None) -> None:
    assert for_others(f"# x\n{line}\nend\n") == "\n".join(["# x", *([] if told is None else [told]), "end", ""])


@pytest.mark.slow
def test_the_address_in_the_environment_is_the_hubs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FakeHub({}), monkeypatch) as hub:
        command = [sys.executable, "-m", "kd_vision", "push", str(run), "me/digits"]
        done = subprocess.run(
            command, env={**os.environ, "HF_ENDPOINT": hub.url}, capture_output=True, text=True, check=False
        )
    assert (done.returncode, done.stdout) == (0, f"{hub.url}/me/digits\n"), done.stderr
    assert len(hub.commits) == 1


SCENES = """
task: {task}
data: {{name: scenes, limit: 4}}
models:
  student: {student}
stages:
  train:
    steps: 1
    batch_size: 2
    {losses}
    optimizer: !call:torch.optim.SGD {{lr: 0.001}}
"""
STUDENTS = {
    "object-detection": (
        kd_vision,
        {
            "task": "object_detection",
            "student": "{arch: retinanet, backbone: cnn, width: 4, pyramid_channels: 8, levels: [2, 3], "
            "extra_levels: 0, anchor_sizes: [[20, 28], [36, 48]], head_norm: group, min_size: 40, max_size: 60}",
            "losses": "losses: {detector: {loss: identity, value: student.output/loss, mean_over: samples}}",
        },
    ),
    "image-segmentation": (
        kd_seg,
        {
            "task": "semantic_segmentation",
            "student": "{arch: unet, width: 4, depth: 2}",
            "losses": "losses: {ce: {loss: cross_entropy}}",
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("tag", STUDENTS)
def test_other_tasks_are_pushed_alike(tag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command, values = STUDENTS[tag]
    (tmp_path / "config.yaml").write_text(SCENES.format(**values))
    Experiment.load(tmp_path / "config.yaml").train(tmp_path / "run")
    with serving(FakeHub({}), monkeypatch) as hub:
        done = CliRunner().invoke(command, ["push", str(tmp_path / "run"), "me/scenes"])
    assert done.exit_code == 0, done.stderr
    facts = yaml.safe_load(hub.commits[0]["README.md"].decode().split("---\n")[1])
    assert facts["pipeline_tag"] == tag
    assert "model.safetensors" in hub.commits[0]
