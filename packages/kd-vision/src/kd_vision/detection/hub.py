"""Detectors of transformers, by their name on the hub or from a folder: ``hub:`` in a config.

They are called as all detectors are, with images and targets. What their image processor does stands beside the model.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.config.schema import ModelSpec
from kd_core.data.spec import IMAGENET_MEAN, IMAGENET_STD
from kd_core.errors import KDError
from kd_core.models.hub import HubModelRequest
from kd_core.models.labels import check_count, label_mismatch_error, names_of, normalized_name
from kd_core.models.reports import pretrained, readable, unfit, unfit_error
from kd_core.notes import Note
from kd_core.repository import PREPROCESSOR, model_folder
from kd_zoo.transformers_hub import Attention, ImageHub, Names, library, read_config

SIZE = {"shortest_edge": 800, "longest_edge": 1333}
"""DETR's, where no processor tells one."""
UNUSED = "n/a"
"""The name of an output that is no class, as ten of COCO's numbers."""


@dataclass(frozen=True)
class Detection:
    """How a model of transformers is called with images and targets, and what its outputs mean.

    ``size`` is the processor's: ``height`` and ``width``, or ``shortest_edge`` and ``longest_edge``. ``labels`` are the
    data's of each output, 0 for one that is no class.
    """

    size: Mapping[str, int]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    labels: tuple[int, ...]
    masked: bool
    """Whether the model is told where images are padded."""

    def __call__(self, model: nn.Module, images: Sequence[Tensor], targets: Any) -> Any:
        """A mapping of losses with their weighted sum ``loss`` in training mode, else detections of each image."""
        pixels, mask = self.padded([self.scaled(image) for image in images])
        given = {"pixel_values": pixels, **({"pixel_mask": mask} if self.masked else {})}
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        if not model.training:
            return self.detections(model(**given), sizes)
        found = model(**given, labels=[self.truth(*pair) for pair in zip(targets, sizes, strict=True)])
        return {**{name: value for name, value in found.loss_dict.items() if "loss" in name}, "loss": found.loss}

    def scaled(self, image: Tensor) -> Tensor:
        """(3, H, W) in [0, 1] -> normalised, of the size that the processor gives it."""
        sized = F.interpolate(
            image[None], self.sides(*image.shape[-2:]), mode="bilinear", align_corners=False, antialias=True
        )[0]
        if self.mean is None or self.std is None:
            return sized
        mean, std = (sized.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (sized - mean) / std

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image once it is scaled, rounded as transformers rounds."""
        if "height" in self.size:
            return self.size["height"], self.size["width"]
        short, most = self.size["shortest_edge"], self.size.get("longest_edge")
        ratio = max(height, width) / min(height, width)
        exact = most / ratio if most is not None and ratio * short > most else float(short)
        sides = (round(exact), int(exact * ratio))
        return sides if height <= width else (sides[1], sides[0])

    def padded(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Images of one batch (B, 3, H, W), filled up on the right and below, and where they are none (B, H, W)."""
        height, width = (max(image.shape[side] for image in images) for side in (1, 2))
        if not self.masked and any(image.shape[1:] != (height, width) for image in images):
            hint = "a stage's `batch_size: 1` and `eval_batch_size: 1` pad nothing"
            raise KDError("this model is not told where images are padded, and these have several sizes", hint=hint)
        fill = [(0, width - image.shape[2], 0, height - image.shape[1]) for image in images]
        pixels = torch.stack([F.pad(image, sides) for image, sides in zip(images, fill, strict=True)])
        ones = [torch.ones_like(image[0], dtype=torch.int64) for image in images]
        return pixels, torch.stack([F.pad(rows, sides) for rows, sides in zip(ones, fill, strict=True)])

    def truth(self, target: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """The classes and boxes (centre and sides, as fractions of the image) that transformers' losses take."""
        low, high = target["boxes"].split(2, 1)
        boxes = torch.cat(((low + high) / 2, high - low), 1)
        outputs = {label: output for output, label in enumerate(self.labels) if label}
        classes = [outputs[label] for label in target["labels"].tolist()]
        return {
            "class_labels": torch.tensor(classes, dtype=torch.int64, device=boxes.device),
            "boxes": boxes / boxes.new_tensor([size[1], size[0]] * 2),
        }

    def detections(self, found: Any, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Tensor]]:
        """Boxes in pixels, scores and labels of each image, the likeliest first, as many as there are queries.

        A model with one more output than classes has a softmax, whose last is no object, and one class a query; any
        other has a probability for each class.
        """
        logits, centred = found.logits.float(), found.pred_boxes.float()
        classes = len(self.labels)
        scores = logits.softmax(-1)[..., :-1] if logits.shape[-1] > classes else logits.sigmoid()
        labels = torch.tensor(self.labels, device=scores.device)
        scores = scores[..., labels > 0]
        labels = labels[labels > 0]
        if logits.shape[-1] > classes:
            scores, which = scores.max(-1, keepdim=True)
            names = labels[which]
        else:
            names = labels.expand_as(scores)
        best = scores.flatten(1).topk(scores.shape[1], dim=1)
        middle, sides = centred.split(2, -1)
        corners = torch.cat((middle - sides / 2, middle + sides / 2), -1)
        images = zip(corners, names.flatten(1), *best, sizes, strict=True)
        return [
            {
                "boxes": boxes[chosen // scores.shape[2]].clamp(0, 1) * boxes.new_tensor([size[1], size[0]] * 2),
                "scores": values,
                "labels": each[chosen],
            }
            for boxes, each, values, chosen, size in images
        ]


class DetectorHub(ImageHub):
    """Any detector of transformers: DETR, RT-DETR, D-FINE and others of its ``AutoModelForObjectDetection``."""

    def __init__(self, package: str) -> None:
        super().__init__(package, "object_detection")

    def build(  # type: ignore[override]
        self,
        request: HubModelRequest,
        *,
        revision: str | None = None,
        labels: Names | None = None,
        attn_implementation: Attention | None = None,
    ) -> nn.Module:
        """The model in float32, whose outputs are classes by their names.

        ``labels`` names its outputs, where its config does not. KDError where there is no such model, its weights do
        not fit, or its classes are not those of the data and its heads may not begin at random.
        """
        library(self.package)
        if find_spec("scipy") is None:
            hint = f"pip install '{self.package}[transformers]'"
            raise KDError("the losses of transformers' detectors need the package scipy", hint=hint)
        load = request.weights and not request.offline
        folder = model_folder(request.name, revision, "weights" if load else "structure", offline=request.offline)
        config = read_config(folder, request.name)
        check_count(labels, config.num_labels)
        kind = self._class_of(config, request.name, backbone=False)
        trained = names_of(config) if labels is None else tuple(labels)
        outputs = outputs_of(request, trained, config.num_labels)
        if outputs is None:
            config.id2label = dict(enumerate(names for _, names in wanted_of(request.info)))
            config.label2id = {name: number for number, name in config.id2label.items()}
        config.use_pretrained_backbone = False  # its weights are the detector's
        if attn_implementation is not None:
            config._attn_implementation = attn_implementation
        with readable(request.name):
            if load:
                model, told = pretrained(kind, folder, config)
                check_loaded(model, told, request, fresh=outputs is None)
            else:
                model = kind(config)
            model = model.float()
        if outputs is None:
            outputs = tuple(label for label, _ in wanted_of(request.info))
        processor = processor_of(folder)
        masked = "pixel_mask" in inspect.signature(kind.forward).parameters
        model.detection = detection_of(processor, outputs, masked=masked)
        return model

    def input(self, spec: ModelSpec) -> dict[str, Any]:
        """Nothing: detectors take images as they are."""
        return {}

    def evaluation(self, spec: ModelSpec) -> dict[str, Any]:
        """Nothing: detectors scale images themselves."""
        return {}

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the config and what the processor does: with the weights beside it, transformers loads that folder."""
        super().save(model, folder)
        detection: Any = model.detection
        told = {"do_resize": True, "size": dict(detection.size), "do_normalize": detection.mean is not None}
        if detection.mean is not None:
            told |= {"image_mean": list(detection.mean), "image_std": list(detection.std)}
        (folder / PREPROCESSOR).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def wanted_of(info: Any) -> list[tuple[int, str]]:
    """The labels of the data that are classes, with their names: numbers where only reading would tell the names."""
    names = info.classes or tuple(map(str, range(info.model_parameters.get("num_classes", 2))))
    ignored: frozenset[int] = getattr(info, "ignored", frozenset())
    labels = [(label, name) for label, name in enumerate(names) if label and label not in ignored]
    return [(label, name) for label, name in labels if name.casefold() != UNUSED]


def outputs_of(request: HubModelRequest, trained: tuple[str, ...] | None, count: int) -> tuple[int, ...] | None:
    """The data's label of each output of a model that has ``trained`` names; None where its heads begin anew.

    KDError where the classes are not the same and the heads may not begin at random.
    """
    wanted = wanted_of(request.info)
    if request.info.classes is None:  # only reading would tell
        return tuple(range(1, count + 1)) if not request.new_head or count == len(wanted) else None
    if trained is None and count == len(wanted):
        request.log(Note.warning("classes by their order: nothing says which output is which class"))
        return tuple(label for label, _ in wanted)
    if trained is not None:
        if len(trained) == len(request.info.classes) and all(same(trained[label], name) for label, name in wanted):
            kept = {label for label, _ in wanted}  # outputs are the data's numbers, some of which are no classes
            return tuple(label if label in kept else 0 for label in range(count))
        labels = {normalized_name(name): label for label, name in wanted}
        named = [normalized_name(name) for name in trained if name.casefold() != UNUSED]
        if len(labels) == len(wanted) and len(set(named)) == len(named) and set(named) == set(labels):
            return tuple(labels.get(normalized_name(name), 0) for name in trained)
    if request.weights and not request.new_head:
        raise label_mismatch_error(request.name, trained or (f"{count} without names",), [name for _, name in wanted])
    if request.weights:
        request.log(Note("new head: its classes are not those of the data, and what scores classes begins at random"))
    return None


def same(name: str, other: str) -> bool:
    """Whether two names are equal but for case, ``-``, ``_`` and spaces."""
    return normalized_name(name) == normalized_name(other)


def heads_of(model: nn.Module) -> set[str]:
    """The names of the parameters whose shapes depend on the number of classes."""
    config: Any = type(model.config)(**model.config.to_dict())  # type: ignore[operator,union-attr]
    config.num_labels = config.num_labels + 1
    with torch.device("meta"):
        other = {name: value.shape for name, value in type(model)(config).state_dict().items()}
    return {name for name, value in model.state_dict().items() if other[name] != value.shape}


def check_loaded(model: Any, told: Mapping[str, Any], request: HubModelRequest, *, fresh: bool) -> None:
    """Give heads random values where they are to be ``fresh``; KDError where other weights are missing or misfit."""
    wrong = unfit(told)
    heads = heads_of(model) if fresh or wrong else set()
    lines = [f"{name} {reason}" for name, reason in sorted(wrong.items()) if not fresh or name not in heads]
    if lines:
        raise unfit_error(request.name, model, lines, None)
    if fresh:
        random = type(model)(model.config).state_dict()
        model.load_state_dict({name: random[name] for name in heads}, strict=False)


def processor_of(folder: Path) -> dict[str, Any]:
    """What lies beside a model of its inputs; nothing where there is no such file."""
    file = folder / PREPROCESSOR
    try:
        told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise KDError(f"{file} is not JSON") from error
    if not isinstance(told, dict):
        raise KDError(f"{file} is not a mapping")
    return told


def detection_of(told: Mapping[str, Any], labels: tuple[int, ...], *, masked: bool) -> Detection:
    """The processor's sizes and normalisation, and DETR's where it tells none; KDError for a size of another form."""
    size = told.get("size", SIZE)
    if isinstance(size, int):  # as the first DETRs have it
        size = {"shortest_edge": size, "longest_edge": told.get("max_size", SIZE["longest_edge"])}
    if not isinstance(size, Mapping) or not ({"height", "width"} <= size.keys() or "shortest_edge" in size):
        raise KDError(f"the image processor has the size {size!r}, neither height and width nor shortest_edge")
    normalised = bool(told.get("do_normalize", True))
    mean = tuple(told.get("image_mean") or IMAGENET_MEAN) if normalised else None
    std = tuple(told.get("image_std") or IMAGENET_STD) if normalised else None
    return Detection(dict(size), mean, std, labels, masked)
