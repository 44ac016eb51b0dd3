"""Wrong configs of every kind: each mistake is answered at its line and column with what is wrong and the mend."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_vision.cli import main

from .problem_rows import BASE, DATA, SGD, SYSTEM, TASK, TEACHER, Row, config
from .problem_stage_rows import ROWS


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def written(old: str, new: str) -> tuple[str, list[str]]:
    """Writes BASE with a replacement; the file, and the places ``FILE:LINE:COLUMN`` that are marked."""
    text, places = config(old, new)
    Path("wrong.yaml").write_text(text, encoding="utf-8")
    return "wrong.yaml", [f"wrong.yaml:{place}" for place in places]


def test_the_table_is_long_and_its_base_is_sound() -> None:
    assert len(ROWS) >= 150
    assert Experiment.load(written(TASK, TASK)[0]).check(strict=True) == []


@pytest.mark.parametrize("row", ROWS, ids=[f"{number}-{row[2][0][0]}" for number, row in enumerate(ROWS)])
def test_each_mistake_is_answered_at_its_place(row: Row) -> None:
    old, new, expected = row
    name, places = written(old, new)
    done = CliRunner().invoke(main, ["check", "--json", name])
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    found = json.loads(done.stdout)["files"]["wrong.yaml"]["problems"]
    shown = ["{file}:{line}:{column}".format(**problem) for problem in found]
    assert shown == (places if len(places) > 1 else places * len(expected)), found
    for problem, (path, message, hint) in zip(found, expected, strict=True):
        assert problem["path"] == path
        assert message in problem["message"]
        assert hint in (problem["hint"] or "")
        assert "\n" not in problem["message"]
    assert sorted(each.name for each in Path().iterdir()) == ["wrong.yaml"]


@pytest.mark.parametrize(
    ("verb", "row"),
    [
        ("train", SGD.replace("momentum", "«momentun")),
        ("show", SGD.replace("momentum", "«momentun")),
        ("taps", SGD.replace("momentum", "«momentun")),
        ("eval", SGD.replace("momentum", "«momentun")),
        ("train", SGD.replace("!call", "«!call").replace("0.05", "-1")),
    ],
)
def test_every_verb_answers_and_writes_nothing(verb: str, row: str) -> None:
    name, [place] = written(SGD, row)
    done = CliRunner().invoke(main, [verb, name])
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"{place}: ")
    assert sorted(each.name for each in Path().iterdir()) == ["wrong.yaml"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            TEACHER,
            TEACHER.replace("null", "«no.pt"),
            r"models.teacher.weights: .* no weight file no.pt",
        ),
        (TEACHER, "  teacher: {run: «nowhere}", r"models.teacher.run: nowhere is not a run folder"),
        (DATA, "data: {name: cifar10, root: no, download: false}", r"cifar-10-batches-py"),
    ],
)
def test_what_only_training_needs_is_asked_for_before_anything_is_written(old: str, new: str, said: str) -> None:
    name, places = written(old, new)
    if "cifar10" in new:
        Path(name).write_text(Path(name).read_text().replace("width", "in_channels: 3, width"))
    assert CliRunner().invoke(main, ["check", name]).exit_code == 0
    done = CliRunner().invoke(main, ["train", name, "--out", "run"])
    assert done.exit_code == 2
    assert re.search("".join(f"{place}: " for place in places) + said, done.stderr)
    assert not Path("run", "config.yaml").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not write it"),
        (b"not weights\n", "not write it"),
        (bytes(range(256)) * 8, "not write it"),
        (b"PK\x03\x04" + b"\0" * 90, "not write it"),
    ],
)
def test_a_broken_weight_file_is_named_with_its_line(content: bytes, said: str) -> None:
    Path("broken.pt").write_bytes(content)
    name, [place] = written(TEACHER, TEACHER.replace("null", "«broken.pt"))
    done = CliRunner().invoke(main, ["train", name])
    assert done.exit_code == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"{place}: models.teacher.weights: {Path('broken.pt').absolute()} is not a readable")
    assert said in last


def test_torchvision_models_are_called_without_weights() -> None:
    """`check` opens no connection: published weights are forced off, nested calls and defaults included."""
    text = BASE.replace("digits", "cifar10").replace(", width", ", in_channels: 3, width")
    for call in [
        "!call:torchvision.models.resnet18 {num_classes: 10, weights: IMAGENET1K_V1}",
        "!call:torch.nn.Sequential [!call:torchvision.models.resnet18 {pretrained: true, num_classes: 10}]",
        "{call: !call:torchvision.models.get_model {name: resnet18, weights: DEFAULT, num_classes: 10}}",
    ]:
        Path("called.yaml").write_text(
            text.replace("{arch: cnn, in_channels: 3, width: 8, weights: null}", call).replace(
                "teacher.layers.2", "student.layers.2"
            )
        )
        done = CliRunner().invoke(main, ["check", "--strict", "called.yaml"])
        assert done.exit_code == 0, done.stderr


def test_the_installed_command_says_it_too() -> None:
    name, [place] = written(SGD, SGD.replace("momentum", "«momentun"))
    command = [sys.executable, "-m", "kd_vision", "check", name]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"{place}: stages.distill.optimizer.momentun: torch.optim.SGD has no parameter 'momentun'",
        "    hint: did you mean 'momentum'?",
    ]


VALUES = [
    "null",
    "true",
    "false",
    "0",
    "-1",
    "1",
    "3.5",
    "1e30",
    ".nan",
    ".inf",
    "''",
    "x",
    "[]",
    "{}",
    "[null]",
    "{a:1}",
    "student.output",
    "teacher.fc:in",
    "adapters.proj/0",
    "batch.index",
    "'*'",
    "class:Linear",
    "../x",
    "99999999999999999999",
    "projector",
    "cross_entropy",
    "[student.output]",
    "!run steps",
    "!call:torch.nn.ReLU {}",
    SYSTEM,
    "!get:torch.float32 ",
    "!item [[1], 0]",
    "{loss: kd}",
]
KEYS = [
    "loss",
    "weight",
    "lr",
    "call",
    "arch",
    "run",
    "zoo",
    "inputs",
    "match",
    "module",
    "student",
    "mode",
    "data",
    "out_features",
]


def mutated(text: str, chance: random.Random) -> str:
    """``text`` with a key, a value or a line changed."""
    lines = text.splitlines()
    at = chance.randrange(len(lines))
    kind = chance.randrange(5)
    values = list(re.finditer(r"(?<=[ {\[])[\w.!*:'-]+(?=[,}\]]|$)", lines[at]))
    keys = list(re.finditer(r"\w+(?=:)", lines[at]))
    if kind == 0:
        del lines[at]
    elif kind == 1 and lines[at]:
        place = chance.randrange(len(lines[at]))
        lines[at] = lines[at][:place] + chance.choice("ab0:{}[],!*&#. -") + lines[at][place + 1 :]
    elif kind == 2 and keys:
        found = chance.choice(keys)
        lines[at] = lines[at][: found.start()] + chance.choice(KEYS) + lines[at][found.end() :]
    elif values:
        found = chance.choice(values)
        lines[at] = lines[at][: found.start()] + chance.choice(VALUES) + lines[at][found.end() :]
    return "\n".join(lines)


def test_a_mutated_config_is_sound_or_answered() -> None:
    chance = random.Random(0)
    path = Path("mutated.yaml")
    sound = 0
    for _ in range(120):
        path.write_text(mutated(BASE, chance), encoding="utf-8")
        try:
            Experiment.load(path).check()
            sound += 1
        except KDError:
            continue
    assert 0 < sound < 60
