"""Models of timm by name, from a folder and from the hub's cache, and what a run leaves of one."""

from __future__ import annotations

import builtins
import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import save_file

import kd_core
from kd_core.config import load
from kd_core.config.schema import ModelSpec
from kd_core.data.batch import DatasetInfo
from kd_core.errors import KDError, Unverified
from kd_core.experiment import Experiment
from kd_core.models.hub import HubModelRequest
from kd_core.notes import Note
from kd_vision.cli import main
from kd_zoo.timm_hub import TimmHub

timm = pytest.importorskip("timm")
HUB = TimmHub("kd-vision")
TEN, THREE = (DatasetInfo(model_parameters={"num_classes": count}) for count in (10, 3))
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def build(name: str | Path, info: DatasetInfo = TEN, values: dict[str, Any] | None = None, **wanted: Any) -> Any:
    return HUB.build(HubModelRequest(str(name), info, **{"new_head": False, **wanted}), **(values or {}))


def save(folder: Path, arch: str = "test_resnet", num_classes: int = 10, **told: Any) -> Any:
    """A model in timm's format in ``folder``."""
    torch.manual_seed(1)
    model = timm.create_model(arch, num_classes=num_classes).eval()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    plain = {key: value for key, value in model.pretrained_cfg.items() if key not in ("state_dict", "file")}
    config = {"architecture": arch, "num_classes": num_classes, "pretrained_cfg": {**plain, **told}}
    (folder / "config.json").write_text(json.dumps(config))
    return model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no network."""

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def place(cache: Path, name: str, **values: Any) -> Any:
    """A model of the hub in its cache."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return save(repository / "snapshots" / COMMIT, **values)


def test_a_folders_weights_are_those_that_were_saved(tmp_path: Path) -> None:
    theirs, images = save(tmp_path / "mine"), torch.rand(2, 3, 32, 32)
    assert torch.equal(build(tmp_path / "mine").eval()(images), theirs(images))


def test_a_name_is_read_from_the_hubs_cache(cache: Path) -> None:
    theirs, images = place(cache, "timm/test_resnet.r160_in1k", num_classes=1000), torch.rand(2, 3, 32, 32)
    notes: list[Note] = []
    ours = build("test_resnet.r160_in1k", DatasetInfo()).eval()
    assert torch.equal(ours(images), theirs(images))
    student = build("test_resnet", new_head=True, log=notes.append).eval()
    assert torch.equal(student.forward_features(images), theirs.forward_features(images))
    assert student(images).shape == (2, 10)
    assert [str(note) for note in notes] == ["new head: the classifier begins at random"]
    spec = ModelSpec(timm="test_resnet")
    assert HUB.revisions({"student": spec}, None) == [f"models.student.revision={COMMIT}"]
    assert (
        HUB.revisions({"student": ModelSpec(timm="test_resnet", weights=None), "other": ModelSpec(arch="cnn")}, 0) == []
    )


def test_weights_are_adapted_as_timm_does(tmp_path: Path) -> None:
    theirs = save(tmp_path / "mine", "test_vit")
    grey = build(tmp_path / "mine", values={"in_chans": 1, "img_size": 64})
    torch.testing.assert_close(grey.patch_embed.proj.weight, theirs.patch_embed.proj.weight.sum(1, keepdim=True))
    assert grey(torch.rand(2, 1, 64, 64)).shape == (2, 10)


