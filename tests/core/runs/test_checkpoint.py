"""A checkpoint is whole, or recognised and passed over; random generators go on where they were."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd_core.errors import KDError
from kd_core.runs.checkpoint import CheckpointStore, rng_state, set_rng_state


def state(step: int) -> dict[str, Any]:
    return {"weight": torch.full((64, 8), float(step)), "step": step, "best": None, "history": [(1, 0.5)]}


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints")


def names(store: CheckpointStore) -> list[str]:
    return sorted(each.name[:13] for each in store.folder.iterdir())


def newest(store: CheckpointStore) -> tuple[int | None, list[str]]:
    lines: list[str] = []
    found = store.latest(lines.append)
    return (found[0]["step"] if found else None), lines


def test_what_is_saved_is_what_is_loaded(store: CheckpointStore) -> None:
    path = store.save(state(123), 123)
    loaded, where = store.latest(pytest.fail) or ({}, None)
    assert where == path
    assert path.name.startswith("step-00000123-")
    assert torch.equal(loaded.pop("weight"), state(123)["weight"])
    assert loaded == {"step": 123, "best": None, "history": [(1, 0.5)]}
    torch.load(path, weights_only=True)


def test_no_checkpoint_is_none(store: CheckpointStore) -> None:
    assert store.latest(pytest.fail) is None


def test_the_newest_are_kept_and_the_best(store: CheckpointStore) -> None:
    for step in (5, 10, 15, 100000000, 200000000):
        store.save(state(step), step)
        if step in (10, 15):
            store.save_best(state(step), step)
    assert names(store) == ["best-00000015", "step-00000015", "step-10000000", "step-20000000"]
    assert newest(store) == (200000000, [])
    [best] = store.folder.glob("best-*.pt")
    assert torch.load(best, weights_only=True)["step"] == 15


def test_a_later_save_at_the_same_step_replaces_the_first(store: CheckpointStore) -> None:
    store.save(state(7), 7)
    store.save(state(7) | {"best": 0.9}, 7)
    assert names(store) == ["step-00000007"]
    loaded = store.latest(pytest.fail)
    assert loaded
    assert loaded[0]["best"] == 0.9


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_named_and_the_one_before_is_used(store: CheckpointStore, share: float) -> None:
    store.save(state(1), 1)
    path = store.save(state(2), 2)
    os.truncate(path, int(share * path.stat().st_size))
    step, lines = newest(store)
    assert step == 1
    assert len(lines) == 1
    assert str(path) in lines[0]


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_a_flipped_bit_is_noticed_anywhere(tmp_path_factory: pytest.TempPathFactory, place: float, bit: int) -> None:
    store = CheckpointStore(tmp_path_factory.mktemp("flip"))
    store.save(state(1), 1)
    path = store.save(state(2), 2)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    path.write_bytes(content)
    assert newest(store)[0] == 1


def test_broken_ones_do_not_count_as_kept(store: CheckpointStore) -> None:
    for step in (10, 20, 30):
        path = store.save(state(step), step)
        if step > 10:
            path.write_bytes(b"")
    step, lines = newest(store)
    assert (step, len(lines)) == (10, 2)
    store.save(state(35), 35)
    assert names(store) == ["step-00000010", "step-00000035"]


def test_those_of_an_abandoned_future_are_removed(store: CheckpointStore) -> None:
    for step in (10, 20):
        store.save(state(step), step)
    store.save(state(12), 12)
    assert newest(store)[0] == 12
    assert names(store) == ["step-00000010", "step-00000012"]


def test_all_broken_is_an_error_that_names_them(store: CheckpointStore) -> None:
    paths = [store.save(state(step), step) for step in (1, 2)]
    for path in paths:
        path.write_bytes(b"not a checkpoint")
    with pytest.raises(KDError) as caught:
        store.latest(lambda line: None)
    assert all(str(path) in str(caught.value) for path in paths)


def test_an_unreadable_file_is_passed_over(store: CheckpointStore) -> None:
    store.save(state(1), 1)
    (store.folder / "step-00000002-0123456789abcdef.pt").mkdir()
    step, lines = newest(store)
    assert step == 1
    assert "cannot be read" in lines[0]


def test_other_files_are_left_alone_and_half_written_ones_removed(store: CheckpointStore) -> None:
    store.save(state(1), 1)
    (store.folder / "mine.pt").touch()
    (store.folder / ".tmp-4711").write_bytes(b"half of one")
    store.save(state(2), 2)
    assert names(store) == ["mine.pt", "step-00000001", "step-00000002"]


def test_what_torch_would_refuse_to_load_is_refused_when_saved(store: CheckpointStore) -> None:
    with pytest.raises(KDError, match="Fraction"):
        store.save({"rate": Fraction(1, 3)}, 1)
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("limit", [0, 100, 5000, 100_000, 399_000])
def test_a_full_disk_is_one_error_and_the_last_checkpoint_stays(store: CheckpointStore, limit: int) -> None:
    path = store.save(state(1), 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(KDError, match=r"cannot write a checkpoint .* the last one is intact") as caught:
            store.save({"weight": torch.zeros(100_000)}, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(path) in str(caught.value)
    assert names(store) == ["step-00000001"]
    assert newest(store) == (1, [])


SAVE_FOR_EVER = """
    import sys, torch
    from pathlib import Path
    from kd_core.runs.checkpoint import CheckpointStore
    store = CheckpointStore(Path(sys.argv[1]))
    found = store.latest(lambda line: sys.exit(line))
    step = found[0]["step"] if found else 0
    print("ready", flush=True)
    while True:
        step += 1
        store.save({"step": step, "weight": torch.full((300_000,), float(step))}, step)
        print(step, flush=True)
"""


def test_a_process_killed_while_saving_leaves_a_whole_checkpoint(store: CheckpointStore) -> None:
    generator = random.Random(0)
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SAVE_FOR_EVER), str(store.folder)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            process.stdout.readline()
            time.sleep(generator.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            said = process.stdout.read().split()
        step, lines = newest(store)
        assert lines == []
        assert step is not None
        assert step >= int(said[-1] if said else 1)


def draw() -> list[float]:
    return [random.random(), random.gauss(0, 1), float(np.random.standard_normal()), float(torch.randn(1))]


def test_every_generator_goes_on_where_it_was(store: CheckpointStore) -> None:
    draw()  # leaves half of a pair of normal numbers behind in each generator
    store.save({"rng": rng_state()}, 1)
    expected = [draw(), draw()]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    found = store.latest(pytest.fail)
    assert found
    set_rng_state(found[0]["rng"])
    assert [draw(), draw()] == expected


@pytest.mark.gpu
def test_the_generators_of_cuda_devices_too(store: CheckpointStore) -> None:
    torch.rand(3, device="cuda")
    store.save({"rng": rng_state()}, 1)
    expected = torch.rand(3, device="cuda")
    found = store.latest(pytest.fail)
    assert found
    set_rng_state(found[0]["rng"])
    assert torch.equal(torch.rand(3, device="cuda"), expected)
