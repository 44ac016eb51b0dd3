"""Models of images in transformers, by their name on the hub or from a folder: ``hub:`` in a config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import nn

from kd_core.config.schema import ModelSpec
from kd_core.data.hub_data import data_pins
from kd_core.data.spec import IMAGENET_MEAN, IMAGENET_STD
from kd_core.errors import KDError
from kd_core.models.hub import Hub, HubModelRequest
from kd_core.models.labels import (
    check_count,
    classifier_of,
    in_base,
    label_mismatch_error,
    names_of,
    order_of,
    permute,
    reinitialize,
)
from kd_core.models.reports import pretrained, readable, unfit, unfit_error
from kd_core.models.trained_on import only_numbers
from kd_core.notes import Note
from kd_core.repository import PREPROCESSOR, commit_of, model_folder

Count = Annotated[int, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
Names = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
Attention = Literal["eager", "sdpa", "flash_attention_2", "flex_attention"]
Purpose = Literal["image_classification", "semantic_segmentation", "object_detection"]

MAPPINGS = {
    "image_classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
    "semantic_segmentation": "MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING",
    "object_detection": "MODEL_FOR_OBJECT_DETECTION_MAPPING",
}
"""transformers' tables from configs to classes."""
DOES = {
    "image_classification": "classifies images",
    "semantic_segmentation": "segments images",
    "object_detection": "finds objects in images",
}
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of ways to resize, by their names."""
SPARE = ("lm_head.", "mask_token", "decoder.", "embeddings.mask_token", "head.", "cls.")
"""Parts of checkpoints of other objectives (masked images) that no classifier needs."""


class ImageHub(Hub):
    """Any model that transformers has for a ``purpose``, or, without a classifier, any of its backbones.

    ``package`` is the distribution whose extra installs the library.
    """

    def __init__(self, package: str, purpose: Purpose) -> None:
        self.package, self.purpose = package, purpose

    def build(
        self,
        request: HubModelRequest,
        *,
        revision: str | None = None,
        num_classes: Count | None = None,
        labels: Names | None = None,
        image_size: PositiveInt | None = None,
        num_channels: PositiveInt | None = None,
        attn_implementation: Attention | None = None,
    ) -> nn.Module:
        """The model in float32, its outputs in the order of the data's classes.

        ``num_classes: 0`` is the backbone alone, a teacher of features; ``labels`` names its outputs, where its config
        does not; ``image_size`` and ``num_channels`` make another structure, which has random weights. KDError where
        there is no such model, or its weights or classes do not fit.
        """
        library(self.package)
        load = request.weights and not request.offline
        folder = model_folder(request.name, revision, "weights" if load else "structure", offline=request.offline)
        config = read_config(folder, request.name)
        check_count(labels, config.num_labels)
        if request.weights and (image_size or num_channels):
            key = "image_size" if image_size else "num_channels"
            hint = "`weights: null` has random ones"
            raise KDError(f"the weights of {request.name} are for what they were trained with", hint=hint, path=key)
        config.image_size = image_size or getattr(config, "image_size", None)
        config.num_channels = num_channels or getattr(config, "num_channels", 3)
        kind = self._class_of(config, request.name, backbone=num_classes == 0)
        trained = names_of(config) if labels is None else tuple(labels)
        count = config.num_labels
        if num_classes != 0:
            adapt(config, request, num_classes)
        if attn_implementation is not None:
            config._attn_implementation = attn_implementation
        with readable(request.name):
            if not load:
                return kind(config).float()
            model, told = pretrained(kind, folder, config)
        fresh = check_loaded(model, told, request, headless=num_classes == 0)
        if num_classes != 0:
            fit_classes(model, request, trained, count, fresh=fresh)
        if not (folder / PREPROCESSOR).is_file():
            request.log(Note(f"{request.name} has no {PREPROCESSOR}: mean and std are those of the data"))
        return model

    def _class_of(self, config: Any, name: str, *, backbone: bool) -> Any:
        """The class that makes a model of that config; KDError where transformers has none."""
        import transformers

        mapping = transformers.MODEL_MAPPING if backbone else getattr(transformers, MAPPINGS[self.purpose])
        if type(config) not in mapping:
            what = "of which transformers has no backbone" if backbone else f"which {DOES[self.purpose]} in no class"
            raise KDError(f"{name} is a {config.model_type}, {what} of transformers")
        found = mapping[type(config)]
        choices = list(found) if isinstance(found, (tuple, list)) else [found]
        named = config.architectures or ()
        return next((choice for choice in choices if choice.__name__ in named), choices[0])

    def input(self, spec: ModelSpec) -> dict[str, Any]:
        """Mean, standard deviation, channels, and the size of images where positions are embedded."""
        config, told = self._files(spec)
        values: dict[str, Any] = {"channels": spec.extra.get("num_channels") or getattr(config, "num_channels", 3)}
        if told and told.get("do_normalize", True):
            values["mean"] = list(told.get("image_mean") or IMAGENET_MEAN)
            values["std"] = list(told.get("image_std") or IMAGENET_STD)
        if getattr(config, "image_size", None) and hasattr(config, "num_attention_heads"):
            values["size"] = spec.extra.get("image_size") or final_size(told) or config.image_size
        return values

    def evaluation(self, spec: ModelSpec) -> dict[str, Any]:
        """The size of the centre crop, its share of the resized image, and the interpolation."""
        _, told = self._files(spec)
        size = spec.extra.get("image_size") or final_size(told)
        if not told or not isinstance(size, int):
            return {}
        resized = side_of(told.get("size")) if told.get("do_center_crop") else None
        share = told.get("crop_pct") if told.get("do_center_crop") is None else size / (resized or size)
        return {
            "size": size,
            "eval_crop": min(share or 1.0, 1.0),
            "interpolation": RESAMPLING.get(told.get("resample", 2), "bilinear"),
        }

    def _files(self, spec: ModelSpec) -> tuple[Any, dict[str, Any]]:
        """The config of a model and what lies beside it of its inputs, from this machine."""
        library(self.package)
        folder = model_folder(str(spec.hub), spec.extra.get("revision"), "structure", offline=True)
        file = folder / PREPROCESSOR
        try:
            told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        except (OSError, ValueError) as error:
            raise KDError(f"{file} is not JSON") from error
        return read_config(folder, str(spec.hub)), told

    def revisions(self, models: Mapping[str, ModelSpec], data: Any) -> list[str]:
        """The commits of the models that are named on the hub."""
        commits = {name: commit_of(spec.hub, spec.extra.get("revision")) for name, spec in models.items()}
        pins = [f"models.{name}.revision={commit}" for name, commit in commits.items() if commit is not None]
        return [*pins, *data_pins(data)]

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the config: with the weights beside it, transformers loads that folder as it is."""
        config: Any = model.config
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder)


