"""Several optimisers as one, each with parameter groups of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

from torch.optim import Optimizer


class CombinedOptimizer(Optimizer):
    """Optimisers that step together. Its groups are theirs, one after another, and its state is that of all of them.

    So a scheduler, clipping and a checkpoint see one optimiser.
    """

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in parts for group in part.param_groups], {})
        for part in parts:
            self.state.update(part.state)
        self._share()

    def _share(self) -> None:
        """Let the parts have the groups and the state that are here."""
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = list(islice(groups, len(part.param_groups)))
            part.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What :meth:`load_state_dict` ends with."""
        super().__setstate__(state)
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step of each."""
        for part in self.parts:
            part.step()
