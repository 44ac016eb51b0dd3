"""What torchvision's detectors are made of: parameters with their ranges, frozen parts, weights of a backbone, places.

Every detector that is registered here goes through :func:`finished`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.ssd import SSD
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from kd_core.download import fetch
from kd_core.errors import KDError, did_you_mean
from kd_core.models.weights import read_state
from kd_core.ranges import Fraction, PositiveFloat, PositiveInt, Probability
from kd_core.taps.landmarks import Landmarks, keep
from kd_core.taps.wires import Tap

Classes = Annotated[int, Ge(2)]
"""The number of classes with the background, which is class 0."""
Norm = Literal["batch", "frozen", "group"]
OwnNorm = Literal["batch", "frozen"]
_SIZES = {"min_size": PositiveInt, "max_size": PositiveInt, "_skip_resize": bool}
_PIXELS = {"image_mean": list[float], "image_std": list[float]}
_PROPOSALS = {
    "rpn_pre_nms_top_n_train": PositiveInt,
    "rpn_pre_nms_top_n_test": PositiveInt,
    "rpn_post_nms_top_n_train": PositiveInt,
    "rpn_post_nms_top_n_test": PositiveInt,
    "rpn_nms_thresh": Probability,
    "rpn_fg_iou_thresh": Probability,
    "rpn_bg_iou_thresh": Probability,
    "rpn_batch_size_per_image": PositiveInt,
    "rpn_positive_fraction": Fraction,
    "rpn_score_thresh": Probability,
}
_BOXES = {
    "box_score_thresh": Probability,
    "box_nms_thresh": Probability,
    "box_detections_per_img": PositiveInt,
    "box_fg_iou_thresh": Probability,
    "box_bg_iou_thresh": Probability,
    "box_batch_size_per_image": PositiveInt,
    "box_positive_fraction": Fraction,
}
_DENSE = {
    "score_thresh": Probability,
    "nms_thresh": Probability,
    "detections_per_img": PositiveInt,
    "topk_candidates": PositiveInt,
}
_RCNN = {**_SIZES, **_PIXELS, **_PROPOSALS, **_BOXES}
DENSE_OPTIONS: dict[str, Any] = {**_SIZES, **_PIXELS, **_DENSE}
OPTIONS: dict[type[nn.Module], dict[str, Any]] = {
    FasterRCNN: _RCNN,
    MaskRCNN: _RCNN,
    KeypointRCNN: {**_RCNN, "num_keypoints": PositiveInt},
    RetinaNet: {**DENSE_OPTIONS, "fg_iou_thresh": Probability, "bg_iou_thresh": Probability},
    FCOS: {**DENSE_OPTIONS, "center_sampling_radius": PositiveFloat},
    SSD: {**_PIXELS, **_DENSE, "iou_thresh": Probability, "positive_fraction": Fraction},
}
"""The parameters of torchvision's classes that a config may give, with their ranges; None is torchvision's value."""


def with_options(
    kind: type[nn.Module], part: Callable[..., Any] | None = None
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Decorator for a function with ``**options``: its signature names each of :data:`OPTIONS` of that class.

    Those of ``part`` come first; what it makes of them is the function's first argument. A KDError takes the place of
    what torchvision raises for values that do not go together.
    """
    part_values = {} if part is None else _values(part)

    def decorate(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        options = {
            name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation | None)
            for name, annotation in OPTIONS[kind].items()
        }
        known = {**part_values, **_values(make), **options}

        def build(**values: Any) -> nn.Module:
            for name in values:
                if name not in known:
                    raise KDError(f"{build.__name__} has no parameter {name!r}", hint=did_you_mean(name, list(known)))
            given = {name: value for name, value in values.items() if not (name in options and value is None)}
            _check_pixels(given)
            parts = {name: given.pop(name) for name in part_values if name in given}
            try:
                return make(**given) if part is None else make(part(**parts), **given)
            except (TypeError, ValueError, AssertionError) as error:
                raise KDError(f"{build.__name__}: {error}") from error

        build.__name__, build.__qualname__, build.__doc__ = make.__name__, make.__qualname__, make.__doc__
        build.__module__ = make.__module__
        signature = inspect.Signature(list(known.values()), return_annotation=nn.Module)
        build.__signature__ = signature  # type: ignore[attr-defined]
        return build

    return decorate


