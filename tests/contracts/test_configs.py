"""Every config opens with its command, which parses, and passes `check --strict`."""

from __future__ import annotations

import shlex
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner

from kd_core.experiment import Experiment
from kd_core.study.spec import read

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    path.relative_to(ROOT)
    for path in ROOT.glob("configs/**/*.yaml")
    if not any(part.startswith("_") for part in path.relative_to(ROOT).parts)
)
STUDIES = [path for path in CONFIGS if path.stem.startswith(("sweep_", "compare_"))]
EXPERIMENTS = [path for path in CONFIGS if path not in STUDIES]
LONGEST = 30
"""Lines of a config that a person is to read at a glance."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the configs of the hub's models that are named in ours."""
    made: Path = tmp_path_factory.mktemp("hub")
    HUB.lay_out(made)
    return made


def helper(path: Path) -> ModuleType:
    """A module of other tests."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HUB = helper(ROOT / "tests" / "glue" / "hub" / "hub_cache.py")


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    monkeypatch.chdir(ROOT)
    HUB.use(monkeypatch, hub)


def opening(config: Path) -> tuple[click.Group, list[str]]:
    """The command in a config's first line, and its arguments."""
    first = config.read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith("# kd-"), f"the first line is {first!r}, not `# kd-... VERB {config.as_posix()}`"
    name, *arguments = shlex.split(first[2:])
    (script,) = entry_points(group="console_scripts", name=name)
    return script.load(), arguments


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 8


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_first_line_is_the_command(config: Path) -> None:
    group, arguments = opening(config)
    verb = config.stem.partition("_")[0] if config in STUDIES else "train"
    assert arguments[:2] == [verb, config.as_posix()]
    group.commands[verb].make_context(verb, arguments[1:])


@pytest.mark.parametrize("config", STUDIES, ids=str)
def test_every_run_of_a_study_passes_the_strict_check(config: Path) -> None:
    """Every run is planned; models are run for those runs that between them have each value of the grid."""
    study, unchecked = read(config), dict[frozenset[str], Experiment]()
    for point in study.points():
        unchecked[frozenset(point.settings)] = Experiment.load(point.config, overrides=sorted(point.settings))
    values = frozenset[str]().union(*unchecked)
    while values:
        overrides = max(unchecked, key=lambda point: len(point & values))
        assert unchecked.pop(overrides).check(strict=True) == []
        values -= overrides


FEW = ("ssdlite320_mobilenetv3", "ghnd_fasterrcnn_resnet50", "fcos_resnet50")
"""Of the detectors on COCO, which take some seconds each, those that are always checked."""
CHECKED = [
    pytest.param(config, marks=[pytest.mark.slow] if "detection/coco2017_" in config.as_posix() else [])
    if config.stem.removeprefix("coco2017_") not in FEW
    else config
    for config in EXPERIMENTS
]


@pytest.mark.parametrize("config", CHECKED, ids=str)
def test_it_passes_the_strict_check(config: Path) -> None:
    group, arguments = opening(config)
    given = group.commands["train"].make_context("train", arguments[1:]).params
    options = [f"--set={each}" for each in given["overrides"]] + [f"--trust={each}" for each in given["trust"]]
    done = CliRunner().invoke(group, ["check", "--strict", config.as_posix(), *options])
    assert done.exit_code == 0, done.stderr
    assert "unverified" not in done.stdout


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_it_is_short(config: Path) -> None:
    """Without the line that names its schema."""
    assert len(config.read_text(encoding="utf-8").splitlines()) - 1 <= LONGEST
