"""Makes features.json: the feature maps that RepDistiller's models give, on weights and images by formula.

python tests/golden/make_features.py DIR

where DIR is a checkout of HobbitLong/RepDistiller at b84f547. Of a model's ``feat`` the first, which is the stem's, and
the last, which is the pooled vector, are left out.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).parent
RECIPE = runpy.run_path(str(HERE / "make_zoo.py"))
MODELS = {**{name: name for name in ("resnet20", "resnet56")}, **RECIPE["BENCHMARK"]}
"""Our name -> RepDistiller's; all for 100 classes."""


def summary(value: Tensor) -> list[object]:
    """The shape of a tensor (B, ...), its mean, and the root of its mean square."""
    value = value.double()
    return [list(value.shape), round(value.mean().item(), 6), round(value.square().mean().sqrt().item(), 6)]


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    from models import model_dict  # type: ignore[import-not-found]

    made = {}
    for ours, theirs in MODELS.items():
        model = model_dict[theirs](num_classes=100).eval()
        with torch.no_grad():
            RECIPE["fill"](model)
            features, _ = model(RECIPE["images"](), is_feat=True)
            preactivations, _ = model(RECIPE["images"](), is_feat=True, preact=True)
        made[ours] = {
            "features": [summary(value) for value in features[1:-1]],
            "preactivations": [summary(value) for value in preactivations[1:-1]],
            "penultimate": [summary(features[-1])],
        }
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in made.items())
    (HERE / "features.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
