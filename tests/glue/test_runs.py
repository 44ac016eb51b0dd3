"""Whole runs of ``kd-glue`` on the example that needs no download: distilled, killed, resumed, loaded elsewhere."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from kd_core.experiment import Experiment
from kd_core.train import output_store
from kd_glue.cli import main

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "glue"
HIDDEN = "{loss: hidden_mse, student: student.bert.encoder.layer.0, teacher: teacher.bert.pooler}"
SHORT = ("--set", "stages.distill.epochs=2", "--set", "data.limit=200")
ALONE = ("--set", "stages.train.epochs=1", "--set", "data.limit=200", "--set", "runtime=fast")


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))
    torch.set_num_threads(1)


def kd_glue(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the example's teacher, which learns the task."""
    folder = tmp_path_factory.mktemp("runs") / "teacher"
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        done = kd_glue("train", CONFIGS / "example_teacher.yaml", "--out", folder)
    finally:
        os.chdir(before)
    assert done.exit_code == 0, done.stderr
    return folder


def test_the_teacher_learns_and_is_scored_again(teacher: Path) -> None:
    result = json.loads((teacher / "result.json").read_text())
    assert result["split"] == "validation"
    assert result["samples"] == 400
    assert result["metrics"]["accuracy"] > 0.95
    assert result["metrics"] == pytest.approx(result["best"]["metrics"])
    done = kd_glue("eval", teacher, "--json")
    assert json.loads(done.stdout)["metrics"] == pytest.approx(result["metrics"])


def test_the_student_is_a_folder_of_transformers(teacher: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    folder = teacher / "student"
    model, told = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values())
    assert model.config.id2label == {0: "negative", 1: "positive"}
    classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
    assert classify("the plot is not good")[0]["label"] == "negative"
    assert classify("the plot is not bad")[0]["label"] == "positive"


def test_distilled_from_another_run(teacher: Path, tmp_path: Path) -> None:
    run = tmp_path / "kd"
    done = kd_glue(
        "train", CONFIGS / "example_kd.yaml", "--out", run, "--set", f"models.teacher={{run: {teacher}}}", *SHORT
    )
    assert done.exit_code == 0, done.stderr
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train"] for row in rows if "train" in row]
    assert set(losses[0]) == {"loss", "ce", "kd"}
    assert losses[0]["kd"] > 0
    again = tmp_path / "again"
    done = kd_glue("train", run / "config.yaml", "--out", again)
    assert done.exit_code == 0, done.stderr
    assert (again / "student" / "model.safetensors").read_bytes() == (run / "student/model.safetensors").read_bytes()


