"""The configs of segmentation's methods on real images: small crops, few steps, weights that begin at random."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from kd_core.experiment import Experiment, resume

from .conftest import student_bytes
from .test_resume import records, train_until

CONFIGS = Path(__file__).parents[2] / "configs" / "seg"
VOC, COCO = "voc2012_subset", "coco2017_subset"
KTAAD = "coco2017_ktaad_lraspp_deeplabv3_resnet50"
SMALL = [
    *("data.size=48", "data.crop=48", "data.eval_size=48", "data.workers=0", "data.limit={train: 6, val: 2}"),
    "models.student.weights_backbone=null",
    "models.teacher={arch: deeplabv3, backbone: resnet18, weights: null}",
    "log_every=1",
]
OF = {
    VOC: ["data.sbd=false", "stages.distill.batch_size=2", "stages.distill.steps=3"],
    COCO: [*(f"stages.{name}.batch_size=2" for name in ("translation", "adaptation")), "stages.adaptation.epochs=1"],
}
MEMORY = ["stages.distill.losses.memory.pixel_memory=64", "stages.distill.losses.memory.region_memory=8"]
OFTEN = {"voc2012_cirkd_resnet18_resnet101", KTAAD}
"""Those that the default suite trains: one with a memory, one of two stages."""
NAMES = [
    name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow)
    for name in (*(path.stem for path in sorted(CONFIGS.glob("voc2012_*_resnet18_resnet101.yaml"))), KTAAD)
]


def overrides(name: str, real_data: Path) -> list[str]:
    folder = COCO if name == KTAAD else VOC
    return [f"data.root={real_data / folder}", *SMALL, *OF[folder], *(MEMORY if "cirkd" in name else [])]


@pytest.mark.realdata
@pytest.mark.parametrize("name", NAMES)
def test_it_trains(name: str, real_data: Path, tmp_path: Path) -> None:
    given = overrides(name, real_data)
    done = Experiment.load(CONFIGS / f"{name}.yaml", overrides=given).train(tmp_path / "run")
    assert 0 <= done.metrics["miou"] <= 100
    seen = [record["train"] for record in records(tmp_path / "run") if "train" in record]
    assert len(seen) == (2 if name == KTAAD else 1)
    for losses in seen:
        assert all(math.isfinite(value) and value > 0 for value in losses.values()), losses


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "kill_at"), [pytest.param("voc2012_cirkd_resnet18_resnet101", 2, marks=pytest.mark.slow), (KTAAD, 5)]
)
def test_a_killed_run_ends_the_same(
    name: str, kill_at: int, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, given = CONFIGS / f"{name}.yaml", [*overrides(name, real_data), "checkpoint.every_steps=1"]
    whole = Experiment.load(path, overrides=given).train(tmp_path / "whole")
    train_until(kill_at, path, tmp_path / "killed", given, monkeypatch)
    assert student_bytes(resume(tmp_path / "killed").run) == student_bytes(whole.run)
