"""Compares every model of the zoo with torchdistill's: state dicts, and outputs with the same weights.

python tests/zoo/compare_torchdistill.py [NAME ...]    where torchdistill==1.1.5 is installed; it need not be the tests'
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import torch
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "packages" / name / "src") for name in ("kd-core", "kd-zoo")]

THEIRS = {
    **{f"resnet{depth}": f"resnet{depth}" for depth in (20, 32, 44, 56, 110, 1202)},
    **{f"wrn-{size}": f"wide_resnet{size.replace('-', '_')}" for size in ("40-4", "28-10", "16-8")},
    **{f"densenet-bc-k{k}-d{d}": f"densenet_bc_k{k}_depth{d}" for k, d in ((12, 100), (24, 250), (40, 190))},
}
RECIPE = runpy.run_path(str(ROOT / "tests" / "golden" / "make_zoo.py"))
BOUND = 1e-5
"""Largest difference between logits, in units of the largest logit."""


def shapes(model: nn.Module) -> list[tuple[str, torch.Size]]:
    """The state dict's keys and shapes, in order."""
    return [(key, value.shape) for key, value in model.state_dict().items()]


@torch.no_grad()
def difference(name: str, num_classes: int) -> float:
    """Largest difference between the two models' logits, relative, on the goldens' weights and images."""
    from torchdistill.models.classification import densenet, resnet, wide_resnet

    from kd_core.models.registry import MODELS

    (module,) = (each for each in (densenet, resnet, wide_resnet) if hasattr(each, THEIRS[name]))
    theirs = getattr(module, THEIRS[name])(num_classes=num_classes).eval()
    ours = MODELS.get(name)(num_classes=num_classes).eval()
    assert MODELS.get(THEIRS[name]) is MODELS.get(name), f"{THEIRS[name]} is no alias of {name}"
    assert shapes(ours) == shapes(theirs), f"{name}: another state dict"
    RECIPE["fill"](theirs)
    ours.load_state_dict(theirs.state_dict())
    expected = theirs(RECIPE["images"]())
    assert expected.isfinite().all(), f"{name}: the weights by formula do not suit it"
    return ((ours(RECIPE["images"]()) - expected).abs().max() / expected.abs().max()).item()


def main() -> None:
    import kd_zoo.models  # noqa: F401

    for name in sys.argv[1:] or THEIRS:
        for num_classes in (10, 100):
            found = difference(name, num_classes)
            print(f"{name:<22} {num_classes:>4} classes  state dicts equal  logits differ by {found:.1e}")
            assert found <= BOUND, f"{name}: {found} > {BOUND}"


if __name__ == "__main__":
    main()
