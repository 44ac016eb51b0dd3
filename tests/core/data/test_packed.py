"""A packed sequence is one, and its pages stay shared with a process that reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kd_core.data.packed import Packed


def test_a_packed_sequence_is_a_sequence() -> None:
    items = [Path("a/b.png"), Path("c.png"), Path("d/é.png")]
    packed = Packed(items)
    assert list(packed) == items
    assert (len(packed), packed[-1], packed[:2]) == (3, items[2], items[:2])
    assert list(Packed([])) == []
    with pytest.raises(IndexError):
        packed[3]


OWN_MEMORY = """
import gc, os, sys
from pathlib import Path
from kd_core.data.packed import Packed

def own():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))

items = {"Packed": Packed, "list": list}[sys.argv[1]]([Path(f"a folder/image {n:07d}.png") for n in range(60_000)])
if os.fork() == 0:
    gc.disable()  # which writes to every object it looks at
    before = own()
    for item in items:
        assert item
    print(own() - before, flush=True)
    os._exit(0)
os.wait()
"""
"""Prints how many KiB a forked process has for itself alone after it has read the items."""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells a process's own pages")
def test_a_forked_process_copies_no_packed_item() -> None:
    packed, listed = (
        int(subprocess.run([sys.executable, "-c", OWN_MEMORY, kind], capture_output=True, text=True, check=True).stdout)
        for kind in ("Packed", "list")
    )
    assert listed > 4 << 10
    assert packed < listed / 4
