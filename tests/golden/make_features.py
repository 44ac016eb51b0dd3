"""Makes features.json: the feature maps that others' models give, on weights and images by formula.

python tests/golden/make_features.py DIR MDISTILLER

where DIR is a checkout of HobbitLong/RepDistiller at b84f547 and MDISTILLER one of megvii-research/mdistiller at
a08d46f. Of RepDistiller's ``feat`` the first, which is the stem's, and the last, which is the pooled vector, are left
out.
"""

from __future__ import annotations

import json
import runpy
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

HERE = Path(__file__).parent
RECIPE = runpy.run_path(str(HERE / "make_zoo.py"))
MODELS = {**{name: name for name in ("resnet20", "resnet56")}, **RECIPE["BENCHMARK"]}
"""Our name -> RepDistiller's; all for 100 classes."""


def summary(value: Tensor) -> list[object]:
    """The shape of a tensor (B, ...), its mean, and the root of its mean square."""
    value = value.double()
    return [list(value.shape), round(value.mean().item(), 6), round(value.square().mean().sqrt().item(), 6)]


def images(count: int = 1) -> Tensor:
    """Images (count, 3, 224, 224), normalised."""
    return (4 * RECIPE["noise"]("images", count * 150528) - 2).reshape(count, 3, 224, 224).float()


def filled(make: Any, **arguments: Any) -> nn.Module:
    """A model with weights by formula."""
    model: nn.Module = make(**arguments).eval()
    with torch.no_grad():
        RECIPE["fill"](model)
    return model


@torch.no_grad()
def of_repdistiller(make: Any) -> dict[str, list[Tensor]]:
    """What one of its models gives."""
    model = filled(make, num_classes=100)
    features, _ = model(RECIPE["images"](), is_feat=True)
    preactivations, _ = model(RECIPE["images"](), is_feat=True, preact=True)
    return {"features": features[1:-1], "preactivations": preactivations[1:-1], "penultimate": features[-1:]}


@torch.no_grad()
def of_mdistiller(make: Any) -> dict[str, list[Tensor]]:
    """What one of its models for ImageNet gives, which has no stem among its features, and its logits."""
    logits, told = filled(make)(images())
    features, preactivations, pooled = (told[name] for name in ("feats", "preact_feats", "pooled_feat"))
    return {"features": features, "preactivations": preactivations, "penultimate": [pooled], "output": [logits]}


def load(path: Path) -> Any:
    """A module of another repository, without the package around it."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    from models import model_dict  # type: ignore[import-not-found]

    found = {ours: of_repdistiller(model_dict[theirs]) for ours, theirs in MODELS.items()}
    mobile = load(Path(sys.argv[2]) / "mdistiller" / "models" / "imagenet" / "mobilenetv1.py").MobileNetV1
    found["mobilenetv1"] = of_mdistiller(mobile)
    made: dict[str, Any] = {
        name: {key: [summary(value) for value in values] for key, values in places.items()}
        for name, places in found.items()
    }
    made["mobilenetv1"]["shapes_sha256"] = RECIPE["digest"](RECIPE["shapes"](mobile()))
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in made.items())
    (HERE / "features.json").write_text("{\n" + lines + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
