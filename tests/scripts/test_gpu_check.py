"""scripts/gpu_check.py, where there is no GPU: its table, and that nothing that fails ends it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from kd_core.experiment import Experiment

SCRIPTS = Path(__file__).parents[2] / "scripts"


def loaded(path: str) -> ModuleType:
    """A script as a module; those of ``scripts/gpu`` find each other."""
    spec = spec_from_file_location(Path(path).stem, SCRIPTS / path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return loaded("gpu_check.py")


@pytest.fixture(scope="module")
def sections() -> ModuleType:
    loaded("gpu/cases.py")
    return loaded("gpu/sections.py")


def asked(script: ModuleType, *words: str) -> argparse.Namespace:
    return script.options().parse_args([*words])  # type: ignore[no-any-return]


def test_the_table_has_columns_and_marks(script: ModuleType) -> None:
    rows = [script.row("resume", "float32", "equal to the bit", passed=True), script.row("speed", "ours", "3 ms")]
    rows += [script.row("losses", "kd", "failed: KDError: no", passed=False)]
    assert script.table(rows).splitlines() == [
        "resume  float32  ok      equal to the bit",
        "speed   ours             3 ms",
        "losses  kd       FAILED  failed: KDError: no",
    ]


def test_ratios_are_to_the_first_side_that_was_measured(script: ModuleType) -> None:
    speeds = {"torchdistill": None, "ours": 200.0, "fast": 500.0}
    rows = [
        script.row("speed", side, "", job="cifar", **({} if value is None else {"images_per_second": value}))
        for side, value in speeds.items()
    ]
    assert [item["result"] for item in script.with_ratios(rows)] == ["", ", 1.00 x", ", 2.50 x"]


def test_a_process_that_fails_or_takes_too_long_says_so_and_keeps_its_rows(script: ModuleType) -> None:
    lines, ended = script.started(["-c", "print('{}'); raise ValueError('no card')"], 30)
    assert (lines, ended) == (["{}"], "failed: ValueError: no card")
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(99)'])"
    began = time.monotonic()
    _, ended = script.started(["-c", child], 0)
    assert ended == "failed: not done after 0 s"
    assert time.monotonic() - began < 90  # what it started holds the pipe open until it ends too


def test_a_machine_without_a_gpu_is_one_failed_row(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    told = subprocess.CompletedProcess([], 0, stdout='["2.11.0", "13.0", null, null]\n', stderr="")
    monkeypatch.setattr(script.subprocess, "run", lambda *given, **options: told)
    rows = script.check(asked(script), time.monotonic() + 10)
    assert [item["passed"] for item in rows] == [None, None, False]
    assert "there is no GPU here" in rows[-1]["result"]


def test_sections_and_sides_that_fail_are_rows_and_the_rest_is_done(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(command: list[str], seconds: float) -> tuple[list[str], str]:
        if command[1] == "resume":
            return ['{"what": "float32", "result": "equal", "passed": true}', "noise"], "failed: not done after 9 s"
        if command[1] == "torchdistill":
            return [], "failed: ModuleNotFoundError: No module named 'torchdistill'"
        return ['{"images_per_second": 100.0, "milliseconds": 10.0, "peak_mb": 2000.0}'], ""

    monkeypatch.setattr(script, "started", started)
    monkeypatch.setattr(script, "machine", lambda device: [])
    rows = script.check(asked(script, "--sections", "resume", "speed", "--jobs", "cifar"), time.monotonic() + 60)
    results = [(item["what"], item["passed"], item["result"]) for item in rows]
    assert results[:3] == [
        ("float32", True, "equal"),
        ("the section", False, "failed: not done after 9 s"),
        ("cifar: torchdistill", False, "failed: ModuleNotFoundError: No module named 'torchdistill'"),
    ]
    assert results[3] == ("cifar: ours, default", None, "100 images/s, 10.00 ms a step, 2,000 MB, 1.00 x")
    assert len(results) == 2 + len(script.SIDES)


def test_what_the_time_does_not_allow_is_not_run(script: ModuleType) -> None:
    assert script.speed("cifar", "ours", "cuda", 10, 1.0)["result"] == "not run: the time is over"


def test_wheels_that_cannot_be_installed_are_a_row(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "before")
    (tmp_path / "broken-1.0-py3-none-any.whl").write_text("no archive")
    told = subprocess.CompletedProcess([], 1, stdout="", stderr="ERROR: broken\n")
    monkeypatch.setattr(script.subprocess, "run", lambda *given, **options: told)
    row = script.install(tmp_path, tmp_path / "target")
    assert (row["passed"], row["result"]) == (False, "failed: ERROR: broken")


def test_collected_are_our_wheels_and_those_of_another_python(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []
    found = {"install": [{"metadata": {"name": name, "version": "1.5"}} for name in ("pydantic", "pydantic_core")]}

    def run(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, stdout=json.dumps(found))

    monkeypatch.setattr(script.subprocess, "run", run)
    script.collect(tmp_path / "wheels", "3.12")
    build, _, download = commands
    assert [Path(name).name for name in build[-5:]] == ["kd-core", "kd-glue", "kd-seg", "kd-vision", "kd-zoo"]
    assert download[download.index("--python-version") + 1] == "3.12"
    assert {"pydantic==1.5", "pydantic-core==1.5", "torchdistill"} <= set(download)
    assert "0 wheels are in" in capsys.readouterr().out


def test_each_case_is_a_config_that_can_be_run(sections: ModuleType, tmp_path: Path) -> None:
    for case in sections.CASES:
        Experiment.load(case.path(tmp_path), overrides=[*case.overrides, "runtime={device: cpu, tf32: false}"])


@pytest.mark.parametrize(("gaps", "passed"), [([0.0, 5e-4], True), ([2e-5, 0.0], False), ([0.0, 2e-3], False)])
def test_first_losses_are_compared(
    sections: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    gaps: list[float],
    passed: bool,
) -> None:
    monkeypatch.setattr(sections, "CASES", sections.CASES[:1])
    values = iter([[2 * (1 + gap) for gap in gaps], [2.0, 2.0]])
    monkeypatch.setattr(sections, "first_losses", lambda case, device, run: next(values))
    sections.losses("cuda", tmp_path)
    assert json.loads(capsys.readouterr().out)["passed"] is passed


def test_an_error_in_a_section_is_a_row(sections: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with sections.failures("kd"):
        raise RuntimeError("CUDA error:\n  an illegal memory access")
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "what": "kd",
        "result": "failed: RuntimeError: CUDA error: an illegal memory access",
        "passed": False,
    }


@pytest.mark.slow
def test_all_of_it_on_the_cpu(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "gpu_check.py"), "--device", "cpu", "--jobs", "tiny", "--steps", "2"]
    out = tmp_path / "rows.json"
    subprocess.run([*command, "--sections", "resume", "losses", "speed", "--out", str(out)], check=False)
    rows = json.loads(out.read_text())
    right = [item for item in rows if item["section"] in ("resume", "losses")]
    assert len(right) == 10
    assert all(item["passed"] for item in right if "float16" not in item["what"] or "bfloat16" in item["what"])
