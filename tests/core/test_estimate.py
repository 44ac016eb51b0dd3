"""``plan`` measures a few steps of each stage, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from kd_core.cli.plan import plan as command
from kd_core.cli.plan import seconds_text
from kd_core.config.runtime import RuntimeSpec
from kd_core.estimate import Estimate, StageEstimate, estimate
from kd_core.experiment import Experiment

CONFIG = """
task: image_classification
data: {name: digits, limit: 120, augment: none}
models:
  student: {arch: cnn, width: 4, depth: 1}
  teacher: {arch: cnn, width: 8, depth: 1, weights: null, cache: true}
stages:
  first:
    steps: 2
    batch_size: 16
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
  distill:
    epochs: 4
    validate: {every_epochs: 3}
    losses: {ce: {loss: cross_entropy}, kd: {loss: kd, temperature: 4.0}}
    scheduler: {call: !call:torch.optim.lr_scheduler.OneCycleLR {max_lr: 0.1, total_steps: !run steps}, interval: step}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def test_every_stage_is_measured_and_nothing_is_left(config: Path) -> None:
    found, fast = estimate(config, seconds=0, faster=False)
    assert fast is None
    first, distill = found.stages
    assert (first.name, first.steps, first.measured) == ("first", 2, 1)
    assert (distill.steps_per_epoch, distill.steps, distill.measured) == (7, 28, 5)
    assert (first.scorings, distill.scorings) == (1, 2)  # every third epoch, and after the last
    assert 0 <= distill.wait < distill.step
    assert distill.seconds > 28 * distill.step
    assert found.seconds > first.seconds + distill.seconds
    [cached] = found.cached
    assert (cached.model, cached.bytes) == ("teacher", 108 * 10 * 4)
    assert 0 < cached.saves < distill.step
    assert [path.name for path in config.parent.iterdir()] == ["config.yaml"]


def test_pooled_maps_are_measured_pooled(config: Path) -> None:
    hint = "stages.distill.losses.hint={loss: mse, student: adapters.cells, teacher: teacher.layers.0}"
    cells = "adapters.cells={module: pool, inputs: [student.layers.0], match: teacher.layers.0}"
    overrides = [hint, cells, "models.student.width=8", "models.teacher.cache={pool: 2, dtype: bfloat16}"]
    [cached] = estimate(config, overrides=overrides, seconds=0, faster=False)[0].cached
    assert cached.bytes == 108 * (10 + 8 * 2 * 2) * 2


def test_the_disk_is_what_a_run_takes(config: Path) -> None:
    found, _ = estimate(config, overrides=["checkpoint.keep_finished=2"], seconds=0, faster=False)
    run = Experiment.load(config, overrides=["checkpoint.keep_finished=2"]).train(config.parent / "run").run
    assert run is not None
    checkpoints = [path.stat().st_size for path in (run / "checkpoints").iterdir()]
    assert found.checkpoint == pytest.approx(max(checkpoints), rel=0.2)
    assert found.finished_bytes == pytest.approx(sum(checkpoints) + 5000, rel=0.3)


def test_fast_is_measured_where_it_chooses_something_else(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = RuntimeSpec(channels_last=True)
    monkeypatch.setattr("kd_core.estimate.fast", lambda models, steps, fixed_shapes: spec)
    _, fast = estimate(config, seconds=0)
    assert fast is not None
    assert fast.runtime == spec
    assert estimate(config, overrides=["runtime={channels_last: true}"], seconds=0)[1] is None


def test_the_command_prints_tables_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = StageEstimate("distill", 10, 1000, 0.02, 0.005, 3 * 10**9, 50, 4.0, 100)
    usual = Estimate(RuntimeSpec(), "cuda:0", [stage], 256 * 10**6, 87 * 10**6, 3, 0, 0.5, 9.0)
    fast = Estimate(
        RuntimeSpec(precision="bf16"), "cuda:0", [StageEstimate("distill", 10, 1000, 0.01, 0, 1, 50)], 1, 1, 3, 0, 0
    )
    monkeypatch.setattr("kd_core.estimate.estimate", lambda config, **options: (usual, fast))
    done = CliRunner().invoke(command, ["x.yaml"])
    assert done.exit_code == 0, done.output
    assert "distill  20 ms  25 %   1,000  200 ms  100 x 4 s  7 min   3 GB" in done.stdout
    assert "time   7.98 min, of which 9 s for the last scoring" in done.stdout
    assert "disk   1.11 GB while it trains (4 checkpoints of 256 MB), 87 MB at the end" in done.stdout
    assert 'fast   10 s with {precision: "bf16"}\n       distill: 10 ms a step, 2 x as fast' in done.stdout
    told = json.loads(CliRunner().invoke(command, ["x.yaml", "--json"]).stdout)
    assert told["seconds"] == pytest.approx(479.0)
    assert told["fast"]["runtime"]["precision"] == "bf16"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "12.3 ms"), (4.56, "4.56 s"), (119, "119 s"), (1200, "20 min"), (36000, "10 h")]
)
def test_times_have_the_unit_that_fits(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text