def test_random_weights_open_no_file(cache: Path) -> None:
    model = build("test_resnet", THREE, {"drop_path_rate": 0.1}, weights=False)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    with torch.device("meta"):
        assert build("vit_tiny_patch16_224", THREE, offline=True).head.out_features == 3
    with pytest.raises(Unverified, match="me/mine is not on this machine"):
        build("hf-hub:me/mine", THREE, offline=True)


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("test_resnt", {}, r"timm has no model 'test_resnt'\n.*did you mean 'test_resnet'"),
        ("test_resnet.r160_in2k", {}, r"timm has no weights 'r160_in2k' of test_resnet\n.*'r160_in1k'"),
        ("test_resnet", {"drop_rat": 0.1}, r"drop_rat: timm's test_resnet has no parameter 'drop_rat'\n.*'drop_rate'"),
        ("test_resnet", {"checkpoint_path": "x"}, "has no parameter 'checkpoint_path'"),
        ("test_resnet", {"global_pool": "token"}, "test_resnet cannot be built"),
        ("test_resnet", {}, r"timm/test_resnet\.r160_in1k is not on this machine.*\n.*write `timm: FOLDER`"),
        ("me/mine", {}, r"me/mine is not on this machine"),
        ("somewhere/else/mine", {}, "is neither a folder nor a name on the hub"),
    ],
)
def test_what_is_no_model_is_one_error(cache: Path, name: str, values: dict[str, Any], told: str) -> None:
    with pytest.raises(KDError, match=told):
        build(name, values=values, new_head=True, weights="drop" not in str(values) and "global" not in str(values))


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    save(tmp_path / "mine")
    with pytest.raises(KDError, match=r"was trained for 10 classes, and 3 are wanted\n.*new_head: true"):
        build(tmp_path / "mine", THREE)
    assert build(tmp_path / "mine", THREE, {"num_classes": 10}).fc.out_features == 10
    assert build(tmp_path / "mine", THREE, {"num_classes": 0}).eval()(torch.rand(1, 3, 32, 32)).shape == (1, 96)
    state = timm.create_model("test_resnet", num_classes=10).state_dict()
    save_file({key: value for key, value in state.items() if "layer1" not in key}, tmp_path / "mine/model.safetensors")
    with pytest.raises(KDError, match="cannot be built"):
        build(tmp_path / "mine")
    (tmp_path / "mine" / "model.safetensors").unlink()
    with pytest.raises(KDError, match=r"has no weights: there is no model\.safetensors"):
        build(tmp_path / "mine")
    (tmp_path / "mine" / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(KDError, match=r"is not in timm's format.*\n.*`hub:`"):
        build(tmp_path / "mine")
    (tmp_path / "mine" / "config.json").write_text(
        '{"architecture": "test_resnet", "model_args": {"pretrained": true}}'
    )
    with pytest.raises(KDError, match="has no parameter 'pretrained'"):
        build(tmp_path / "mine")


def test_a_teachers_classes_are_in_the_datas_order(tmp_path: Path) -> None:
    save(tmp_path / "mine", num_classes=3, label_names=["a", "b", "c"])
    info = DatasetInfo(classes=("a", "c", "b"), model_parameters={"num_classes": 3})
    with pytest.raises(KDError, match="the same in another order"):
        build(tmp_path / "mine", info)
    build(tmp_path / "mine", DatasetInfo(classes=("a", "b", "c"), model_parameters={"num_classes": 3}))


def test_the_library_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "timm":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(KDError, match=r"models of timm need the package timm\n.*pip install 'kd-vision\[timm\]'"):
        build("test_resnet")


def test_inputs_and_evaluation_are_those_of_the_weights() -> None:
    assert HUB.input(ModelSpec(timm="resnet18.a1_in1k")) == {
        "channels": 3,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert HUB.evaluation(ModelSpec(timm="resnet18.a1_in1k")) == {
        "size": 224,
        "eval_crop": 224 / 235,
        "interpolation": "bicubic",
    }
    assert HUB.input(ModelSpec(timm="vit_tiny_patch16_224"))["size"] == 224
    assert HUB.input(ModelSpec(timm="vit_tiny_patch16_224", img_size=[64, 96], in_chans=1))["size"] == [64, 96]


# -- in configs

CONFIG = """
task: image_classification
data: {name: digits, limit: 40, val: 0}
models:
  student: {timm: test_resnet, pretrained: false, drop_rate: 0.1, input: {size: 32}}
  teacher: {timm: MINE, input: {size: 32}}
stages:
  distill:
    steps: 2
    batch_size: 8
    optimizer: !call:torch.optim.SGD {lr: 0.01}
    losses: {kd: {loss: kd}, hint: {loss: mse, student: student.@features/1, teacher: teacher.@features/1}}
"""


def test_a_run_leaves_a_student_that_loads_without_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "models" / "mine")
    (tmp_path / "a.yaml").write_text(CONFIG.replace("MINE", "models/mine"))
    experiment = Experiment.load("a.yaml", overrides=["models.student={timm: models/mine, input: {size: 32}}"])
    experiment.check(strict=True)
    result = experiment.train()
    described = load(Path(str(result.run)) / "student" / "model.yaml").data
    assert (described["timm"], described["num_classes"], "hub" in described) == ("test_resnet", 10, False)
    (tmp_path / "models" / "mine" / "config.json").unlink()
    student = kd_core.load(str(result.run))
    image = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8)
    assert student(image).shape == (1, 10)
    again = Experiment.load("a.yaml", overrides=[f"models.teacher={{run: {result.run}}}"])
    again.check(strict=True)


