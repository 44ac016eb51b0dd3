"""A student without anything that it was made from: teacher, pretrained model, config, data and folder are gone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from PIL import Image
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import BertProcessing

import kd_core
from kd_core.data.batch import STUDENT
from kd_core.errors import KDError
from kd_core.evaluation import evaluate, load_student
from kd_core.experiment import Experiment

CLASSES = ("bright", "dark")
IMAGES = """
task: image_classification
data: {{name: image_folder, root: {root}, size: [8, 6], workers: 0, augment: none, val: 0, mean: [0.4], std: [0.3]}}
models:
  student: {{arch: cnn, width: 4, depth: 1, in_channels: 3}}
"""
DIGITS = """
task: image_classification
data: {{name: digits, limit: 100, augment: none}}
models:
  student: {{arch: cnn, width: 4, depth: 2, input: {{size: 12}}}}
"""
MASKS = """
task: semantic_segmentation
data:
  name: folders
  root: {root}
  folders:
    train: {{images: train/images, masks: train/masks}}
    val: {{images: val/images, masks: val/masks}}
  classes: [far, near]
  size: 12
  crop: 12
  eval_size: 10
  workers: 0
models:
  student: {{arch: unet, width: 3, depth: 1}}
"""
TEXTS = """
task: text_classification
data: {{files: {{train: {root}/train.csv, val: {root}/val.csv}}, text: text, label: label, max_length: 7}}
models:
  student: {student}
"""
OWN = """
import torch
class Bag(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.rows = torch.nn.Embedding(10, num_classes)
    def forward(self, input_ids, attention_mask):
        return (self.rows(input_ids) * attention_mask[..., None]).sum(1)
"""
REST = """
stages:
  train:
    epochs: 1
    batch_size: 4
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
"""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    torch.set_num_threads(1)
    (tmp_path / "made" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "made")


def distilled(text: str, *overrides: str, **values: Any) -> Path:
    """The folder of a student distilled from another run, both in the working folder, with the data in ``data``."""
    made = Path.cwd()
    (made / "config.yaml").write_text(text.format(root=made / "data", **values) + REST)
    trust = ["own"] if values.get("trust") else []
    Experiment.load(made / "config.yaml", overrides=overrides, trust=trust).train(made / "teacher")
    taught = [f"models.teacher={{run: {made}/teacher}}", "stages.train.losses.kd={loss: kd}"]
    Experiment.load(made / "config.yaml", overrides=[*overrides, *taught], trust=trust).train(made / "run")
    return made / "run"


def evaluation_inputs(run: Path, trust: Sequence[str] = ()) -> list[Any]:
    """What evaluation gives the student in each batch of the split that it is scored on."""
    with load_student(run, trust=trust) as student:
        data, splits = student.read()
        assert splits.final is not None
        split, task, wants = splits.final[1], student.plan.task, {STUDENT: student.plan.inputs[STUDENT]}
        order = split.arrange(torch.arange(len(split)), student.batch_size).split(student.batch_size)
        batches = split.batches(order, epoch=0, seed=0, augment=False)
        return [task.prepare(raw, wants, data, training=False) for raw in batches]


def moved(run: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The run and its data in other folders; the teacher, the pretrained model, the config and all caches are gone."""
    above = run.parent.parent
    run, data = run.rename(above / "elsewhere"), (run.parent / "data").rename(above / "data")
    monkeypatch.chdir(above)
    for gone in (data / "pretrained", above / "made", above / "datasets"):
        shutil.rmtree(gone, ignore_errors=True)
    return run, data


def by_itself(run: Path) -> Path:
    """The student's folder in another place, the run gone."""
    student = (run / "student").rename(run.parent / "alone")
    shutil.rmtree(run)
    return student


def metrics_of(run: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((run / "result.json").read_text())["metrics"]
    return found


def write_images(folder: Path) -> list[Path]:
    """Images of two classes and several sizes, with a mask for each in another folder; those of the test split."""
    for number, name in enumerate(CLASSES):
        for split in ("train", "test"):
            (folder / split / name).mkdir(parents=True)
            for row in range(4):
                pixels = np.random.default_rng(10 * number + row).integers(0, 120, (9 + row, 14, 3)) + 130 * number
                Image.fromarray(pixels.astype(np.uint8)).save(folder / split / name / f"{row}.png")
    return [folder / "test" / name / f"{row}.png" for name in CLASSES for row in range(4)]


def test_images_in_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(Path.cwd() / "data")
    run = distilled(IMAGES)
    expected, metrics = evaluation_inputs(run), metrics_of(run)
    run, data = moved(run, monkeypatch)
    assert evaluate(run, root=data).metrics == metrics
    student = kd_core.load(run)
    assert student.classes == CLASSES
    files = [data / "test" / name / f"{row}.png" for name in CLASSES for row in range(4)]
    together = torch.cat([batch.inputs[""] for batch in expected])
    assert torch.equal(student.preprocess(files), together)
    assert torch.equal(student.preprocess(str(files[0])), together[:1])
    assert torch.equal(student.preprocess([Image.open(file) for file in files[:2]]), together[:2])
    logits = student(files)
    again = kd_core.load(by_itself(run))
    assert torch.equal(again(files), logits)
    with pytest.raises(KDError, match=r"it holds a student alone: `eval CONFIG --set 'models\.student="):
        evaluate(again.folder)
    assert again.lineage["models"]["teacher"]["run"] == "teacher"
    assert again.lineage["models"]["teacher"]["lineage"]["student"]["arch"] == "cnn"
    assert str(data.parent) not in (again.folder / "lineage.json").read_text()


def test_images_in_memory_with_a_borrowed_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = "{call: &teacher !call:kd_vision.models.Cnn {width: 4, depth: 2, num_classes: !run num_classes}}"
    edit = "{replace: fc, with: !getattr:fc [*teacher]}"
    text = DIGITS.replace("models:", f"models:\n  giver: {teacher.replace('{', '{{').replace('}', '}}')}")
    text = text.replace("depth: 2, input", f"depth: 2, edit: [{edit.replace('{', '{{').replace('}', '}}')}], input")
    run = distilled(text)
    [expected], metrics = evaluation_inputs(run, ["own"])[:1], metrics_of(run)
    rows = torch.arange(4)
    with load_student(run) as loaded:
        split = loaded.read()[1].test
        assert split is not None
        raw = next(iter(split.batches([rows], epoch=0, seed=0, augment=False))).inputs[""]
    run, _ = moved(run, monkeypatch)
    assert evaluate(run).metrics == metrics
    assert "!getattr" not in (run / "student" / "model.yaml").read_text()
    student = kd_core.load(by_itself(run))
    assert torch.equal(student.preprocess(raw), expected.inputs[""][:4])
    assert torch.equal(student.preprocess(raw[0]), expected.inputs[""][:1])
    grey = Image.fromarray(raw[1, 0].numpy())
    assert torch.equal(student.preprocess(grey), expected.inputs[""][1:2])
    assert student.preprocess(Image.new("RGB", (30, 20))).shape == (1, 1, 12, 12)


def test_photos_and_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path.cwd() / "data"
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for row in range(4):
            near = np.random.default_rng(row).integers(0, 2, (14 + row, 18))
            Image.fromarray((near * 200).astype(np.uint8)).convert("RGB").save(root / split / "images" / f"{row}.png")
            Image.fromarray(near.astype(np.uint8)).save(root / split / "masks" / f"{row}.png")
    run = distilled(MASKS)
    expected, metrics = evaluation_inputs(run), metrics_of(run)
    run, data = moved(run, monkeypatch)
    assert evaluate(run, root=data).metrics == metrics
    student = kd_core.load(by_itself(run))
    assert student.classes == ("far", "near")
    for row, batch in enumerate(expected):
        file = data / "val" / "images" / f"{row}.png"
        assert torch.equal(student.preprocess(file), batch.inputs[""])
        assert student(np.array(Image.open(file)))["out"].shape == (1, 2, *batch.inputs[""].shape[-2:])


def write_texts(folder: Path) -> list[str]:
    """Two tables of texts, and a pretrained model with its tokenizer; the texts of the validation table."""
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(**sizes, vocab_size=9, max_position_embeddings=16)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "pretrained")
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film")
    words = tokenizers.Tokenizer(WordLevel({name: row for row, name in enumerate(names)}, unk_token="[UNK]"))
    words.pre_tokenizer, words.post_processor = Whitespace(), BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=16, **special)
    fast.save_pretrained(folder / "pretrained")
    texts = ["good film", "bad", "good good good film film film film", "bad film bad"]
    rows = "".join(f'"{text}",{"positive" if "good" in text else "negative"}\n' for text in texts)
    for split in ("train", "val"):
        (folder / f"{split}.csv").write_text(f"text,label\n{rows}")
    return texts


