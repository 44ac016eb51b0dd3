"""torchdistill's data sets and transforms -> ``data:``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kd_core.config.syntax.lazy import Call, Text
from kd_core.migrate.draft import Draft, number
from kd_core.migrate.source import Node

CIFAR = {
    "CIFAR10": ((0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)),
    "CIFAR100": ((0.5070754, 0.48655024, 0.44091907), (0.26733398, 0.25643876, 0.2761503)),
}
"""Means and deviations that the data sets have here by default."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")


@dataclass
class Split:
    """A data set of the file: ``kind`` is torchvision's class, ``part`` what of it, ``held_out`` the share of the other
    part where it is one of two parts of the training images."""

    node: Node
    kind: str
    root: str = ""
    part: str = ""
    held_out: float = 0.0
    transforms: list[tuple[str, Node]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)


def path_of(text: str) -> str | Text:
    """A path for a config; one with ``~`` is written out when it is read."""
    return Text("expanduser", [text]) if text.startswith("~") else text


def splits_of(draft: Draft, root: Node) -> dict[str, Split]:
    """The data sets of the file by their ids."""
    found: dict[str, Split] = {}
    for name in root["datasets"].names():
        node = root["datasets"][name]
        if "splits" in node:  # torchdistill before 1.0
            draft.differ("does-not-start", "data", detail="Its data set is written as before 1.0.")
            old = _old_splits(node)
            found |= {name: split for name, split in old.items() if name not in found}
        elif not (node.call() or node.tag == "access_by_index_or_key"):
            node.fail("is not a data set: !import_call of one, or a part of split_dataset, is expected")
        elif (split := _split(node)) is not None:
            found[name] = split
    return found


def _old_splits(node: Node) -> dict[str, Split]:
    kind = node["key"].text()
    node.skip("name", "root")
    found = {}
    for name in node["splits"].names():
        split = node["splits"][name]
        kwargs = split["kwargs"]
        kwargs.skip("download")
        steps = [(step["key"].text(), step["kwargs"]) for step in kwargs["transform_configs"].items()]
        part = "train" if kwargs["train"].flag() else "test"
        found[split["dataset_id"].text()] = Split(split, kind, kwargs["root"].text(), part, transforms=steps)
    return found


def _split(node: Node) -> Split | None:
    """One data set, or a part of one."""
    if node.tag == "access_by_index_or_key":
        return _part(Node(node.source, node.slot.value.content, node.path))
    call = node.call()
    if call is None:
        return None
    target, kwargs = call
    kind = target.rpartition(".")[2]
    if kind == "split_dataset":
        for value in kwargs.names():
            kwargs[value]
        return None
    split = Split(node, kind, kwargs["root"].text())
    kwargs.skip("download")
    if kind in CIFAR:
        split.part = "train" if kwargs["train"].flag(True) else "test"
    elif kind == "ImageFolder":
        split.root, _, split.part = split.root.rpartition("/")
    elif kind == "VOCSegmentation":
        split.part = kwargs["image_set"].text("train")
        split.options["year"] = kwargs["year"].text("2012")
    elif kind == "coco_dataset":
        _coco(split, kwargs)
    else:
        node.fail(f"the data set {target} cannot be translated", "write `data:` by hand, see docs/vision.md")
        return None
    split.transforms = _transforms(kwargs["transforms" if kind in ("VOCSegmentation", "coco_dataset") else "transform"])
    return split


def _part(content: Node) -> Split | None:
    """``split_dataset(...)[index]``."""
    data, index = content["data"], int(content["index_or_key"].number(0))
    call = data.call()
    if call is None or not call[0].endswith("split_dataset"):
        content["data"].fail("only a part of split_dataset can be translated")
        return None
    kwargs = call[1]
    split = _split(kwargs["dataset"])
    lengths = [length.number() for length in kwargs["lengths"].items()]
    kwargs.skip("dataset_id", "generator_seed")
    if split is None or len(lengths) != 2 or split.part != "train":
        content["data"].fail("only the training images in two parts can be translated")
        return None
    split.part, split.held_out = ("train", "val")[index], lengths[1] / sum(lengths)
    configs = list(kwargs["sub_splits_configs"].items())
    split.transforms = _transforms(configs[index]["transform"])
    return split


def _coco(split: Split, kwargs: Node) -> None:
    folder = kwargs["img_dir_path"].text().rstrip("/")
    split.root, _, split.part = folder.rpartition("/")
    kwargs.skip("ann_file_path")
    split.options = {
        "annotated": kwargs["annotated_only"].flag(),
        "segment": kwargs["is_segment"].flag(),
        "flip": kwargs["random_horizontal_flip"].number(0),
    }


def _transforms(node: Node) -> list[tuple[str, Node]]:
    """The names and the arguments of the transforms of a Compose."""
    if not node:
        return []
    call = node.call()
    if call is None:
        node.fail("is not a transform")
        return []
    name, kwargs = call[0].rpartition(".")[2], call[1]
    if name not in ("Compose", "CustomCompose"):
        return [(name, kwargs)]
    steps = []
    for item in kwargs["transforms"].items():
        if (inner := item.call()) is not None:
            steps.append((inner[0].rpartition(".")[2], inner[1]))
        else:
            item.fail("is not a transform")
    return steps


