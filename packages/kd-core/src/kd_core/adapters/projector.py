"""The projector: a linear map of features onto another width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from kd_core.adapters.registry import ADAPTERS, shape, tensors
from kd_core.errors import KDError
from kd_core.ranges import PositiveInt

Activation = Literal["relu", "leaky_relu", "gelu", "sigmoid", "tanh"]
ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


@ADAPTERS("projector")
def projector(
    inputs: list[Tensor],
    match: Tensor | None,
    out_features: PositiveInt | None,
    *,
    kernel: PositiveInt | None = None,
    bias: bool = True,
    norm: bool = False,
    activation: Activation | None = None,
    resize: bool = True,
    init: Literal["default", "fan_out"] = "default",
    keep_equal: bool = False,
) -> nn.Module:
    """A linear map of the features: onto the width ``out_features`` or, where it is None, onto that of ``match``.

    (B, D) and (B, L, D) get a linear layer; (B, C, H, W) a convolution with an odd ``kernel`` (1 where not given). If
    ``match`` is a map half as high and wide, the convolution has stride 2 (kernel 3 where not given); if twice, it is a
    transposed one with kernel 4. With ``resize: false`` height and width stay, whatever those of ``match`` are.
    ``norm`` adds batch norm (for (B, L, D): layer norm), then comes ``activation``. ``init: fan_out`` draws weights
    from a normal distribution of variance 2 / (channels out x kernel area), as in OFD and SRRL. With ``keep_equal``
    features that have the shape of ``match`` stay as they are. KDError
    where inputs, ranks or sizes do not fit. Sizes as the FitNet regressor of megvii-research/mdistiller.
    """
    (source,) = tensors("projector", inputs, match)
    if not 2 <= source.ndim <= 4:
        raise KDError(f"projector takes (B, D), (B, L, D) or (B, C, H, W), not {shape(source)}")
    if keep_equal and match is not None and match.shape == source.shape:
        return nn.Identity()
    width = _width(source, match, out_features)
    if not resize and source.ndim == 4:
        match = None
    layers: list[nn.Module] = [
        _convolution(source, match, width, kernel, bias)
        if source.ndim == 4
        else _linear(source, match, width, kernel, bias)
    ]
    if init == "fan_out":
        nn.init.kaiming_normal_(layers[0].weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]
    if norm:
        layers.append({2: nn.BatchNorm1d, 3: nn.LayerNorm, 4: nn.BatchNorm2d}[source.ndim](width))
    if activation is not None:
        layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers)


def _width(source: Tensor, match: Tensor | None, out_features: int | None) -> int:
    """The number of features (dimension 1 of a map, else the last) to come out."""
    if match is not None and match.ndim != source.ndim:
        raise KDError(
            f"projector cannot make {shape(source)} like {shape(match)}: the number of dimensions differs",
            hint="pool or flatten first, for one with `module: !call:torch.nn.Flatten {}`",
        )
    if out_features is not None:
        return out_features
    if match is None:
        raise KDError("projector has no output width", hint="write `match:` (a wire) or `out_features:` (a number)")
    return match.shape[1] if match.ndim == 4 else match.shape[-1]


def _linear(source: Tensor, match: Tensor | None, width: int, kernel: int | None, bias: bool) -> nn.Module:
    if kernel is not None:
        raise KDError(f"kernel is for feature maps (B, C, H, W), and the input is {shape(source)}")
    if match is not None and match.shape[1:-1] != source.shape[1:-1]:
        raise KDError(f"projector changes the last dimension only: it cannot make {shape(source)} like {shape(match)}")
    return nn.Linear(source.shape[-1], width, bias=bias)


def _convolution(source: Tensor, match: Tensor | None, width: int, kernel: int | None, bias: bool) -> nn.Module:
    channels, height, wide = source.shape[1:]
    size = (height, wide) if match is None else tuple(match.shape[2:])
    if kernel is not None and kernel % 2 == 0:
        raise KDError(f"kernel must be odd, not {kernel}", path="kernel")
    if size == (height, wide):
        kernel = kernel or 1
        return nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=bias)
    if (2 * size[0], 2 * size[1]) == (height, wide):
        kernel = kernel or 3
        return nn.Conv2d(channels, width, kernel, stride=2, padding=kernel // 2, bias=bias)
    if size == (2 * height, 2 * wide):
        if kernel is not None:
            raise KDError(
                f"kernel is {kernel}, but doubling {height}x{wide} takes a transposed convolution with kernel 4",
                path="kernel",
            )
        return nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1, bias=bias)
    raise KDError(
        f"projector keeps, halves or doubles height and width: it cannot bring {height}x{wide} to {size[0]}x{size[1]}",
        hint="resize first, for one with `module: !call:torch.nn.AdaptiveAvgPool2d {output_size: [H, W]}`",
    )