def _values(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a function by name, annotations as objects."""
    found = inspect.signature(function, eval_str=True).parameters
    return {name: parameter for name, parameter in found.items() if parameter.kind is parameter.KEYWORD_ONLY}


def _check_pixels(values: Mapping[str, Any]) -> None:
    """KDError for a mean or a standard deviation that is not three numbers."""
    for name in ("image_mean", "image_std"):
        value = values.get(name, [1.0, 1.0, 1.0])
        if len(value) != 3 or (name == "image_std" and min(value) <= 0):
            kind = "three numbers" if name == "image_mean" else "three numbers greater than 0"
            raise KDError(f"{name} must be {kind}, not {value!r}")


def finished(model: nn.Module, *, norm: str = "batch", norm_eps: float | None = None) -> nn.Module:
    """``model``, with the norms of its backbone as they are to be, and its landmarks known.

    ``norm_eps`` replaces the epsilon of frozen batch norms.
    """
    body = body_of(model)
    convert_norms(body, norm)
    if norm_eps is not None:
        frozen = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
        if not frozen:
            raise KDError("there is no frozen batch norm whose epsilon it could be", path="norm_eps")
        for module in frozen:
            module.eps = norm_eps
    fpn = getattr(model.backbone, "fpn", None)
    if fpn is not None and type(fpn.extra_blocks) is LastLevelMaxPool:
        fpn.extra_blocks = PooledLevel()
    keep(model, landmarks_of(model))
    model.renamed_weights = renamed_weights(model)  # type: ignore[assignment]
    return model


class PooledLevel(LastLevelMaxPool):
    """torchvision's last level of a pyramid, every other position of the one before, as a module that can be tapped."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(1, 2)

    def forward(self, levels: list[Tensor], maps: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        """The levels and their names, with one more."""
        return [*levels, self.pool(levels[-1])], [*names, "pool"]


def body_of(model: nn.Module) -> nn.Module:
    """The classifier's layers in a detector: below the pyramid where there is one."""
    backbone: Any = model.backbone
    return backbone.body if isinstance(backbone, BackboneWithFPN) else backbone


def convert_norms(module: nn.Module, norm: str) -> None:
    """Put other norms into the place of batch norms: frozen ones, or groups of up to 32 channels that all go in."""
    if norm == "batch":
        return
    found = [(parent, name, child) for parent in module.modules() for name, child in parent.named_children()]
    norms = [(parent, name, child) for parent, name, child in found if isinstance(child, nn.BatchNorm2d)]
    if not norms:
        raise KDError(f"the backbone has no batch norms that {norm} ones could replace", path="norm")
    for parent, name, child in norms:
        setattr(parent, name, _frozen(child) if norm == "frozen" else group_norm(child.num_features))


def _frozen(norm: nn.BatchNorm2d) -> nn.Module:
    """A batch norm with the same values, none of which training changes."""
    frozen = FrozenBatchNorm2d(norm.num_features, norm.eps)
    state = {key: value for key, value in norm.state_dict().items() if key != "num_batches_tracked"}
    if not norm.weight.is_meta:
        frozen.load_state_dict(state)
    return frozen


def group_norm(channels: int) -> nn.GroupNorm:
    """Group normalisation (Wu and He, ECCV 2018, arXiv 1803.08494) with up to 32 groups of equally many channels."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


def landmarks_of(model: nn.Module) -> Landmarks:
    """The levels that a detector's heads take, the finest first, and the layer that scores classes."""
    backbone: Any = model.backbone
    fpn = getattr(backbone, "fpn", None)
    if fpn is None:
        places = ["backbone.features"] if hasattr(backbone, "scale_weight") else []
        places = places or [f"backbone.features.{number}" for number in range(len(backbone.features))]
        places += [f"backbone.extra.{number}" for number in range(len(backbone.extra))]
    else:
        places = [f"backbone.fpn.layer_blocks.{number}" for number in range(len(fpn.layer_blocks))]
        extra = [] if fpn.extra_blocks is None else list(fpn.extra_blocks._modules)
        places += [f"backbone.fpn.extra_blocks.{name}" for name in extra]
    classifier = "roi_heads.box_predictor.cls_score" if isinstance(model, FasterRCNN) else None
    return Landmarks(features=tuple(map(Tap, places)), classifier=classifier)


def renamed_weights(model: nn.Module) -> dict[str, str]:
    """Modules as torchvision's weights of before 2022 name them -> as its models have named them since."""
    paths = [path for path, _ in model.named_modules()]
    renamed = {path.removesuffix(".0"): path for path in paths if _was_bare(path)}
    renamed |= {
        f"roi_heads.mask_head.mask_fcn{number + 1}": f"roi_heads.mask_head.{number}.0"
        for number in range(len(getattr(getattr(model, "roi_heads", None), "mask_head", None) or ()))
    }
    if isinstance(model, RetinaNet):
        for head in ("classification_head", "regression_head"):
            renamed |= {f"head.{head}.conv.{2 * number}": f"head.{head}.conv.{number}.0" for number in range(4)}
    if "rpn.head.conv.0.0" in paths:
        renamed["rpn.head.conv"] = "rpn.head.conv.0.0"
    return renamed


def _was_bare(path: str) -> bool:
    """Whether a convolution of a pyramid, now the first layer of a block, was once that block."""
    parent, _, last = path.rpartition(".")
    return last == "0" and parent.rpartition(".")[0] in ("backbone.fpn.inner_blocks", "backbone.fpn.layer_blocks")


def state_of(backbone: str, weights: str) -> dict[str, Tensor]:
    """torchvision's weights of a classifier, by name (``IMAGENET1K_V1``); KDError for one it has not, or no network."""
    versions = torchvision_models.get_model_weights(backbone)
    if weights not in versions.__members__:
        hint = did_you_mean(weights, list(versions.__members__))
        raise KDError(f"{backbone} has no weights {weights!r}", hint=hint, path="weights_backbone")
    url = versions[weights].url
    return read_state(fetch(url, sha256=Path(url).stem.rpartition("-")[2]))


class BackboneOrder:
    """Which tensors of a detector are those of the classifier that it was cut from: the same, in the same order."""

    def __init__(self, model: nn.Module, classifier: str, **parameters: Any) -> None:
        with torch.device("meta"):
            self.origin = torchvision_models.get_model(classifier, weights=None, **parameters)
        self.classifier, self.body = classifier, body_of(model)

    def load(self, weights: str) -> None:
        """Put torchvision's weights of the classifier into the detector; KDError where one has another shape."""
        state, own = state_of(self.classifier, weights), self.body.state_dict()
        fitting = {}
        for name, theirs in zip(_tensors(own), self._origins(), strict=False):
            value = state.get(theirs)
            if value is None or value.shape != own[name].shape:
                raise KDError(
                    f"the weights {weights} of {self.classifier} do not fit: {theirs}", path="weights_backbone"
                )
            fitting[name] = value
        self.body.load_state_dict(fitting, strict=False)

    def freeze(self, trainable_layers: int) -> None:
        """Freeze all but the last layers of the backbone, counted as torchvision counts them."""
        stages = self._stages()
        if trainable_layers > len(stages):
            raise KDError(f"trainable_layers must be at most {len(stages)}, not {trainable_layers}")
        origins = self._origins()
        kept = stages[len(stages) - trainable_layers :]
        first = next(index for index, name in enumerate(origins) if name.startswith(kept[0])) if kept else len(origins)
        if trainable_layers == len(stages):
            first = 0
        parameters = dict(self.body.named_parameters())
        for name in _tensors(self.body.state_dict())[:first]:
            if name in parameters:
                parameters[name].requires_grad_(False)

    def _origins(self) -> list[str]:
        """The names of the classifier's tensors below its head."""
        return [name for name in _tensors(self.origin.state_dict()) if not name.startswith(("fc.", "classifier."))]

    def _stages(self) -> list[str]:
        """How the names of the tensors of each stage begin, the first stage first."""
        features: Any = getattr(self.origin, "features", None)
        if features is None:
            return ["conv1", "layer1.", "layer2.", "layer3.", "layer4."]
        if any(isinstance(layer, nn.MaxPool2d) for layer in features):
            pools = [index for index, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d)]
            return [f"features.{index}." for index in (0, *(index + 1 for index in pools[:-1]))]
        strided = [index for index, layer in enumerate(features) if getattr(layer, "_is_cn", False)]
        return [f"features.{index}." for index in (0, *strided, len(features) - 1)]


def _tensors(names: Iterable[str]) -> list[str]:
    """The names of tensors that weights hold, in order; SSD's own factor of its first map is none of its backbone's."""
    return [name for name in names if not name.endswith("num_batches_tracked") and name != "scale_weight"]
