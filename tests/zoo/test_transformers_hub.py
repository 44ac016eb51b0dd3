"""Models of images in transformers, from folders: their weights, classes and inputs, and what a run leaves of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import kd_core
from kd_core.config.schema import ModelSpec
from kd_core.data.batch import DatasetInfo
from kd_core.errors import KDError, Unverified
from kd_core.experiment import Experiment
from kd_core.models.hub import HubModelRequest
from kd_core.notes import Note
from kd_zoo.transformers_hub import ImageHub

transformers = pytest.importorskip("transformers")
HUB, SEG = ImageHub("kd-vision", "image_classification"), ImageHub("kd-seg", "semantic_segmentation")
LAYERS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PATCHES = {**LAYERS, "image_size": 16, "patch_size": 4}
WIDTHS = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
CONFIGS = {
    "ViT": PATCHES,
    "DeiT": PATCHES,
    "Dinov2": PATCHES,
    "ConvNext": WIDTHS,
    "ResNet": {**WIDTHS, "embedding_size": 8},
    "Swin": {
        "image_size": 32,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "window_size": 4,
    },
}
ABC = DatasetInfo(classes=("a", "b", "c"), model_parameters={"num_classes": 3})
PROCESSOR = {"size": {"shortest_edge": 18}, "crop_size": 16, "do_center_crop": True, "resample": 3}
PROCESSOR |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}


def save(
    folder: Path, kind: str, head: str = "ForImageClassification", labels: tuple[str, ...] = tuple("abc"), **more: Any
) -> Any:
    """A tiny model with random weights, as transformers saves it."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**CONFIGS.get(kind, {}), **more})
    config.id2label = dict(enumerate(labels))
    config.label2id = {name: number for number, name in enumerate(labels)}
    model = getattr(transformers, f"{kind}{head}")(config).eval()
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return model


def build(name: Path | str, info: DatasetInfo = ABC, hub: ImageHub = HUB, values: Any = None, **wanted: Any) -> Any:
    return hub.build(HubModelRequest(str(name), info, **{"new_head": False, **wanted}), **(values or {})).eval()


@pytest.mark.parametrize("kind", list(CONFIGS))
def test_a_folders_model_is_what_was_saved(tmp_path: Path, kind: str) -> None:
    side = CONFIGS[kind].get("image_size", 32)
    theirs, images = save(tmp_path, kind), torch.rand(2, 3, side, side)
    ours = build(tmp_path)
    assert torch.equal(ours(images).logits, theirs(images).logits)
    assert ours(images).logits.shape == (2, 3)
    backbone = build(tmp_path, values={"num_classes": 0})
    assert "logits" not in backbone(images)
    with torch.device("meta"):
        assert len(list(build(tmp_path, weights=False, offline=True).parameters())) == len(list(theirs.parameters()))


def test_classes_come_in_the_datas_order(tmp_path: Path) -> None:
    theirs, images = save(tmp_path, "ResNet", labels=("C", "a", "b")), torch.rand(2, 3, 32, 32)
    assert torch.equal(build(tmp_path)(images).logits, theirs(images).logits[:, [1, 2, 0]])
    other = DatasetInfo(classes=("a", "b", "x"), model_parameters={"num_classes": 3})
    with pytest.raises(KDError, match=r"was trained for the classes C, a, b.*\n.*`labels:"):
        build(tmp_path, other)
    notes: list[Note] = []
    build(tmp_path, other, new_head=True, log=notes.append)
    assert "its classes are not those of the data" in str(notes[0])
    named = build(tmp_path, other, values={"labels": ["x", "b", "a"]})
    assert torch.equal(named(images).logits, theirs(images).logits[:, [2, 1, 0]])
    assert named.config.id2label == {0: "a", 1: "b", 2: "x"}


