"""torchdistill's models -> ``models:``: its own, torchvision's, transformers', and those of torch.hub like them."""

from __future__ import annotations

import re
from typing import Any

from kd_core.config.syntax.lazy import Call
from kd_core.migrate.data import path_of
from kd_core.migrate.draft import Draft
from kd_core.migrate.source import Node, Symbol
from kd_core.migrate.wires import Side

OWN = (
    (re.compile(r"resnet(20|32|44|56|110|1202)"), "resnet{}"),
    (re.compile(r"wide_resnet(\d+)_(\d+)"), "wrn-{}-{}"),
    (re.compile(r"densenet_bc_k(\d+)_depth(\d+)"), "densenet-bc-k{}-d{}"),
)
"""torchdistill's names of its models for CIFAR, and those of kd-zoo."""
HUBS = {
    "pytorch/vision": "torchvision",
    "rwightman/pytorch-image-models": "timm",
    "huggingface/pytorch-image-models": "timm",
}
"""Repositories of torch.hub whose models are those of a library."""
SPLIT = "yoshitomo-matsubara/sc2-benchmark"
"""The repository of torch.hub that has torchvision's models with a bottleneck in the place of their first layers."""
REPLACED = {
    "resnet": ("conv1", ("bn1", "relu", "maxpool", "layer1", "layer2")),
    "densenet": (
        "features.conv0",
        (
            *("features.norm0", "features.relu0", "features.pool0", "features.denseblock1", "features.transition1"),
            *("features.denseblock2", "features.transition2"),
        ),
    ),
    "inception": (
        "Conv2d_1a_3x3",
        ("Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
    ),
}
"""Of each family: the module in whose place the bottleneck comes, and those that it makes superfluous."""


def translate_model(draft: Draft, node: Node, side: Side) -> dict[str, Any]:
    """The model of ``models.student_model`` and its like, for the task."""
    node.skip("dst_ckpt", "key" if draft.task == "text_classification" else "")
    if draft.task == "text_classification":
        return _text_model(draft, node)
    model = _image_model(draft, node, side)
    checkpoint = node["src_ckpt"].text()
    if checkpoint:
        model = {"arch": model.pop("zoo").partition(".IMAGENET")[0], **model} if "zoo" in model else model
        model["weights"] = path_of(checkpoint)
        draft.differ("missing-checkpoint", "models", side.name, "weights")
    return model


def _text_model(draft: Draft, node: Node) -> dict[str, Any]:
    """A model of transformers, whose tokenizer and config have its name."""
    name = node["model_name_or_path"].text() or node["model_kwargs"]["pretrained_model_name_or_path"].text()
    for part in ("config_kwargs", "tokenizer_kwargs", "model_kwargs"):
        if (other := node[part]["pretrained_model_name_or_path"].text(name)) != name:
            key = "input: {tokenizer: ...}" if part == "tokenizer_kwargs" else "labels"
            node[part].fail(f"{other} is not the model {name}", f"write `{key}` by hand")
    node["tokenizer_kwargs"].skip("do_lower", "do_lower_case", "use_fast")
    node["config_kwargs"].skip("num_labels", "problem_type")
    node.skip("num_labels")
    return {"hub": name}


def _weights(node: Node) -> str:
    """The name of torchvision's weights: ``IMAGENET1K_V1``; empty without."""
    value = node.plain()
    if value is None:
        return ""
    name = value.name if isinstance(value, Symbol) else str(value)
    return name.rpartition(".")[2]


def _image_model(draft: Draft, node: Node, side: Side) -> dict[str, Any]:
    key, kwargs = node["key"].text(), node["kwargs"]
    hub = node["repo_or_dir"].text()
    kwargs.skip("progress", "num_classes")
    if hub == SPLIT and not key.endswith("rcnn_resnet_fpn"):
        return _split_model(draft, node, side, key)
    if key.startswith(("custom_fasterrcnn", "custom_maskrcnn")):
        return _split_detector(draft, node, side, key, hub)
    if hub and hub not in HUBS:
        node["repo_or_dir"].fail(f"the models of {hub} are not here", "name a model of torchvision or timm")
    if own := _own_model(draft, key, kwargs):
        return own
    side.arch = key
    if HUBS.get(hub) == "timm":
        return {"timm": key, **({"pretrained": True} if kwargs["pretrained"].flag() else {"weights": None})}
    return _torchvision(draft, key, kwargs, side)


def _torchvision(draft: Draft, key: str, kwargs: Node, side: Side) -> dict[str, Any]:
    weights, backbone = _weights(kwargs["weights"]), _weights(kwargs["weights_backbone"])
    if not weights and kwargs["pretrained"].flag():
        weights = "IMAGENET1K_V1" if draft.task == "image_classification" else "COCO_V1"
    model: dict[str, Any] = {"zoo": f"torchvision.{key}.{weights}"} if weights else {"arch": f"torchvision.{key}"}
    auxiliary = kwargs["aux_loss"].flag()
    if auxiliary and side.name == "student":
        model["aux_loss"] = True
    if backbone:
        model["weights_backbone"] = backbone
    if weights.startswith("COCO") and draft.task == "object_detection":
        model["zoo"] = f"torchvision.{key}"
    if side.name == "teacher" and not weights:
        model["weights"] = None
    return model


def _own_model(draft: Draft, key: str, kwargs: Node) -> dict[str, Any] | None:
    """A model that kd-zoo has as torchdistill has it."""
    for pattern, name in OWN:
        if match := pattern.fullmatch(key):
            ours = name.format(*match.groups())
            break
    else:
        builders = {"wide_resnet": "wrn-{depth}-{k}", "resnet": "resnet{depth}"}
        if key not in builders or "depth" not in kwargs:
            return None
        ours = builders[key].format(depth=kwargs["depth"].number(), k=kwargs["k"].number(1))
    kwargs.skip("memory_efficient")
    model: dict[str, Any] = {"zoo" if kwargs["pretrained"].flag() else "arch": ours}
    dropout = kwargs["dropout_p"].number(0.3 if key.startswith("wide_resnet") else 0)
    if dropout:
        model["dropout"] = dropout
    return model


def _split_model(draft: Draft, node: Node, side: Side, key: str) -> dict[str, Any]:
    """A classifier of torchvision whose first layers are a bottleneck."""
    kwargs, arch = node["kwargs"], key.removeprefix("custom_")
    family = next((name for name in REPLACED if arch.startswith(name)), None)
    if family is None:
        node["key"].fail(
            f"{key} cannot be translated", "these can: custom_resnet*, custom_densenet*, custom_inception_v3"
        )
        return {}
    kwargs.skip("bottleneck_idx", "compressor", "decompressor")
    channels = kwargs["bottleneck_channel"].number(12)
    place, superfluous = REPLACED[family]
    side.arch = arch
    side.renamed = {"bottleneck_layer": place, "inception_modules": ""}
    draft.differ("hub-model", "models", side.name)
    bottleneck = Call("kd_vision.bottlenecks.FirstLayers", kwargs={"family": family, "channels": channels})
    edits = [{"replace": place, "with": bottleneck}]
    edits += [{"replace": name, "with": Call("torch.nn.Identity")} for name in superfluous]
    weights = _weights(kwargs["weights"])
    source = {"zoo": f"torchvision.{arch}.{weights}"} if weights else {"arch": f"torchvision.{arch}"}
    return {**source, "edit": edits}


def _split_detector(draft: Draft, node: Node, side: Side, key: str, hub: str) -> dict[str, Any]:
    """A detector of torchvision with another ResNet, or with a bottleneck in the place of its first layer."""
    kwargs = node["kwargs"]
    kind = "fasterrcnn" if "faster" in key else "maskrcnn"
    if kind == "maskrcnn":
        draft.config.setdefault("data", {})["masks"] = True
    backbone = kwargs["backbone"]
    options, name = backbone["kwargs"], backbone["key"].text()
    options.skip("num_classes")
    weights, trainable = _weights(options["weights"]), options["trainable_backbone_layers"].number(3)
    layer, whole = options["layer1"], _weights(kwargs["weights"])
    if layer:
        layer.skip("key", "compressor", "decompressor")
        bottleneck = Call(
            "kd_vision.detection.bottlenecks.Bottleneck", kwargs={"channels": layer["bottleneck_channel"].number(3)}
        )
        draft.differ("hub-model", "models", side.name)
        source = {"zoo": f"torchvision.{kind}_{name.removeprefix('custom_')}_fpn"}
        if not whole:
            source = {"arch": source["zoo"]}
        return {**source, "edit": [{"replace": "backbone.body.layer1", "with": bottleneck}]}
    if hub != SPLIT:
        draft.differ("does-not-start", "models", side.name, detail=f"Its example registers no {key}.")
    arch = {"fasterrcnn": "faster_rcnn", "maskrcnn": "mask_rcnn"}[kind]
    model: dict[str, Any] = {"arch": arch, "backbone": name}
    if weights:
        model["weights_backbone"] = weights
    return {**model, "norm": "frozen", "trainable_layers": min(trainable, 5)}
