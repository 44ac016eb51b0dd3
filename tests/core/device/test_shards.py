"""What stands in a checkpoint for tensors that are spread over processes, and what is made of a stranger's files."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from kd_core.device import shards
from kd_core.errors import KDError
from kd_core.runs.checkpoint import CheckpointStore


def test_a_state_is_taken_apart_and_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "is_sharded", lambda value, *_: isinstance(value, torch.Tensor) and value.ndim == 2)
    state = {"models": {"student": {"w": torch.ones(2, 2), "b": torch.zeros(2)}}, "groups": [(torch.eye(2), 1)]}
    tensors: dict[str, torch.Tensor] = {}
    rest = shards.taken(state, tensors)
    assert list(tensors) == shards.marks(rest) == ["/models/student/w", "/groups/0/0"]
    assert rest["models"]["student"]["w"] == {shards.MARK: "/models/student/w"}
    whole = shards.put(rest, tensors)
    assert whole["groups"][0][0] is state["groups"][0][0]  # type: ignore[index]
    assert whole["models"]["student"]["b"] is state["models"]["student"]["b"]  # type: ignore[index, call-overload]


class Bad:
    def __reduce__(self) -> Any:
        return print, ("code",)


def test_a_description_that_is_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Bad()))
    with pytest.raises(KDError, match=r"names builtins\.print, which is none of its types"):
        shards.read(tmp_path, [], lambda place: torch.zeros(1))
    assert not capsys.readouterr().out
    for name in ("torch.load", "torch.distributed.checkpoint.metadata.os", "os.system"):
        module, _, attribute = name.rpartition(".")
        with pytest.raises((KDError, AttributeError)):
            shards._Unpickler(io.BytesIO()).find_class(module, attribute)


def sharded(store: CheckpointStore, step: int) -> Path:
    """A checkpoint with shards, as two processes would write it."""
    folder = store.shards_folder(step)
    (folder / "__0_0.distcp").write_bytes(b"some")
    (folder / "__1_0.distcp").write_bytes(b"rest")
    store.save({"step": step, "shards": {"folder": folder.name, "files": shards.digests(folder)}}, step)
    return folder


def test_shards_live_as_long_as_their_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    folders = [sharded(store, step) for step in (1, 2, 3)]
    assert [folder.exists() for folder in folders] == [False, True, True]
    again = sharded(store, 3)
    assert [path.exists() for path in (*folders, again)] == [False, True, False, True]
    store.forget(0)
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["gone", "changed", "no folder"])
def test_a_checkpoint_whose_shards_are_damaged_is_passed_over(tmp_path: Path, damage: str) -> None:
    store, lines = CheckpointStore(tmp_path, keep=2), list[str]()
    sharded(store, 1)
    folder = sharded(store, 2)
    if damage == "no folder":
        folder.rename(tmp_path / "elsewhere")
    elif damage == "gone":
        (folder / "__1_0.distcp").unlink()
    else:
        (folder / "__1_0.distcp").write_bytes(b"rust")
    found = store.latest(lines.append)
    assert found is not None
    assert found[0]["step"] == 1
    assert len(lines) == 1
    assert folder.name in lines[0]
