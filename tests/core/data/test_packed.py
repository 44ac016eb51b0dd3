"""A packed sequence is one, and its pages stay shared with a process that reads it."""

from __future__ import annotations

import gc
import os
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


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells a process's own pages")
@pytest.mark.parametrize(("kind", "copied"), [(Packed, False), (list, True)])
def test_a_forked_process_copies_no_packed_item(kind: type, copied: bool) -> None:
    items = kind([Path(f"a folder/image {number:07d}.png") for number in range(120_000)])
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        gc.disable()  # which writes to every object it looks at
        before = own_memory()
        for item in items:
            assert item
        os.write(writing, str(own_memory() - before).encode())
        os._exit(0)
    os.waitpid(child, 0)
    grown = int(os.read(reading, 32))
    os.close(reading), os.close(writing)
    assert (grown > 8 << 20) == copied, grown


def own_memory() -> int:
    """Bytes that this process shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))
