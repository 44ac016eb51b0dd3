"""Global context: what a whole feature map says, added to each of its positions."""

from __future__ import annotations

from torch import Tensor, nn

from kd_core.adapters.registry import ADAPTERS, feature_map, tensors
from kd_core.errors import KDError


class GlobalContext(nn.Module):
    """(B, C, H, W) -> (B, C, H, W): each position plus what a bottleneck makes of a weighted mean over all positions.

    The weights are the softmax of a 1x1 convolution; the bottleneck's last layer begins at zero, so at first nothing
    is added.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = channels // 2
        self.attend = nn.Conv2d(channels, 1, 1)
        self.transform = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.LayerNorm([hidden, 1, 1]), nn.ReLU(), nn.Conv2d(hidden, channels, 1)
        )
        nn.init.kaiming_normal_(self.attend.weight, nonlinearity="relu")
        for parameter in (self.attend.bias, self.transform[-1].weight, self.transform[-1].bias):
            nn.init.zeros_(parameter)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        weights = self.attend(features).flatten(2).softmax(2)
        context = (features.flatten(2) * weights).sum(2)[..., None, None]
        added: Tensor = features + self.transform(context)
        return added


@ADAPTERS("global_context")
def global_context(inputs: list[Tensor], match: Tensor | None, out_features: int | None) -> nn.Module:
    """A block that adds to each position of a feature map what the whole map says: FGD compares two such blocks.

    (B, C, H, W) -> (B, C, H, W). KDError where the input is no map, has one channel, or a width is asked for.
    Cao et al., GCNet, 2019 (arXiv 1904.11492), as in FGD (arXiv 2111.11837); checked against yzd-v/FGD.
    """
    (source,) = tensors("global_context", inputs, match)
    if match is not None or out_features is not None:
        raise KDError("global_context keeps the channels: it takes neither match nor out_features")
    channels = feature_map("global_context", source).shape[1]
    if channels < 2:
        raise KDError(f"global_context halves the channels within, and {tuple(source.shape)} has one")
    return GlobalContext(channels)