def translate_images(
    draft: Draft, train: Split | None, val: Split | None, test: Split | None, num_classes: int
) -> None:
    """``data`` of image classification."""
    split = train or test
    if split is None:
        draft.source.root()["datasets"].fail("there is no data set that can be translated")
        return
    data = draft.config.setdefault("data", {})
    data |= {
        "name": {"CIFAR10": "cifar10", "CIFAR100": "cifar100"}.get(split.kind, "imagenet"),
        "root": path_of(split.root),
    }
    if split.kind == "ImageFolder":
        data["num_classes"] = num_classes
    _roles(draft, data, train, val, test)
    _training_transforms(data, train or split)
    for evaluated in (val, test):
        if evaluated is not None:
            _evaluation_transforms(data, evaluated)


def _roles(draft: Draft, data: dict[str, Any], train: Split | None, val: Split | None, test: Split | None) -> None:
    """Which images train, choose the checkpoint, and are reported."""
    if train is None or val is None:
        return
    if train.held_out:
        data["val"] = number(round(train.held_out, 6))
        draft.differ("other-split", "data", "val")
    elif train.kind in CIFAR:
        split_root = train.root
        if draft.differ("chosen-on-test", "data"):
            calls = {
                role: Call(
                    f"torchvision.datasets.{train.kind}", kwargs={"root": path_of(split_root), "train": role == "train"}
                )
                for role in ("train", "val", "test")
            }
            mean, std = CIFAR[train.kind]
            data.pop("name"), data.pop("root")
            data |= {"dataset": calls, "mean": list(mean), "std": list(std)}
        else:
            data["val"] = 0
    elif test is not None and test.part == val.part and not draft.differ("chosen-on-reported", "data"):
        data |= {"val": 0, "test": "val"}


def _normalised(data: dict[str, Any], kind: str, kwargs: Node) -> None:
    """The channels' means and deviations, where they are not those of the data set."""
    mean, std = kwargs["mean"].plain(), kwargs["std"].plain()
    if (tuple(mean or ()), tuple(std or ())) != CIFAR.get(kind, IMAGENET):
        data |= {"mean": mean, "std": std}


def _training_transforms(data: dict[str, Any], split: Split) -> None:
    """``augment``, and the size of images in folders."""
    operations: list[Any] = []
    for name, kwargs in split.transforms:
        if name == "Normalize":
            _normalised(data, split.kind, kwargs)
        elif name == "RandomHorizontalFlip":
            p = kwargs["p"].number(0.5)
            operations.append("flip" if p == 0.5 else {"op": "flip", "p": p})
        elif name == "RandomCrop" and kwargs["padding"].number(0):
            kwargs.skip("size")
            padding = kwargs["padding"].number(4)
            operations.append("crop" if padding == 4 else {"op": "crop", "padding": padding})
        elif name in ("RandomResizedCrop", "WrappedRandomResizedCrop"):
            _size(data, kwargs)
            operations.append("resized_crop")
        elif name != "ToTensor":
            operations.append(Call(f"torchvision.transforms.v2.{name}", kwargs=kwargs.plain() or {}))
    presets = {("crop", "flip"): "crop_flip", ("resized_crop", "flip"): "resized_crop_flip"}
    preset = presets.get(tuple(operations)) if all(isinstance(item, str) for item in operations) else None
    own = "crop_flip" if split.kind in CIFAR else "resized_crop_flip"
    if preset != own or "dataset" in data:
        data["augment"] = preset or ([item for item in operations if item != "resized_crop"] or "none")


def _size(data: dict[str, Any], kwargs: Node) -> None:
    size = kwargs["size"].plain()
    size = size[0] if isinstance(size, list) and len(set(size)) == 1 else size
    _interpolation(kwargs)
    if size != 224:
        data["size"] = size


def _interpolation(kwargs: Node) -> None:
    if kwargs["interpolation"].text("bilinear") != "bilinear":
        kwargs["interpolation"].fail("images are resized bilinearly here")


def _evaluation_transforms(data: dict[str, Any], split: Split) -> None:
    """The share of the resized image that evaluation sees."""
    resized: Any = None
    for name, kwargs in split.transforms:
        if name in ("Resize", "WrappedResize"):
            resized = kwargs["size"].plain()
            _interpolation(kwargs)
        elif name == "CenterCrop":
            size = kwargs["size"].plain()
            size = size[0] if isinstance(size, list) else size
            if isinstance(resized, int) and abs(size / resized - 0.875) > 1e-9:
                data["eval_crop"] = number(size / resized)
        elif name == "Normalize":
            _normalised(data, split.kind, kwargs)
        elif name != "ToTensor":
            split.node.fail(f"the transform {name} cannot be translated for evaluation")


