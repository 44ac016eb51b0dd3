"""Every method fits every pair of the CIFAR-100 benchmark, by one word, or says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from kd_core.config.syntax.methods import METHODS
from kd_core.errors import KDError
from kd_core.experiment import Experiment

CONFIGS = Path(__file__).parents[2] / "configs" / "vision"
PAIRS = sorted(path.stem for path in CONFIGS.glob("cifar100_*_*.yaml") if path.stem.count("_") == 2)
REFUSED = {
    "fsp": "with the same B and C",
    "kdsvd": "with the same B and C",
    "ebkd": "needs 2 teachers or more",
    "ca_mkd": "or the modules of a group",
    "one": "forward failed on a dummy input",
}
"""Methods that need maps of equal channels, several teachers, or a last stage that is one module before the classifier,
with a part of what a pair that has no such thing is told."""


def problems(pair: str, method: str) -> list[str]:
    """What the strict check says of a pair with a method."""
    overrides = [f"stages.distill.method={method}"]
    try:
        return Experiment.load(CONFIGS / f"{pair}.yaml", overrides=overrides).check(strict=True)
    except KDError as error:
        return str(error).splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("method", METHODS.names())
def test_a_method_fits_a_pair(method: str, pair: str) -> None:
    found = problems(pair, method)
    assert not found or (method in REFUSED and REFUSED[method] in found[0]), found
