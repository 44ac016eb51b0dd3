"""Branches from a model's feature maps: OFA-KD's, which end in logits, and be-your-own-teacher's, in features."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn

from kd_core.adapters.registry import ADAPTERS, feature_map, tensors, width_of
from kd_core.errors import KDError
from kd_core.ranges import PositiveInt


class FirstInput(nn.Sequential):
    """A sequence of layers on the first of several inputs; of the others only the shapes were of interest."""

    def forward(self, features: Tensor, *shapes: Tensor) -> Tensor:
        output: Tensor = super().forward(features)
        return output


def separable(channels: int, out: int) -> nn.Sequential:
    """Two depthwise and pointwise convolutions with batch norm and ReLU, which halve height and width."""
    layers: list[nn.Module] = []
    for width, stride in ((channels, 2), (out, 1)):
        depthwise = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
        layers += [depthwise, nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


@ADAPTERS("ofa_branch")
def ofa_branch(inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None) -> nn.Module:
    """OFA-KD's branch of a convolutional student: logits from one of its feature maps.

    (B, C, H, W), the deepest map (B, D, h, w), and any number of vectors (B, F), of both models -> (B, ``out_features``
    or the classes of ``match``). While it is larger than the deepest map a separable block halves the map and doubles
    its channels, the last one to the largest of D and all F; a map as small as the deepest gets a 1x1 convolution.
    Then it is averaged, and a linear layer makes logits. KDError where an input has another number of dimensions.
    Hao et al., One-for-All, NeurIPS 2023 (arXiv 2310.19444); checked against Hao840/OFAKD.
    """
    source, *others = tensors("ofa_branch", inputs, match, most=len(inputs))
    deepest, *vectors = others or [source]
    channels, size = feature_map("ofa_branch", source).shape[1], source.shape[2]
    if any(vector.ndim != 2 for vector in vectors):
        raise KDError("ofa_branch takes a feature map, the deepest feature map, and vectors (B, F)", path="inputs")
    width = max(feature_map("ofa_branch", deepest).shape[1], *(vector.shape[1] for vector in vectors), 0)
    layers: list[nn.Module] = []
    while size > deepest.shape[2]:
        size = (size + 1) // 2
        layers.append(separable(channels, width if size <= deepest.shape[2] else 2 * channels))
        channels *= 2
    layers = layers or [nn.Conv2d(channels, width, 1)]
    classes = width_of("ofa_branch", match, out_features)
    branch = FirstInput(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
    branch.apply(_initialise)
    return branch


def _initialise(layer: nn.Module) -> None:
    """The authors' initial weights."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)


@ADAPTERS("byot_branch")
def byot_branch(
    inputs: list[Tensor] | Mapping[str, Tensor], match: Tensor | None, out_features: PositiveInt | None
) -> nn.Module:
    """Be-your-own-teacher's branch: a bottleneck from a shallow feature map to a vector like the deepest features.

    (B, C, H, W), where it has a name ``features``, -> (B, D). ``match`` is the deepest map, (B, D, h, w): 1x1, k x k
    and 1x1 convolutions with batch norm and ReLU, a quarter as wide within, where k and the stride are H / h; then the
    mean over the places. KDError where an input is no map, ``match`` is missing or the larger one, or D is below 4.
    Zhang et al., Be Your Own Teacher, ICCV 2019 (arXiv 1905.08094); checked against
    luanyunteng/pytorch-be-your-own-teacher, since its authors published no branches of that version.
    """
    if isinstance(inputs, Mapping):
        if list(inputs) != ["features"]:
            raise KDError("byot_branch's one input is called `features`", path="inputs")
        inputs = [inputs["features"]]
    (source,) = tensors("byot_branch", inputs, match)
    if match is None:
        raise KDError("byot_branch has no map to be like", hint="write `match: student.@features/-1`")
    channels, deepest = feature_map("byot_branch", source).shape[1], feature_map("byot_branch", match)
    out, kernel = width_of("byot_branch", match, out_features), source.shape[2] // max(deepest.shape[2], 1)
    if not kernel or out < 4:
        raise KDError(f"byot_branch cannot bring {tuple(source.shape)} to {tuple(deepest.shape)}")
    widths, kernels = (channels, out // 4, out // 4, out), (1, kernel, 1)
    layers: list[nn.Module] = []
    for (width, wider), size in zip(pairwise(widths), kernels, strict=True):
        layers += [nn.Conv2d(width, wider, size, stride=size), nn.BatchNorm2d(wider), nn.ReLU()]
    branch = FirstInput(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    branch.apply(_initialise)
    return branch