@pytest.mark.parametrize("edit", ["", ", edit: [{{replace: dropout, with: !call:torch.nn.Identity {{}}}}]"])
def test_texts_with_a_pretrained_model(monkeypatch: pytest.MonkeyPatch, edit: str) -> None:
    texts = write_texts(Path.cwd() / "data")
    hub = f"{{hub: {Path.cwd()}/data/pretrained, new_head: true{edit.replace('{{', '{').replace('}}', '}')}}}"
    run = distilled(TEXTS, student=hub)
    [expected], metrics = evaluation_inputs(run), metrics_of(run)
    run, data = moved(run, monkeypatch)
    files = f"data.files={{train: {data}/train.csv, val: {data}/val.csv}}"
    assert evaluate(run, overrides=[files]).metrics == metrics
    student = kd_core.load(run)
    assert student.classes == ("negative", "positive")
    inputs = student.preprocess([texts[row] for row in expected.index.tolist()])
    wanted = expected.for_model(STUDENT)
    assert {"input_ids", "attention_mask"} <= inputs.keys() <= wanted.keys()
    assert all(torch.equal(inputs[name], wanted[name]) for name in inputs)
    logits = student(texts)["logits"]
    again = kd_core.load(by_itself(run))
    assert torch.equal(again(texts)["logits"], logits)
    assert torch.equal(again(texts[1])["logits"], again([texts[1]])["logits"])
    assert again.preprocess(("good", "film"))["input_ids"].tolist() == [[2, 4, 3, 6, 3, 0]]


def test_code_of_the_user_is_run_only_where_it_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = write_texts(Path.cwd() / "data")
    Path("own.py").write_text(OWN)
    tokenizer = f"input: {{tokenizer: {Path.cwd()}/data/pretrained}}"
    bag = f"{{call: !call:own.Bag {{num_classes: !run num_classes}}, {tokenizer}}}"
    run = distilled(TEXTS, student=bag, trust=True)
    above = Path.cwd().parent
    shutil.copy("own.py", above)
    run, _ = moved(run, monkeypatch)
    folder = by_itself(run)
    with pytest.raises(KDError, match=r"(?s)own\.Bag is blocked.*--trust own"):
        kd_core.load(folder)
    assert kd_core.load(folder, trust=["own"])(texts)["logits"].shape == (4, 2)


def test_a_folder_without_a_student_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KDError, match="is not a run folder: there is no"):
        kd_core.load(tmp_path)
