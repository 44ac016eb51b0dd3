"""``kd-vision eval --zoo``: published weights, where the download puts them, scored beside the published figures."""

from __future__ import annotations

import json
import pickle
import runpy
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch.nn import functional as F

from kd_core.models.registry import MODELS
from kd_core.models.weights import read_state
from kd_vision.cli import main
from kd_zoo.cards import card, weights_path

HERE = Path(__file__).parent
PUT = runpy.run_path(str(HERE / "make_weights.py"))["put"]
RECIPE = runpy.run_path(str(HERE.parent / "golden" / "make_zoo.py"))
IMAGES = 200


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    torch.set_num_threads(1)
    return tmp_path / "hub" / "checkpoints"


def evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["eval", *arguments])


def by_hand(root: Path, state: Path) -> dict[str, float]:
    """top1, top5 and loss on the first test images of CIFAR-10, with torchdistill's normalisation."""
    batch = pickle.loads((root / "cifar-10-batches-py" / "test_batch").read_bytes())
    images = torch.from_numpy(batch["data"].reshape(-1, 3, 32, 32)).float() / 255
    labels = torch.tensor(batch["labels"])
    mean = torch.tensor([0.49139968, 0.48215841, 0.44653091]).reshape(3, 1, 1)
    std = torch.tensor([0.24703223, 0.24348513, 0.26158784]).reshape(3, 1, 1)
    model = MODELS.get("resnet20")().eval()
    model.load_state_dict({name.removeprefix("module."): value for name, value in read_state(state).items()})
    with torch.no_grad():
        logits = model((images - mean) / std)
    best = logits.topk(5).indices == labels[:, None]
    top1, top5 = (100 * hits.float().mean().item() for hits in (best[:, 0], best.any(1)))
    return {"top1": top1, "top5": top5, "loss": F.cross_entropy(logits, labels).item()}


@pytest.fixture
def small_cifar(real_data: Path, tmp_path: Path) -> Path:
    """The CIFAR-10 subset, its test images cut down to the first few."""
    root = tmp_path / "data"
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for file in (real_data / "cifar10" / "cifar-10-batches-py").iterdir():
        content = pickle.loads(file.read_bytes())
        few = {key: value[:IMAGES] if key in ("data", "labels") else value for key, value in content.items()}
        (folder / file.name).write_bytes(pickle.dumps(few))
    return root


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "layout"),
    [("resnet20", "plain"), ("cifar10-resnet20", "checkpoint"), ("resnet20", "parallel")],
)
def test_published_weights_are_scored_beside_the_published_figures(
    small_cifar: Path, cache: Path, name: str, layout: str
) -> None:
    model = MODELS.get("resnet20")().eval()
    with torch.no_grad():
        RECIPE["fill"](model)
    assert PUT(name, model.state_dict(), layout) == cache / "cifar10-resnet20.pt"
    done = evaluate("--zoo", name, "--root", str(small_cifar), "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert {key: told["metrics"][key] for key in ("top1", "top5", "loss")} == pytest.approx(
        by_hand(small_cifar, cache / "cifar10-resnet20.pt"), rel=1e-5
    )
    assert told["published"] == {"top1": 91.92, "top1_original": 91.25}
    assert told["samples"] == IMAGES
    assert "2310.17644" in told["source"]


@pytest.mark.realdata
@pytest.mark.parametrize("depth", [20, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (32, 44, 56))])
def test_akamasters_published_weights_score_as_published(
    real_data: Path, small_cifar: Path, cache: Path, depth: int
) -> None:
    """The files themselves: of a few images, nearly as many are right as of all."""
    name = f"akamaster-resnet{depth}"
    path = weights_path(card(name))
    if not (published := real_data / "weights" / "akamaster" / path.name).is_file():
        pytest.skip(f"there is no {published}")
    cache.mkdir(parents=True)
    path.write_bytes(published.read_bytes())
    told = json.loads(evaluate("--zoo", name, "--root", str(small_cifar), "--json").stdout)
    assert told["metrics"]["top1"] == pytest.approx(told["published"]["top1"], abs=3)


@pytest.mark.realdata
def test_the_figures_stand_in_one_line(small_cifar: Path) -> None:
    PUT("resnet20")
    done = evaluate("--zoo", "resnet20", "--root", str(small_cifar), "--data", "cifar10")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["top1", "top5", "loss", "ece", "samples"]
    assert lines[0].endswith("(published: 91.92, original paper: 91.25)")


@pytest.mark.realdata
def test_the_data_may_come_from_a_config(small_cifar: Path, tmp_path: Path) -> None:
    PUT("resnet20")
    config = tmp_path / "x.yaml"
    config.write_text("task: image_classification\ndata: {name: cifar10}\nmodels: {student: {arch: resnet56}}\n")
    done = evaluate(str(config), "--zoo", "resnet20", "--root", str(small_cifar), "--json")
    assert json.loads(done.stdout)["published"]["top1"] == 91.92


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["resnet20"], "cifar10-resnet20.pt"),
        (["wide_resnet28_10", "--data", "cifar100"], "cifar100-wide_resnet28_10.pt"),
        (["cifar100-wrn-28-10"], "cifar100-wide_resnet28_10.pt"),
        (["densenet-bc-k12-d100", "--set", "data.name=cifar100"], "cifar100-densenet_bc_k12_depth100.pt"),
        (["resnet18-kr"], "ilsvrc2012-resnet18_from_resnet34.pt"),
    ],
)
def test_without_a_network_one_error_says_where_the_file_goes(arguments: list[str], file: str, cache: Path) -> None:
    done = evaluate("--zoo", *arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    address, hint = done.stderr.splitlines()
    assert address.startswith("cannot download https://github.com/")
    assert file in address
    assert hint.strip() == f"hint: put the file at {cache / file} by hand"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["resnet1202"], "no weights 'resnet1202' were published for any data set"),
        (["resnet20", "--data", "cifar100"], "only for cifar10"),
        (["deeplabv3-resnet50"], "there is no data set 'voc2012'"),
        (["resnet20", "--set", "models.student.weights=null"], "random weights"),
    ],
)
def test_there_are_never_random_weights(arguments: list[str], says: str) -> None:
    done = evaluate("--zoo", *arguments)
    assert done.exit_code == 2
    assert says in done.stderr


def test_weights_for_other_classes_are_refused() -> None:
    PUT("cifar10-resnet20")
    done = evaluate("--zoo", "cifar10-resnet20", "--data", "digits", "--set", "data.classes=['1', '7']")
    assert done.exit_code == 2
    assert "resnet20 was trained for num_classes 10 (cifar10), and these data have 2" in done.stderr


def test_a_file_of_another_model_is_refused() -> None:
    PUT("resnet20", MODELS.get("resnet32")().state_dict())
    done = evaluate("--zoo", "cifar10-resnet20", "--data", "digits")
    assert done.exit_code == 2
    assert "cifar10-resnet20.pt does not fit CifarResNet: layer1.3.conv1.weight is not in the model" in done.stderr


def test_a_damaged_file_is_told_from_a_missing_one(cache: Path) -> None:
    path = PUT("resnet20")
    assert path == weights_path(card("resnet20"))
    path.write_bytes(path.read_bytes()[:1000])
    done = evaluate("--zoo", "cifar10-resnet20", "--data", "digits")
    assert done.exit_code == 2
    assert f"{path} is not a readable weight file" in done.stderr
