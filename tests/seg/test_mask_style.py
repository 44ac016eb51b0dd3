"""Predicted masks are written as those that a student learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_seg.cli import main
from kd_seg.mask_style import FILE, MaskStyle, read_style

COLOURS = ((10, 20, 30), (200, 0, 0), (0, 160, 60))
CONFIG = """
task: semantic_segmentation
data:
  root: data
  folders: {{train: {{images: images, masks: masks}}, val: {{images: images, masks: masks}}}}
  classes: [ground, disc]
  values: {values}
  void: []
  size: 16
  crop: 16
  workers: 0
models:
  student: {{arch: unet, width: 2, depth: 2}}
stages:
  train:
    epochs: 1
    batch_size: 4
    losses: {{ce: {{loss: cross_entropy}}}}
    optimizer: !call:torch.optim.SGD {{lr: 0.05}}
"""


def train(folder: Path, values: list[int], palette: bool) -> Path:
    for name in ("images", "masks"):
        (folder / "data" / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f"data/images/{number}.png")
        mask = Image.fromarray(np.array(values, np.uint8)[rng.integers(0, 2, (20, 24))])
        if palette:
            mask.putpalette(bytes(part for colour in COLOURS for part in colour))
        mask.save(folder / f"data/masks/{number}.png")
    (folder / "config.yaml").write_text(CONFIG.format(values=values))
    Experiment.load(folder / "config.yaml").train(folder / "run")
    done = CliRunner().invoke(
        main, ["predict", str(folder / "run"), str(folder / "data/images/0.png"), "--out", str(folder / "out")]
    )
    assert done.exit_code == 0, done.output
    return folder / "out" / "0_mask.png"


@pytest.mark.parametrize(
    ("values", "palette", "mode"), [([0, 2], True, "P"), ([0, 255], False, "L"), ([0, 1], False, "P")]
)
def test_masks_have_the_values_and_colours_that_were_learned(
    values: list[int], palette: bool, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Image.open(train(tmp_path, values, palette)) as picture:
        assert picture.mode == mode
        assert set(np.unique(np.asarray(picture)).tolist()) <= set(values)
        if palette:
            assert picture.getpalette("RGB")[:9] == [part for colour in COLOURS for part in colour]
    assert (tmp_path / "run" / "student" / FILE).exists() == (values != [0, 1])


def test_a_style_is_kept_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    assert read_style(tmp_path) is None
    style = MaskStyle((0, 300), None)
    style.save(tmp_path)
    assert read_style(tmp_path) == style
    assert np.asarray(style.picture(np.array([[0, 1]]))).tolist() == [[0, 300]]
    for damaged in (
        "",
        "[]",
        '{"values": [], "palette": null}',
        '{"values": [-1], "palette": null}',
        '{"values": [1]}',
    ):
        (tmp_path / FILE).write_text(damaged)
        with pytest.raises(KDError, match=r"masks.json is damaged"):
            read_style(tmp_path)
    (tmp_path / FILE).write_text('{"values": [1], "palette": [[1, 2]]}')
    with pytest.raises(KDError, match=r"masks.json is damaged"):
        read_style(tmp_path)
