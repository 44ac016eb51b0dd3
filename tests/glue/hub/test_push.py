"""A run's student, uploaded to a server on loopback that stands for the hub."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification

from kd_core.deploy.push import push
from kd_core.errors import KDError
from kd_core.runs.run_folder import RunFolder
from kd_glue.hub.models import TransformersHub

from .hub_server import FakeHub, serving
from .tiny_models import logits, save, save_tokenizer

CONFIG = """\
task: glue
data: {name: mrpc, root: data}
models:
  student: {hub: bert-base-uncased}
  teacher: {hub: bert-large-uncased}
"""
RESULT = {"metrics": {"accuracy": 0.875, "f1": 0.9, "loss": 1.5, "score": 0.8875}, "best": None}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run as far as it is looked at."""
    return finished(tmp_path, CONFIG)


def finished(folder: Path, config: str) -> RunFolder:
    model = save(folder / "model", labels=("not_equivalent", "equivalent"))
    save_tokenizer(folder / "model")
    with RunFolder.create("paraphrases", 0, folder / "run") as made:
        made.write_config(config)
        made.write_manifest("kd-glue train x.yaml")
        made.export_student(model.state_dict(), "hub: .\n", lambda at: TransformersHub().save(model, at))
        made.finish({**RESULT, "split": "validation", "samples": 408}, "text-classification")
    return made


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_not_a_real_one")


def front(text: bytes) -> dict[str, Any]:
    """The card's front matter."""
    found: dict[str, Any] = yaml.safe_load(text.decode().split("---\n")[1])
    return found


def test_a_student_is_uploaded_with_its_card(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FakeHub({}), monkeypatch) as hub:
        assert push(run.path, "me/tiny-mrpc", private=True).address == f"{hub.url}/me/tiny-mrpc"
    [made] = hub.created
    assert (made["name"], made["organization"], made["visibility"]) == ("tiny-mrpc", "me", "private")
    [files] = hub.commits
    assert set(files) == {path.name for path in run.student.iterdir()} | {"README.md"}
    for name, content in files.items():
        (tmp_path / "got").mkdir(exist_ok=True)
        (tmp_path / "got" / name).write_bytes(content)
    ours = AutoModelForSequenceClassification.from_pretrained(tmp_path / "got")
    assert torch.equal(logits(ours), logits(AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")))
    text = files["README.md"].decode()
    assert "| accuracy | 0.875 |" in text
    for wanted in ('kd_core.load("FOLDER")', 'pipeline("text-classification", "me/tiny-mrpc")', "{hub: me/tiny-mrpc}"):
        assert wanted in text
    assert "student/" not in text


def test_the_card_tells_the_hub_what_it_is(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FakeHub({}), monkeypatch) as hub:
        push(run.path, "me/tiny-mrpc")
    facts = front(hub.commits[0]["README.md"])
    assert (facts["library_name"], facts["pipeline_tag"]) == ("transformers", "text-classification")
    assert facts["base_model"] == "bert-base-uncased"
    assert facts["datasets"] == ["nyu-mll/glue"]
    assert facts["model-index"][0]["name"] == "me/tiny-mrpc"
    [index] = facts["model-index"]
    [result] = index["results"]
    assert result["dataset"] == {"name": "GLUE", "type": "nyu-mll/glue", "config": "mrpc", "split": "validation"}
    assert [(each["type"], each["value"]) for each in result["metrics"]] == [("accuracy", 0.875), ("f1", 0.9)]


def test_ones_own_data_and_random_weights_are_no_facts_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = "{student: {hub: bert-base-uncased, weights: null}}"
    config = f"task: glue\ndata: {{files: {{train: x.tsv}}, text: a}}\nmodels: {models}\n"
    with serving(FakeHub({}), monkeypatch) as hub:
        push(finished(tmp_path, config).path, "me/mine")
    facts = front(hub.commits[0]["README.md"])
    assert (facts["library_name"], facts["pipeline_tag"]) == ("transformers", "text-classification")
    assert not facts.keys() & {"base_model", "datasets", "language"}
    [result] = facts["model-index"][0]["results"]
    assert result["dataset"]["name"] == "own data"


def test_a_student_that_transformers_cannot_load_is_loaded_by_kd_core(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.student / "config.json").unlink()
    with serving(FakeHub({}), monkeypatch) as hub:
        push(run.path, "me/x")
    text = hub.commits[0]["README.md"]
    assert front(text)["library_name"] == "kd-core"
    assert b'kd_core.load(snapshot_download("me/x"))' in text
    assert b"pipeline(" not in text


def test_a_run_without_a_student(tmp_path: Path, run: RunFolder) -> None:
    (run.student / "model.safetensors").unlink()
    with pytest.raises(KDError, match="no finished student"):
        push(run.path, "me/x")
    with pytest.raises(KDError, match="nowhere"):
        push(tmp_path / "nowhere", "me/x")


def test_without_a_token(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with serving(FakeHub({}), monkeypatch) as hub, pytest.raises(KDError, match=r"hint: `hf auth login`.*HF_TOKEN"):
        push(run.path, "me/x")
    assert hub.asked == []


@pytest.mark.parametrize("status", [401, 403, 500])
def test_the_hub_refuses(run: RunFolder, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    with serving(FakeHub({}, refuses=status), monkeypatch), pytest.raises(KDError, match=f"upload me/x: .*{status}"):
        push(run.path, "me/x")


def test_without_network(run: RunFolder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def refused(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    with pytest.raises(KDError, match=r"cannot upload me/x: .*Name or service not known"):
        push(run.path, "me/x")
    assert "Retrying" not in capfd.readouterr().err


def test_a_name_that_is_none(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(FakeHub({}), monkeypatch), pytest.raises(KDError, match="cannot upload a b"):
        push(run.path, "a b")
    assert json.loads((run.path / "manifest.json").read_text())["command"] == "kd-glue train x.yaml"
