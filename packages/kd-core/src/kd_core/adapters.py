"""Small trainable modules between a tap and a loss, their widths read off a probe batch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from kd_core.errors import KDError, did_you_mean
from kd_core.registry import Registry, owner_of
from kd_core.signatures import is_open, is_value, parameters, refuse

Adapter = Callable[..., nn.Module]
"""``(inputs, like, to, *, values...) -> nn.Module``: what ADAPTERS holds.

``inputs`` are the probe batch's tensors at the adapter's wires, in order; ``like`` is the tensor whose shape the output
is to have (None: not given) and ``to`` its width. Only shapes may be read: a probe can lie on the meta device. The
module's ``forward`` takes the inputs one by one.
"""

GIVEN = ("inputs", "like", "to")
"""A builder's positional parameters."""


def check(name: str, builder: Adapter) -> None:
    """KDError where ``builder`` cannot be named in a config. Called by every registration."""
    found = parameters(builder)
    given = tuple(str(p) if is_open(p) else p.name for p in found if not is_value(p))
    if given != GIVEN:
        raise KDError(
            f"adapter {name!r}, {owner_of(builder)}, must take ({', '.join(GIVEN)}, *, ...), not ({', '.join(given)})"
        )
    refuse("adapter", name, builder, [p for p in found if is_value(p)])


ADAPTERS: Registry[Adapter] = Registry("adapter", "kd.adapters", check)

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


@ADAPTERS("projector")
def projector(
    inputs: list[Tensor],
    like: Tensor | None,
    to: int | None,
    *,
    kernel: int | None = None,
    bias: bool = True,
    norm: bool = False,
    activation: str | None = None,
) -> nn.Module:
    """A linear map of the features: onto the width ``to`` or, where it is None, onto that of ``like``.

    (B, D) and (B, L, D) get a linear layer; (B, C, H, W) a convolution with an odd ``kernel`` (1 where not given). If
    ``like`` is a map half as high and wide, the convolution has stride 2 (kernel 3 where not given); if twice, it is a
    transposed one with kernel 4. ``norm`` adds batch norm (for (B, L, D): layer norm), then comes ``activation``.
    KDError where inputs, ranks or sizes do not fit. Sizes as the FitNet regressor of megvii-research/mdistiller.
    """
    if len(inputs) != 1:
        raise KDError(f"projector takes one input, not {len(inputs)}")
    source = inputs[0]
    for name, each in (("input", source), ("like", like)):
        if each is not None and not isinstance(each, Tensor):
            raise KDError(
                f"projector's {name} is a {type(each).__name__}, not a tensor\n    hint: take one out of it with /FIELD"
            )
    if not 2 <= source.ndim <= 4:
        raise KDError(f"projector takes (B, D), (B, L, D) or (B, C, H, W), not {_shape(source)}")
    if activation is not None and activation not in ACTIVATIONS:
        hint = did_you_mean(activation, list(ACTIVATIONS))
        raise KDError(f"there is no activation {activation!r}\n    hint: {hint}")
    width = _width(source, like, to)
    layers = [
        _convolution(source, like, width, kernel, bias)
        if source.ndim == 4
        else _linear(source, like, width, kernel, bias)
    ]
    if norm:
        layers.append({2: nn.BatchNorm1d, 3: nn.LayerNorm, 4: nn.BatchNorm2d}[source.ndim](width))
    if activation is not None:
        layers.append(ACTIVATIONS[activation]())
    return nn.Sequential(*layers)


def _width(source: Tensor, like: Tensor | None, to: int | None) -> int:
    """The number of features (dimension 1 of a map, else the last) to come out."""
    if like is not None and like.ndim != source.ndim:
        raise KDError(
            f"projector cannot make {_shape(source)} like {_shape(like)}: the number of dimensions differs"
            "\n    hint: pool or flatten first, for one with `module: !call:torch.nn.Flatten {}`"
        )
    if to is not None:
        if to < 1:
            raise KDError(f"to is {to}, but must be a width of at least 1")
        return to
    if like is None:
        raise KDError("projector knows no width\n    hint: write `like:` (a wire to be like) or `to:` (a number)")
    return like.shape[1] if like.ndim == 4 else like.shape[-1]


def _linear(source: Tensor, like: Tensor | None, width: int, kernel: int | None, bias: bool) -> nn.Module:
    if kernel is not None:
        raise KDError(f"kernel is for maps (B, C, H, W), and the input is {_shape(source)}")
    if like is not None and like.shape[1:-1] != source.shape[1:-1]:
        raise KDError(f"projector changes the last dimension only: it cannot make {_shape(source)} like {_shape(like)}")
    return nn.Linear(source.shape[-1], width, bias=bias)


def _convolution(source: Tensor, like: Tensor | None, width: int, kernel: int | None, bias: bool) -> nn.Module:
    channels, height, wide = source.shape[1:]
    size = (height, wide) if like is None else tuple(like.shape[2:])
    if kernel is not None and (kernel < 1 or kernel % 2 == 0):
        raise KDError(f"kernel is {kernel}, but must be odd, so that it has a middle")
    if size == (height, wide):
        kernel = kernel or 1
        return nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=bias)
    if (2 * size[0], 2 * size[1]) == (height, wide):
        kernel = kernel or 3
        return nn.Conv2d(channels, width, kernel, stride=2, padding=kernel // 2, bias=bias)
    if size == (2 * height, 2 * wide):
        if kernel is not None:
            raise KDError(
                f"kernel is {kernel}, but doubling {height}x{wide} takes a transposed convolution with kernel 4"
            )
        return nn.ConvTranspose2d(channels, width, 4, stride=2, padding=1, bias=bias)
    raise KDError(
        f"projector keeps, halves or doubles height and width: it cannot bring {height}x{wide} to {size[0]}x{size[1]}"
        "\n    hint: resize first, for one with `module: !call:torch.nn.AdaptiveAvgPool2d {output_size: [H, W]}`"
    )


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