def library(package: str) -> Any:
    """transformers; KDError naming the extra that installs it."""
    try:
        import transformers
    except ImportError as error:
        hint = f"pip install '{package}[transformers]'"
        raise KDError("models of `hub:` need the package transformers", hint=hint) from error
    return transformers


def read_config(folder: Path, name: str) -> Any:
    """The config in a model's folder; KDError where transformers does not know it."""
    from transformers import AutoConfig

    with readable(name):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def side_of(size: Any) -> int | None:
    """The shorter side that a processor resizes to, in the forms that processors write it; None for none."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height")
    return size if isinstance(size, int) else None


def final_size(told: Mapping[str, Any]) -> int | None:
    """The side of the images that a processor gives; None where it does not tell one."""
    crop = side_of(told.get("crop_size")) if told.get("do_center_crop") else None
    return crop or side_of(told.get("size"))


# -- classes and weights


def adapt(config: Any, request: HubModelRequest, num_classes: int | None) -> None:
    """Write into a config which classes the data have, or how many are wanted."""
    info, count = request.info, num_classes or request.info.model_parameters.get("num_classes")
    if info.classes is not None and num_classes in (None, len(info.classes)):
        config.id2label = dict(enumerate(info.classes))
        config.label2id = {name: index for index, name in enumerate(info.classes)}
    elif count is not None and count != config.num_labels:
        config.num_labels = count
    config.problem_type = None


def check_loaded(model: nn.Module, told: Mapping[str, Any], request: HubModelRequest, *, headless: bool) -> bool:
    """Whether the classifier begins at random; KDError where anything else has no weights, or weights fit nothing."""
    wrong = unfit(told)
    heads = [] if headless else [key for key in wrong if not in_base(model, key)]
    spare = [key for key in wrong if ".pooler." in f".{key}" or "mask_token" in key]
    lines = [f"{key} {reason}" for key, reason in sorted(wrong.items()) if key not in (*heads, *spare)]
    random = sorted(heads) if not request.new_head else []
    lines += [f"{key} {wrong[key]}" for key in random]
    if not headless:
        unknown = [key for key in told["unexpected_keys"] if in_base(model, key)]
        lines += [f"{key} is not in the model" for key in sorted(unknown) if "mask_token" not in key]
    if lines:
        hint = "`new_head: true` begins with a random classifier, `num_classes: 0` leaves it out" if random else None
        raise unfit_error(request.name, model, lines, hint)
    return bool(heads)


def fit_classes(
    model: nn.Module, request: HubModelRequest, trained: tuple[str, ...] | None, count: int, *, fresh: bool
) -> None:
    """Put a classifier's rows into the order of the data's classes, or make it anew; KDError where neither may be."""
    classes = request.info.classes
    if fresh:
        request.log(Note("new head: the classifier begins at random"))
        return
    if classes is None or (len(classes) != count and not request.new_head):
        return
    rows = None if trained is None else order_of(trained, classes)
    layer = classifier_of(model, len(classes))
    if rows is not None:
        permute(layer, rows)
    elif trained is None or synsets(classes) or only_numbers(classes):
        request.log(Note.warning("classes by their order: nothing says which output is which class"))
    elif request.new_head:
        request.log(Note("new head: its classes are not those of the data, and the classifier begins at random"))
        reinitialize(layer, getattr(model.config, "initializer_range", 0.02))
    else:
        raise label_mismatch_error(request.name, trained, classes)


def synsets(classes: tuple[str, ...]) -> bool:
    """Whether classes are named as ImageNet's folders are, in whose order its models have their outputs."""
    return len(classes) == 1000 and all(name[:1] == "n" and name[1:].isdecimal() for name in classes)
