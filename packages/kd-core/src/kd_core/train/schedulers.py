"""Learning rates that rise at first and then fall after whole epochs, as torchvision's reference scripts have them."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kd_core.errors import KDError


class _WarmUp(LRScheduler):
    """A linear rise over the first steps, times :meth:`fallen`. It is stepped after each step (``interval: step``).

    The rise begins at ``start`` times the learning rate and takes ``warm_up`` steps, or the first epoch but for its
    last step where that is shorter.
    """

    def __init__(
        self, optimizer: Optimizer, *, steps_per_epoch: int, warm_up: int = 1000, start: float = 0.001
    ) -> None:
        if warm_up < 0 or not 0 <= start <= 1:
            raise KDError(f"warm_up must be at least 0 and start in [0, 1], not {warm_up} and {start}")
        self.steps_per_epoch = steps_per_epoch
        self.warm_up = min(warm_up, steps_per_epoch - 1)
        self.start = start
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:  # type: ignore[override]
        """The rates of this step."""
        step = self.last_epoch
        risen = 1.0 if step >= self.warm_up else self.start + (1 - self.start) * step / self.warm_up
        factor = risen * self.fallen(step // self.steps_per_epoch)
        return [float(rate) * factor for rate in self.base_lrs]

    def fallen(self, epoch: int) -> float:
        """What is left of the learning rate in an epoch, counted from 0."""
        raise NotImplementedError


class WarmUpMultiStepLR(_WarmUp):
    """A linear rise in the first epoch; times ``gamma`` from each of the ``milestones`` on, which are epochs."""

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        milestones: Sequence[int],
        steps_per_epoch: int,
        gamma: float = 0.1,
        warm_up: int = 1000,
        start: float = 0.001,
    ) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer, steps_per_epoch=steps_per_epoch, warm_up=warm_up, start=start)

    def fallen(self, epoch: int) -> float:
        """A power of ``gamma``."""
        return float(self.gamma ** bisect.bisect_right(self.milestones, epoch))


class WarmUpCosineLR(_WarmUp):
    """A linear rise in the first epoch; half a cosine from epoch to epoch, down to 0 after ``epochs`` of them."""

    def __init__(
        self, optimizer: Optimizer, *, epochs: int, steps_per_epoch: int, warm_up: int = 1000, start: float = 0.001
    ) -> None:
        self.epochs = epochs
        super().__init__(optimizer, steps_per_epoch=steps_per_epoch, warm_up=warm_up, start=start)

    def fallen(self, epoch: int) -> float:
        """Half of one more than a cosine."""
        return (1 + math.cos(math.pi * min(epoch / self.epochs, 1.0))) / 2
