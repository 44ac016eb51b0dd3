"""Published weights, put where the download would put them, scored beside their published figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from kd_core.models.registry import MODELS, find_card
from kd_seg.cli import main


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")


def kd_seg(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def put(name: str, **values: bool) -> dict[str, torch.Tensor]:
    """Random weights in the place of published ones, as torchdistill's script saves them."""
    _, card = find_card(name, None)
    path = Path("torch/hub/checkpoints") / card.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    state = MODELS.get(card.arch)(num_classes=21, **values).state_dict()
    torch.save({"model": state, "epoch": 30}, path)
    return dict(state)


@pytest.mark.realdata
def test_published_weights_are_scored(real_data: Path) -> None:
    put("lraspp-mobilenet-v3-large-ktaad")
    root = real_data / "coco2017_subset"
    options = ("--root", root, "--set", "data.limit={val: 3}", "--set", "data.workers=0", "--json")
    done = kd_seg("eval", "--zoo", "lraspp-mobilenet-v3-large-ktaad", *options)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["published"] == {"miou": 58.2, "pixel_accuracy": 92.1}
    assert (found["samples"], found["split"]) == (3, "validation")
    assert 0 <= found["metrics"]["miou"] < 20


@pytest.mark.realdata
def test_weights_with_an_auxiliary_head_are_scored_without_it(real_data: Path) -> None:
    put("deeplabv3-resnet50", aux_loss=True)
    root = real_data / "voc2012_subset"
    options = ("--root", root, "--set", "data.limit={val: 1}", "--set", "data.eval_size=96", "--set", "data.workers=0")
    done = kd_seg("eval", "--zoo", "deeplabv3-resnet50", *options)
    assert done.exit_code == 0, done.stderr
    assert "(published: 80.6)" in done.stdout


def test_without_a_network_one_error_says_where_the_file_goes() -> None:
    done = kd_seg("eval", "--zoo", "deeplabv3-resnet101")
    assert done.exit_code == 2
    assert done.stdout == ""
    address, hint = done.stderr.splitlines()
    assert "v0.2.8/pascal_voc2012-deeplabv3_resnet101.pt" in address
    assert hint.strip().startswith("hint: put the file at ")


def test_weights_do_not_load_into_another_number_of_classes() -> None:
    put("lraspp-mobilenet-v3-large-ktaad")
    done = kd_seg("eval", "--zoo", "lraspp-mobilenet-v3-large-ktaad", "--data", "scenes")
    assert done.exit_code == 2
    assert "was trained for num_classes 21 (coco2017), and these data have 6" in done.stderr
