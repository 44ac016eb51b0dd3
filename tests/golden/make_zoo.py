"""Makes zoo.json: state dict keys, shapes and outputs of others' CIFAR models on weights and images by formula.

python tests/golden/make_zoo.py DIR

where torchdistill==1.1.5 is installed and DIR is a checkout of HobbitLong/RepDistiller at b84f547, whose models are
those of megvii-research/mdistiller too.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from zlib import crc32

import torch
from torch import Tensor, nn

OUTPUTS = {
    "resnet20": ("resnet20", {}),
    "resnet32": ("resnet32", {}),
    "resnet44": ("resnet44", {}),
    "resnet56": ("resnet56", {"num_classes": 100}),
    "resnet110": ("resnet110", {}),
    "wrn-40-4": ("wide_resnet40_4", {}),
    "wrn-28-10": ("wide_resnet28_10", {}),
    "wrn-16-8": ("wide_resnet16_8", {"num_classes": 100}),
    "densenet-bc-k12-d100": ("densenet_bc_k12_depth100", {"num_classes": 100}),
}
"""Our name -> torchdistill's name and the arguments of both."""
BENCHMARK = {
    **{name: name for name in ("resnet8", "resnet14", "resnet8x4", "resnet32x4")},
    **{f"wrn-{size}-benchmark": f"wrn_{size.replace('-', '_')}" for size in ("16-1", "16-2", "40-1", "40-2")},
    **{name: name for name in ("vgg8", "vgg11", "vgg13", "vgg16", "vgg19")},
    "cifar-resnet50": "ResNet50",
    "mobilenetv2-half": "MobileNetV2",
    "shufflenetv1": "ShuffleV1",
    "shufflenetv2": "ShuffleV2",
}
"""Our name -> RepDistiller's; all for 100 classes."""


def noise(name: str, count: int) -> Tensor:
    """``count`` numbers in [0, 1), in float64, that look random and depend on the name."""
    phase = crc32(name.encode()) % 997
    return (torch.sin(torch.arange(count, dtype=torch.float64) * 12.9898 + phase) * 43758.5453).frac().abs()


def fill(model: nn.Module) -> None:
    """Give a model weights by formula under which activations neither vanish nor explode."""
    for name, value in model.state_dict().items():
        numbers = noise(name, value.numel()).reshape(value.shape)
        if name.endswith("num_batches_tracked"):
            continue
        if value.ndim > 1:
            numbers = (2 * numbers - 1) * (6 / value[0].numel()) ** 0.5
        elif name.endswith(("bias", "running_mean")):
            numbers = 0.2 * (numbers - 0.5)
        elif name.endswith("running_var"):
            numbers = 1 + numbers
        else:
            numbers = 0.25 + numbers / 2
        value.copy_(numbers)


def images(count: int = 2) -> Tensor:
    """Images (count, 3, 32, 32), normalised."""
    return (4 * noise("images", count * 3072) - 2).reshape(count, 3, 32, 32).float()


def shapes(model: nn.Module) -> list[str]:
    """``key shape`` for each entry of the state dict, in order."""
    return [f"{name} {list(value.shape)}" for name, value in model.state_dict().items()]


def digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@torch.no_grad()
def golden(model: nn.Module, keys: bool) -> dict[str, object]:
    fill(model.eval())
    lines = shapes(model)
    logits = model(images()).double()
    return {
        "entries": len(lines),
        "shapes_sha256": digest(lines),
        "shapes": lines if keys else None,
        "logits": [[round(value, 6) for value in row] for row in logits.tolist()],
    }


def main() -> None:
    from torchdistill.models.classification import densenet, resnet, wide_resnet

    made: dict[str, object] = {}
    for ours, (theirs, arguments) in OUTPUTS.items():
        (module,) = (each for each in (densenet, resnet, wide_resnet) if hasattr(each, theirs))
        made[ours] = golden(getattr(module, theirs)(**arguments), keys=ours in ("resnet20", "wrn-16-8"))
    lines = shapes(resnet.resnet1202())
    made["resnet1202"] = {"entries": len(lines), "shapes_sha256": digest(lines)}
    lines = shapes(wide_resnet.wide_resnet(16, 2, 0.0, 10, pretrained=False, progress=False))
    made["wrn-16-2"] = {"entries": len(lines), "shapes_sha256": digest(lines)}
    for growth, depth in ((24, 250), (40, 190)):
        lines = shapes(getattr(densenet, f"densenet_bc_k{growth}_depth{depth}")())
        made[f"densenet-bc-k{growth}-d{depth}"] = {"entries": len(lines), "shapes_sha256": digest(lines)}
    sys.path.insert(0, sys.argv[1])
    from models import model_dict  # type: ignore[import-not-found]

    for ours, theirs in BENCHMARK.items():
        made[ours] = golden(model_dict[theirs](num_classes=100), keys=False)
    Path(__file__).with_name("zoo.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
