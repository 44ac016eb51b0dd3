"""The first losses of a file of torchdistill, and those of the config that it becomes: they are equal.

boxes/NAME.json holds those of torchdistill 1.1.5, which make_boxes.py ran on the files of families.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from families import APART, FAMILIES, fill, prepare, text

import kd_core.train.loop as loop
from kd_core.experiment import Experiment
from kd_core.migrate import Options, convert, text_of
from kd_core.train.stage import Stage

BOXES = Path(__file__).parent / "boxes"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images and the weights of all families."""
    folder = tmp_path_factory.mktemp("torchdistill")
    prepare(folder)
    return folder


@pytest.fixture
def filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stage adds to the models begins as in torchdistill's box."""
    begun: set[int] = set()

    class Filled(Stage):
        def __init__(self, components: Any, *args: Any, **options: Any) -> None:
            super().__init__(components, *args, **options)
            for added in (components.adapters, self.objective):
                for name, parameter in added.named_parameters():
                    if id(parameter) not in begun:
                        fill(name, parameter)
                        begun.add(id(parameter))

    monkeypatch.setattr(loop, "Stage", Filled)


@pytest.mark.slow
@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize("name", FAMILIES)
def test_the_first_losses_are_those_of_torchdistill(name: str, root: Path, tmp_path: Path) -> None:
    source = tmp_path / "theirs.yaml"
    source.write_text(text(name, root), encoding="utf-8")
    config = tmp_path / "ours.yaml"
    config.write_text(text_of(convert(str(source), Options(faithful=True)), config.name), encoding="utf-8")
    values = ["data.size=64", "data.eval_crop=1", "data.augment=none", "data.workers=0", "runtime.device=cpu"]
    Experiment.load(config, overrides=values).train(tmp_path / "run")
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    losses = [line["train"]["loss"] for line in lines if "train" in line]
    (golden,) = json.loads((BOXES / f"{name}.json").read_text(encoding="utf-8"))
    theirs = [loss - APART.get(name, 0.0) for loss in golden["losses"]]
    assert losses[:3] == pytest.approx(theirs[:3], rel=1e-3)
    assert losses == pytest.approx(theirs, rel=2e-2)  # what rounding has grown to, through batch norm of eight images


def test_every_family_has_its_golden() -> None:
    assert {file.stem for file in BOXES.glob("*.json")} == set(FAMILIES)