def translate_scenes(draft: Draft, train: Split | None, val: Split | None) -> None:
    """``data`` of semantic segmentation."""
    split = train or val
    if split is None:
        return
    data = draft.config.setdefault("data", {})
    data |= {"name": "voc2012" if split.kind == "VOCSegmentation" else "coco2017", "root": path_of(split.root)}
    if split.options.get("year", "2012") != "2012":
        split.node.fail("only the year 2012 of VOC can be translated")
    if split.options.get("annotated"):
        data["train_images"] = "annotated"
    steps, evaluated = dict(train.transforms if train else []), dict(val.transforms if val else [])
    _scales(draft, data, steps, evaluated)
    if "CustomRandomHorizontalFlip" in steps and (p := steps.pop("CustomRandomHorizontalFlip")["p"].number(0.5)) != 0.5:
        data["flip"] = p
    for name in (set(steps) | set(evaluated)) - {"CustomToTensor", "CustomNormalize"}:
        split.node.fail(f"the transform {name} cannot be translated")
    for step in (steps, evaluated):
        if "CustomNormalize" in step:
            _normalised(data, "", step["CustomNormalize"])


def _scales(draft: Draft, data: dict[str, Any], steps: dict[str, Node], evaluated: dict[str, Node]) -> None:
    """The sizes of images, before and after cropping, and in evaluation."""
    resize, crop = steps.pop("CustomRandomResize", None), steps.pop("CustomRandomCrop", None)
    evaluation = evaluated.pop("CustomRandomResize", None)
    size = evaluation["min_size"].number() if evaluation else None
    if evaluation and size:
        evaluation.skip("max_size")
        draft.differ("masks-scaled", "data")
    if resize:
        low, high = resize["min_size"].number(), resize["max_size"].number(resize["min_size"].number())
        base = size or round(high / 2)
        data["size"] = base
        scale = [number(round(low / base, 3)), number(round(high / base, 3))]
        if any(abs(ours - theirs) > 0.01 for ours, theirs in zip(scale, (0.5, 2.0), strict=True)):
            data["scale"] = scale
    if crop:
        data["crop"] = crop["size"].plain()
    if size:
        data["eval_size"] = size


def translate_detection(draft: Draft, root: Node, train: Split | None, val: Split | None) -> None:
    """``data`` of object detection."""
    split = train or val
    if split is None:
        return
    data = draft.config.setdefault("data", {})
    data |= {"name": "coco2017", "root": path_of(split.root)}
    flip = train.options["flip"] if train else 0
    if flip != 0.5:
        data["augment"] = [{"op": "flip", "p": flip}] if flip else "none"
    for part in (train, val):
        for name, _ in part.transforms if part else []:
            split.node.fail(f"the transform {name} cannot be translated")


def translate_texts(draft: Draft, root: Node) -> str:
    """``data`` of text classification; what kind of problem it is."""
    node = root["datasets"]
    if node.call() is not None:
        return _hub_texts(draft, root)
    tasks = [name for name in node.names() if "raw_data_kwargs" in node[name]]
    names = {name: node[name]["name"].text() or node[name]["key"].text() for name in tasks}
    for name in tasks:
        files = node[name]["raw_data_kwargs"]
        for key in files.names():
            if files[key]:
                files[key].fail(
                    "files of your own cannot be translated", "write `data: {files: ...}`, see docs/glue.md"
                )
        node[name].skip("dataset_id_map", "base_split_name", "key")
    chosen = next((name for name in tasks if names[name] in GLUE), None)
    if chosen is None:
        node.fail("there is no task of GLUE", f"the tasks are: {', '.join(GLUE)}")
        return ""
    data = draft.config.setdefault("data", {})
    data["name"] = names[chosen]
    options = node[chosen]
    if options["max_length"].number(128) != 128:
        data["max_length"] = options["max_length"].number()
    if options["pad_to_max_length"].flag():
        draft.config.setdefault("_padding", "max_length")
    return "regression" if names[chosen] == "stsb" else "single_label_classification"


def _hub_texts(draft: Draft, root: Node) -> str:
    """A data set of the hub, by its name there."""
    call = root["datasets"].call()
    if call is None:
        return ""
    kwargs, options = call[1], root["preprocess"]
    kwargs.skip("trust_remote_code")
    name, subset = kwargs["path"].text(), kwargs["name"].text()
    options.skip("base_split_name", "batched", "try_original_type", "dataset_id_map")
    texts, label = options["text_keys"].plain(), options["label_key"].text("label")
    data = draft.config.setdefault("data", {})
    data |= {"hub": name, **({"subset": subset} if subset else {}), "text": texts[0] if len(texts) == 1 else texts}
    data["label"] = label
    if options["max_length"].number(128) != 128:
        data["max_length"] = options["max_length"].number()
    if options["pad_to_max_length"].flag():
        draft.config.setdefault("_padding", "max_length")
    problem = root["models"]["student_model"]["config_kwargs"]["problem_type"].text("single_label_classification")
    data["problem"] = problem
    root.skip("metrics", "evaluate")
    return problem
