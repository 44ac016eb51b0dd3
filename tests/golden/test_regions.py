"""CIRKD's memory and MGD's block equal their reference code (made by make_regions.py)."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from compare import WEIGHTS, goldens, gradients_near, near, tensor
from recipes import weigh
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.adapters import generation, projector
from kd_core.losses import PixelMemory, mgd


@pytest.mark.parametrize("golden", goldens("regions/generation"))
def test_mgd_of_its_block_equals_its_reference(golden: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: tensor(each) for name, each in golden["inputs"].items()}
    meta = {name: each.to("meta") for name, each in given.items()}
    channels, ratio = golden["values"]["over"] == "channels", golden["values"]["ratio"]  # in the authors' words
    mask: Literal["spatial", "channel"] = "channel" if channels else "spatial"
    block = generation([meta["student"]], meta["teacher"], None, ratio=ratio, mask=mask).double()
    weigh(block, WEIGHTS)
    drawn = tensor(golden["drawn"]).detach()
    kept = drawn >= ratio if channels else drawn <= 1 - ratio
    assert block.kept(given["student"] if block.align is None else given["teacher"], None).shape == kept.shape  # type: ignore[operator]
    monkeypatch.setattr(block, "kept", lambda features, index: kept)
    value = mgd(block(given["student"]), given["teacher"])
    assert value.item() == pytest.approx(golden["value"], rel=1e-9)
    value.backward()
    for name, gradient in golden["gradients"].items():
        near(given[name].grad, gradient)
    gradients_near(block.parameters(), golden["of_weights"])


def head(student: Tensor, teacher: Tensor) -> nn.Module:
    """CIRKD's projection head from two projectors."""
    meta = [each.detach().to("meta") for each in (student, teacher)]
    first = projector(meta[:1], meta[1], None, bias=False, norm=True, activation="relu")
    both = nn.Sequential(*first.children(), *projector(meta[1:], meta[1], None, bias=False).children()).double()
    weigh(both, WEIGHTS)
    return both


def told(golden: dict[str, Any], classes: int, update: int) -> Tensor:
    """(B, classes, update) the places that the reference was told, rows of fewer ending in zeros."""
    drawn = torch.zeros(len(golden["places"]), classes, update, dtype=torch.long)
    for image, places in enumerate(golden["places"]):
        for label, each in places.items():
            drawn[image, int(label), : len(each)] = torch.tensor(each[:update])
    return drawn


@pytest.mark.parametrize("block", [1, 2**21])
@pytest.mark.parametrize("golden", goldens("regions/cirkd_memory"))
def test_cirkd_memory_equals_its_reference(golden: dict[str, Any], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd_core.losses.crossimage.BLOCK", block)
    values, passes = golden["values"], golden["passes"]
    loss = PixelMemory(**values).double()
    memories = {name: F.normalize(tensor(each).detach(), dim=2) for name, each in golden["memories"].items()}
    loss.load_state_dict({**loss.state_dict(), **memories})
    project = head(*(tensor(passes[0]["inputs"][name]) for name in ("student", "teacher")))
    for each in passes:
        slots = {-1: torch.tensor(each["pixel_slots"]), -2: torch.tensor(each["region_slots"])}
        monkeypatch.setattr(loss, "slots", lambda key, size, slots=slots: slots[key])
        monkeypatch.setattr(loss, "drawn", lambda members, each=each: told(each, len(members[0]), values["update"]))
        given = {name: tensor(recipe) for name, recipe in each["inputs"].items()}
        value = loss(project(given["student"]), given["teacher"], given["target"])
        assert value.item() == pytest.approx(each["value"], rel=1e-9)
        value.backward()
        near(given["student"].grad, each["gradient"])
    gradients_near(project.parameters(), golden["of_weights"])
    for name, memory in golden["after"].items():
        near(loss.get_buffer(name), memory)
    for name, places in golden["next"].items():
        assert loss.get_buffer(name).tolist() == places