def test_a_teacher_may_be_run_once(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    losses = []
    for cache in ("false", "true"):
        run, model = tmp_path / cache, f"models.teacher={{run: {teacher}, cache: {cache}}}"
        done = kd_glue("train", CONFIGS / "example_kd.yaml", "--out", run, "--set", model, *SHORT)
        assert done.exit_code == 0, done.stderr
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses.append([row["train"]["kd"] for row in rows if "train" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    (kept,) = output_store.kept(verify=True)
    assert (kept.facts["wire"], kept.records, kept.damaged) == ("teacher.output/logits", 200, 0)


def test_a_student_begins_as_some_layers_of_its_teacher(teacher: Path, tmp_path: Path) -> None:
    weights = load_file(teacher / "student" / "model.safetensors")
    path = tmp_path / "layers.yaml"
    text = (CONFIGS / "example_kd.yaml").read_text()
    path.write_text(
        text.replace("extends: _example.yaml", f"extends: {CONFIGS / '_example.yaml'}").replace(
            "models:\n", "models:\n  student: {hub: null, weights: auto, init_from: teacher, layers: [1]}\n"
        )
    )
    frozen = ("--set", "stages.distill.optimizer=!call:torch.optim.SGD {lr: 0.0}")
    run = tmp_path / "run"
    done = kd_glue("train", path, "--out", run, "--set", f"models.teacher={{run: {teacher}}}", *SHORT, *frozen)
    assert done.exit_code == 0, done.stderr
    student = load_file(run / "student" / "model.safetensors")
    assert not any(".layer.1." in name for name in student)
    for name, value in student.items():
        assert torch.equal(value, weights[name.replace(".layer.0.", ".layer.1.")]), name
    assert kd_glue("eval", run).exit_code == 0


def launch(*arguments: str | Path, processes: int = 1) -> subprocess.Popen[str]:
    """``python -m kd_glue``, by torchrun for several processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    several = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={port}"]
    command = [sys.executable, *(several if processes > 1 else ()), "-m", "kd_glue", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_killed_run_ends_in_the_same_bytes(teacher: Path, tmp_path: Path) -> None:
    given = ("train", CONFIGS / "example_kd.yaml", "--set", f"models.teacher={{run: {teacher}}}", *SHORT)
    options = ("--set", "checkpoint.every_steps=2", "--set", "stages.distill.ema=0.9")
    whole, run = tmp_path / "whole", tmp_path / "killed"
    killed = launch(*given, *options, "--out", run)
    deadline = time.monotonic() + 120
    while not list((run / "checkpoints").glob("step-0000000[2-9]*")):
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    undisturbed = kd_glue(*given, *options, "--out", whole)
    assert undisturbed.exit_code == 0, undisturbed.stderr
    resumed = launch("resume", run)
    _, errors = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, errors
    assert "resuming from" in errors
    assert (run / "student/model.safetensors").read_bytes() == (whole / "student/model.safetensors").read_bytes()
    assert (run / "metrics.jsonl").read_text().count("\n") == (whole / "metrics.jsonl").read_text().count("\n")


@pytest.mark.slow
def test_two_processes_train_what_one_does(teacher: Path, tmp_path: Path) -> None:
    still = ("--set", "models.student.dropout=0.0", "--set", "data.max_length=16")
    given = ("train", CONFIGS / "example_kd.yaml", "--set", f"models.teacher={{run: {teacher}}}", *SHORT, *still)
    both = launch(*given, "--out", tmp_path / "two", "--json", processes=2)
    alone = kd_glue(*given, "--out", tmp_path / "one", "--json")
    out, errors = both.communicate(timeout=240)
    assert both.returncode == 0, errors
    [answer] = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert answer["metrics"] == pytest.approx(json.loads(alone.stdout)["metrics"], rel=1e-4)
    one, two = (load_file(tmp_path / each / "student" / "model.safetensors") for each in ("one", "two"))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.files.train=configs/glue/none.tsv", "none.tsv"),
        ("data.name=sst3", "sst3"),
        ("models.student={hub: configs/glue/nothing/here}", "configs/glue/nothing/here"),
        ("models.student={hub: configs/glue/example}", "config.json"),
        ("models.student.layers=[7]", "layers"),
        ("models.student.hiden_size=4", "did you mean 'hidden_size'?"),
        ("models.teacher={hub: configs/glue/example/tiny}", "tiny"),
        (
            "stages.distill.losses.ce.student=student.output",
            "choose one of: student.output/logits",
        ),
        (
            f"stages.distill.losses.h={HIDDEN}",
            "hidden_mse",
        ),
    ],
)
def test_a_mistake_is_one_error(teacher: Path, tmp_path: Path, override: str, said: str) -> None:
    options = ("--set", f"models.teacher={{run: {teacher}}}", "--set", override)
    if override.startswith("models.teacher="):
        options = ("--set", override)
    done = kd_glue("train", CONFIGS / "example_kd.yaml", "--out", tmp_path / "run", *options)
    assert done.exit_code == 2, done.output
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_stage_looks_at_is_not_compiled_and_precision_is_told(teacher: Path, tmp_path: Path) -> None:
    fast = Experiment.load(
        CONFIGS / "example_kd.yaml", overrides=["runtime=fast", f"models.teacher={{run: {teacher}}}"]
    )
    assert fast.plan.fast
    done = kd_glue("train", CONFIGS / "example_alone.yaml", "--out", tmp_path / "run", *ALONE)
    assert done.exit_code == 0, done.stderr
    assert "compile []" in done.stderr


@pytest.mark.slow
def test_a_run_works_from_any_folder(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = kd_glue(
        "train", CONFIGS / "example_alone.yaml", "--out", "run", *ALONE, "--set", "checkpoint.keep_finished=1"
    )
    assert done.exit_code == 0, done.stderr
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for verb in ("resume", "eval", "predict"):
        done = kd_glue(verb, "../run", *(("--split", "val") if verb == "predict" else ()))
        assert done.exit_code == 0, done.stderr
    assert kd_glue("eval", teacher).exit_code == 0
