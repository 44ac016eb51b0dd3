"""``kd-vision`` with parameters sharded by FSDP2 on CPUs, where accelerate by itself would not shard."""

from __future__ import annotations

import atexit
import os
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from kd_vision.cli import main

before = Accelerator.__init__


def sharding(self: Accelerator, **options: Any) -> None:
    before(self, **options)
    self.state.distributed_type = DistributedType.FSDP
    self.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap")


Accelerator.__init__ = sharding  # type: ignore[method-assign]


def threads_of_gloo() -> list[str]:
    """The threads of this process that communicate with the others."""
    names = [(each / "comm").read_text().strip() for each in Path("/proc/self/task").iterdir()]
    return [name for name in names if "gloo" in name]


def tell() -> None:
    """Leave what is left of them, by rank: two processes that print may write into each other's lines."""
    Path(os.environ["THREADS_LEFT"], os.environ["RANK"]).write_text(" ".join(threads_of_gloo()))


if __name__ == "__main__":
    if "THREADS_LEFT" in os.environ:
        atexit.register(tell)
    main(prog_name="kd-vision")