def test_a_teacher_without_a_classifier(tmp_path: Path) -> None:
    save(tmp_path, "Dinov2", "Model")
    with pytest.raises(KDError, match=r"classifier\.bias is missing.*\n.*`new_head: true`.*`num_classes: 0`"):
        build(tmp_path)
    notes: list[Note] = []
    assert build(tmp_path, new_head=True, log=notes.append)(torch.rand(1, 3, 16, 16)).logits.shape == (1, 3)
    assert "new head" in str(notes[0])
    assert build(tmp_path, values={"num_classes": 0})(torch.rand(1, 3, 16, 16)).last_hidden_state.shape == (1, 17, 32)


def test_what_is_no_such_model(tmp_path: Path) -> None:
    save(tmp_path / "resnet", "ResNet")
    with pytest.raises(KDError, match="is a resnet, which segments images in no class of transformers"):
        build(tmp_path / "resnet", hub=SEG)
    with pytest.raises(KDError, match=r"image_size: the weights of .* trained with\n.*weights: null"):
        build(tmp_path / "resnet", values={"image_size": 64})
    with pytest.raises(Unverified, match="me/mine is not on this machine"):
        build("me/mine", weights=False, offline=True)
    (tmp_path / "resnet" / "config.json").write_text("{}")
    with pytest.raises(KDError, match="cannot be built"):
        build(tmp_path / "resnet")


def test_inputs_are_those_of_the_processor(tmp_path: Path) -> None:
    save(tmp_path, "ViT")
    spec = ModelSpec(hub=str(tmp_path))
    assert HUB.input(spec) == {"channels": 3, "mean": [0.5] * 3, "std": [0.2] * 3, "size": 16}
    assert HUB.evaluation(spec) == {"size": 16, "eval_crop": 16 / 18, "interpolation": "bicubic"}
    (tmp_path / "preprocessor_config.json").unlink()
    assert HUB.input(spec) == {"channels": 3, "size": 16}
    notes: list[Note] = []
    build(tmp_path, log=notes.append)
    assert "mean and std are those of the data" in str(notes[-1])


def test_segmentation_models(tmp_path: Path) -> None:
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "decoder_hidden_size": 8}
    more = {**sizes, "num_attention_heads": [1, 1, 2, 2]}
    theirs = save(tmp_path, "Segformer", "ForSemanticSegmentation", ("c", "b", "a"), **more)
    images = torch.rand(2, 3, 32, 32)
    ours = build(tmp_path, hub=SEG)
    assert torch.equal(ours(images).logits, theirs(images).logits[:, [2, 1, 0]])


# -- in configs

CONFIG = """
task: image_classification
data: {name: digits, limit: 40, val: 0}
models:
  student: {timm: test_resnet, pretrained: false, input: {size: 16}}
  teacher: {hub: HUB, attn_implementation: eager}
stages:
  distill:
    steps: 2
    batch_size: 8
    optimizer: !call:torch.optim.SGD {lr: 0.01}
    losses:
      kd: {loss: kd}
      states: {loss: similarity_preserving, student: student.@penultimate, teacher: teacher.@penultimate}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "vit", "ViT", labels=tuple("0123456789"))
    (tmp_path / "a.yaml").write_text(CONFIG.replace("HUB", "vit"))
    return tmp_path / "a.yaml"


def test_a_run_with_a_teacher_and_a_student_of_the_hub(config: Path) -> None:
    experiment = Experiment.load(config, overrides=["models.student={hub: vit}", "stages.distill.losses.kd.weight=2"])
    experiment.check(strict=True)
    result = experiment.train()
    student = kd_core.load(str(result.run))
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    assert student(list(images)).shape == (2, 10)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(student.folder).eval()
    torch.testing.assert_close(theirs(student.preprocess(list(images))).logits, student(list(images)))
    assert Experiment.load(config).check() == []


def test_attention_of_a_hubs_model(config: Path) -> None:
    term = "{loss: attention_mse, student: student.@attentions/0, teacher: teacher.@attentions/1}"
    overrides = ["models.student={init_from: teacher, weights: null}", f"stages.distill.losses.attention={term}"]
    Experiment.load(config, overrides=overrides).check(strict=True)
    with pytest.raises(KDError, match="attn_implementation: eager"):
        Experiment.load(config, overrides=[*overrides, "models.teacher.attn_implementation=sdpa"]).check()
