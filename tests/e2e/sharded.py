"""``kd-vision`` with parameters sharded by FSDP2 on CPUs, where accelerate by itself would not shard."""

from __future__ import annotations

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

if __name__ == "__main__":
    main(prog_name="kd-vision")
