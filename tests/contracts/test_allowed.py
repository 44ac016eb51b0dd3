"""The table of what a config may call is current, and allows what users expect."""

from __future__ import annotations

import inspect
import runpy
from pathlib import Path

import torch
import torchvision
from torch import nn

from kd_core.config import Builder, Policy, loads
from kd_core.config.calls import allowed

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "make_allowed.py"))


def test_the_table_is_current() -> None:
    """With the versions it was made with, exactly; with others, whatever it names that is there is of a known kind."""
    written = SCRIPT["TABLE"].read_text(encoding="utf-8")
    generated = SCRIPT["generated"]()
    if written.partition("\n")[0] == generated.partition("\n")[0]:
        assert written == generated, "python scripts/make_allowed.py writes the table; review what it changes"
    assert len(allowed.TABLE & set(generated.splitlines())) > 0.8 * len(allowed.TABLE)


def refused(names: list[str]) -> list[str]:
    """Those of the names that a config may not call."""
    calls = loads("a: [" + ", ".join(f"!get:{name} " for name in names) + "]").data["a"]
    builder = Builder(Policy())
    return [name for name, call in zip(names, calls, strict=True) if builder.check(call)]


def public(module: object, kind: type) -> list[str]:
    """The public classes of a module that derive from ``kind``."""
    return [
        f"{module.__name__}.{name}"  # type: ignore[attr-defined]
        for name, value in vars(module).items()
        if not name.startswith("_") and isinstance(value, type) and issubclass(value, kind)
    ]


def test_what_users_expect_is_allowed() -> None:
    assert refused(public(nn, nn.Module)) == []
    assert refused(public(torch.optim, torch.optim.Optimizer)) == []
    assert refused(public(torch.optim.lr_scheduler, torch.optim.lr_scheduler.LRScheduler)) == []
    assert refused(public(torchvision.transforms.v2, nn.Module)) == []
    assert refused([f"torchvision.models.{name}" for name in torchvision.models.list_models(torchvision.models)]) == []
    losses = [name for name, value in vars(nn.functional).items() if inspect.isfunction(value) and "loss" in name]
    assert len(losses) > 15
    assert refused([f"torch.nn.functional.{name}" for name in losses if not name.startswith("_")]) == []


def test_nothing_in_the_table_is_private_or_guarded() -> None:
    for name in allowed.TABLE:
        assert not any(part.startswith("_") for part in name.replace(":", ".").split("."))
        assert allowed.guard_of(name) is None
        assert not allowed.under(name, allowed.NEVER)
