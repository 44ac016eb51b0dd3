"""The tool that makes goldens again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import make
import pytest
import recipes
import torch
from deviations import row
from recipes import Case, Reference, goldens, pair, record

BY_OTHERS = {"coco_masks", "features", "zoo"}
REFERENCE = Reference("owner/name", "0" * 40, "loss.py", "loss", lambda code, given, values: code(given["student"]))


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "HERE", tmp_path)
    monkeypatch.setattr(torch, "set_default_dtype", lambda dtype: None)


def family(number: float = 1.0, **more: Any) -> dict[str, Any]:
    """A family of one loss, the student's sum times ``number``."""
    cases = {"mine": [Case("theirs", pair((2, 3), seed=1), {})]}
    return {"REFERENCES": {"theirs": REFERENCE}, "CASES": cases, "load": lambda *_: lambda x: number * x, **more}


def test_every_golden_has_a_script_that_makes_it_by_name() -> None:
    made = make.found()
    here = Path(__file__).parent
    files = {str(file.relative_to(here).with_suffix("")) for file in here.rglob("*.json")}
    assert files - BY_OTHERS == set(made)


def test_a_golden_is_made_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = goldens(family(GOLDENS={"methods/other": lambda repos: [{"value": 1.0}]}))
    assert recipes.make(found, tmp_path, "mine") == 0
    assert not (tmp_path / "methods").exists()
    (golden,) = json.loads((tmp_path / "losses" / "mine.json").read_text(encoding="utf-8"))
    assert golden["gradients"] == {"student": [1.0] * 6}
    assert recipes.make(found, tmp_path) == 0
    assert "losses/mine.json: 1 cases, as it was" in capsys.readouterr().out


def test_an_unknown_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no script here makes kdd; they make losses/mine"):
        recipes.make(goldens(family()), tmp_path, "kdd")


def test_a_golden_without_its_repository_is_named_and_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {**goldens(family(load=recipes.load)), "losses/other": lambda repos: [{"value": 1.0}]}
    assert recipes.make(found, tmp_path) == 0
    assert f"losses/mine.json: left as it is: {tmp_path} has no folder owner/name" in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "losses").iterdir()] == ["other.json"]
    assert recipes.make(found, tmp_path, "mine") == 1


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_not_finite_enters_no_golden(number: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the reference gives"):
        recipes.make(goldens(family(number)), tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        recipes.make({"losses/other": lambda repos: [{"value": number}]}, tmp_path)
    case = Case("theirs", pair((2, 3), seed=1), {})
    with pytest.raises(ValueError, match="the reference gives nan"):
        record(case, lambda x: (x - x).square().sqrt() + 1, REFERENCE)  # its gradient alone is NaN
    assert not list(tmp_path.rglob("*.json"))


def test_rounding_changes_no_file(tmp_path: Path) -> None:
    recipes.write(tmp_path / "one.json", [{"value": 0.1}])
    recipes.write(tmp_path / "one.json", [{"value": 0.1 + 1e-15}])
    assert json.loads((tmp_path / "one.json").read_text(encoding="utf-8")) == [{"value": 0.1}]
    recipes.write(tmp_path / "one.json", [{"value": 0.2}])
    assert json.loads((tmp_path / "one.json").read_text(encoding="utf-8")) == [{"value": 0.2}]


def test_the_row_of_parity() -> None:
    line = row("hint")
    assert line.startswith("| `hint` | adri-romsor/FitNets `costs/HintCost.py` | 0 | ")
    assert float(line.split("|")[4]) < 1e-11