OTHER = "models.teacher={arch: cnn, weights: null}"


def test_pretrained_is_a_word_for_weights(tmp_path: Path) -> None:
    assert ModelSpec.model_validate({"timm": "resnet18", "pretrained": False}).model_fields_set == {"timm", "weights"}
    assert ModelSpec.model_validate({"timm": "resnet18", "pretrained": True}).model_fields_set == {"timm"}
    for wrong in ("{timm: test_resnet, pretrained: 1}", "{timm: test_resnet, pretrained: true, weights: null}"):
        (tmp_path / "a.yaml").write_text(CONFIG)
        with pytest.raises(KDError, match=r"models\.student\.pretrained: "):
            Experiment.load(tmp_path / "a.yaml", overrides=[f"models.student={wrong}", OTHER])


def images(folder: Path, classes: Sequence[str] = ("a", "b")) -> None:
    """An image of each class in each split."""
    torch.manual_seed(0)
    for name in classes:
        for split in ("train", "val", "test"):
            (folder / split / name).mkdir(parents=True)
            pixels = torch.randint(0, 256, (200, 300, 3), dtype=torch.uint8).numpy()
            Image.fromarray(pixels).save(folder / split / name / "1.png")


def test_images_are_evaluated_as_timm_evaluates_them(tmp_path: Path) -> None:
    images(tmp_path / "images")
    config = CONFIG.replace("name: digits, limit: 40, val: 0", f"name: image_folder, root: {tmp_path / 'images'}")
    config = config.replace(", input: {size: 32}", "").replace("MINE", "test_vit, weights: null")
    (tmp_path / "a.yaml").write_text(config.replace("test_resnet", "test_vit", 1))
    plan = Experiment.load(tmp_path / "a.yaml").plan
    told = plan.data.size, plan.data.interpolation, plan.task.preprocessing(plan.data)["interpolation"]
    assert told == (160, "bicubic", "bicubic")
    assert plan.inputs["teacher"].size == 160
    splits = plan.task.load(plan.data, seed=0)
    batch = next(iter(splits.test.batches([torch.arange(2)], epoch=0, seed=0, augment=False)))
    ours = plan.task.prepare(batch, {"": plan.inputs["student"]}, plan.data, training=False).inputs[""]
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=timm.create_model("test_vit")))
    theirs = [transform(Image.open(tmp_path / "images" / "test" / name / "1.png")) for name in ("a", "b")]
    torch.testing.assert_close(ours, torch.stack(theirs))
    chosen = Experiment.load(tmp_path / "a.yaml", overrides=["data.size=96", "data.interpolation=bilinear"]).plan.data
    assert (chosen.size, chosen.interpolation) == (96, "bilinear")


def evaluated(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments), "--json"])


def test_a_model_of_timm_is_scored_without_a_config(tmp_path: Path) -> None:
    images(tmp_path / "images", "abc")
    model = save(tmp_path / "mine", num_classes=3)
    done = evaluated("--timm", tmp_path / "mine", "--data", "image_folder", "--root", tmp_path / "images")
    assert done.exit_code == 0, done.stderr
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    theirs = torch.stack([transform(Image.open(tmp_path / "images" / "test" / name / "1.png")) for name in "abc"])
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model.eval()(theirs), torch.arange(3))
    assert json.loads(done.stdout)["metrics"]["loss"] == pytest.approx(loss.item(), rel=1e-4)
    done = evaluated("--timm", tmp_path / "mine")
    assert done.exit_code == 2
    assert "does not say on which data it is to be scored" in done.stderr
    assert "--zoo and --timm name two models" in evaluated("--timm", "a", "--zoo", "b").stderr
