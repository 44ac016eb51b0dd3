"""Weight files as training scripts leave them: read whatever wraps the names, and refused where anything is missing."""

from __future__ import annotations

import argparse
import datetime
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kd_core.errors import KDError
from kd_core.models.weights import load_state, read_state, rename_modules


def model() -> nn.Module:
    """Two layers, one of them in a module of its own."""
    return nn.Sequential(OrderedDict(stem=nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), fc=nn.Linear(3, 2)))


STATE = model().state_dict()


def renamed(*pairs: tuple[str, str]) -> dict[str, Tensor]:
    """The weights, each beginning replaced by another one."""
    return {
        next((new + key[len(old) :] for old, new in pairs if key.startswith(old)), key): value
        for key, value in STATE.items()
    }


FILES: dict[str, Any] = {
    "plain": STATE,
    "module": renamed(("", "module.")),
    "compiled": renamed(("", "_orig_mod.")),
    "both": renamed(("", "module._orig_mod.")),
    "lightning": {"state_dict": renamed(("", "model.")), "epoch": 3, "pytorch-lightning_version": "2"},
    "backbone": renamed(("", "backbone.")),
    "nested": {"model": {"state_dict": renamed(("", "model.backbone.module."))}},
    "mixed": renamed(("stem.", "backbone.stem.module."), ("fc.", "_orig_mod.fc.")),
    "inner": renamed(("stem.0.", "stem._orig_mod.0.")),
    "averaged": {"n_averaged": torch.tensor(5), **renamed(("", "module."))},
    "scalars": {**STATE, "epoch": 3, "lr": 0.1, "name": "x", "best": np.float64(93.1), "none": None, "list": [1]},
    "others": {
        "state_dict": STATE,
        "arguments": argparse.Namespace(out=Path("x"), begun=datetime.datetime(2026, 1, 1)),
        "history": np.zeros(3),
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}},
    },
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", FILES)
def test_whatever_wraps_the_names_is_read(tmp_path: Path, kind: str, legacy: bool) -> None:
    torch.save(FILES[kind], tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    other = model()
    load_state(other, read_state(tmp_path / "w.pt"), "w.pt")
    assert all(torch.equal(value, STATE[key]) for key, value in other.state_dict().items())


def test_a_model_whose_own_names_begin_so_keeps_them() -> None:
    own = nn.ModuleDict({"model": nn.Linear(2, 2), "backbone": nn.Linear(2, 2)})
    for state in (own.state_dict(), {f"module.{key}": value for key, value in own.state_dict().items()}):
        load_state(own, state, "w.pt")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({**STATE, "aux.weight": torch.zeros(3)}, "aux.weight is not in the model"),
        ({**STATE, "module.fc.weight": STATE["fc.weight"]}, r"module\.fc\.weight is not in the model"),
        ({key: value for key, value in STATE.items() if key != "fc.bias"}, "fc.bias is missing"),
        ({**STATE, "teacher.fc.weight": STATE["fc.weight"]}, r"teacher\.fc\.weight is not in the model"),
        (
            {**renamed(("", "model.")), "model.head.weight": torch.zeros(3)},
            r"does not fit Sequential: head\.weight is not in the model",
        ),
    ],
)
def test_what_does_not_fit_is_named(state: dict[str, Tensor], message: str) -> None:
    with pytest.raises(KDError, match=message):
        load_state(model(), state, "w.pt")


def test_a_head_of_other_classes_is_left_out_of_wrapped_names() -> None:
    state = {**renamed(("", "model.")), "model.fc.weight": torch.zeros(7, 3), "model.fc.bias": torch.zeros(7)}
    other = model()
    load_state(other, state, "w.pt", new_head=True)
    assert torch.equal(other.state_dict()["stem.0.weight"], STATE["stem.0.weight"])


def test_the_modules_that_begin_anew_are_told() -> None:
    heads = nn.ModuleDict({"scores": nn.Linear(3, 5), "points": nn.ConvTranspose2d(3, 4, 2), "stem": nn.Linear(2, 3)})
    state = heads.state_dict()
    other = nn.ModuleDict({"scores": nn.Linear(3, 2), "points": nn.ConvTranspose2d(3, 7, 2), "stem": nn.Linear(2, 3)})
    assert load_state(other, state, "w.pt", new_head=True) == ["scores", "points"]
    assert torch.equal(other.stem.weight, state["stem.weight"])
    assert load_state(heads, state, "w.pt", new_head=True) == []
    wider = nn.ModuleDict({"scores": nn.Linear(3, 2), "points": nn.ConvTranspose2d(4, 4, 2), "stem": nn.Linear(2, 3)})
    with pytest.raises(KDError, match="does not fit"):
        load_state(wider, state, "w.pt", new_head=True)


def test_modules_may_have_the_names_of_older_weights() -> None:
    own: Any = nn.Sequential(nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2))
    state = {key.replace("0.0.", "old."): value + 1 for key, value in own.state_dict().items()}
    with pytest.raises(KDError, match=r"old\.weight is not in the model"):
        load_state(own, state, "w.pt")
    own.renamed_weights = {"old": "0.0"}
    load_state(own, {f"module.{key}": value for key, value in state.items()}, "w.pt")
    assert torch.equal(own[0][0].weight, state["old.weight"])
    load_state(own, own.state_dict(), "w.pt")


class Harmful:
    """What runs a command where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/harm",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": STATE, "extra": Harmful()}, r"it holds (posix|nt|os)\.system, not only tensors and plain values"),
        ({"epoch": 3, "best": np.float64(1.0)}, "does not hold a state dict"),
        ({"state_dict": {}}, "does not hold a state dict"),
        ([STATE], "does not hold a state dict"),
        (np.zeros(3), "does not hold a state dict"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(KDError, match=message):
        read_state(tmp_path / "w.pt")


def test_modules_are_renamed_below_any_wrapper() -> None:
    state = dict.fromkeys(("module.linear.weight", "module.nonlinear.weight", "linear.bias"), torch.zeros(1))
    assert list(rename_modules(state, {"linear": "fc"})) == ["module.fc.weight", "module.nonlinear.weight", "fc.bias"]
    assert list(rename_modules(state, {})) == list(state)
