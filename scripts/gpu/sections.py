"""The parts of scripts/gpu_check.py but for the step times: each prints its rows as lines of JSON when it has them.

A row says what was looked at, what came out, and whether that is as it must be.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from cases import CASES, HINT, HINT_ADAPTERS, KD, Case, digits

ROOT = Path(__file__).parents[2]
STEPS = 5
TOLERANCE = {1: 1e-5, STEPS: 1e-3}
"""How far a loss may be from the CPU's, relative to it: that of the first step, and those of the ones that follow."""
TESTS = ("tests/contracts/test_losses.py", "tests/core/device", "tests/core/data", "tests/core/runs/test_checkpoint.py")
"""Files of the suite with tests on ``KD_TEST_DEVICE`` or on a GPU in any case."""
RUNS = ("tests/e2e/test_training.py",)
"""Files whose runs take a GPU where there is one."""
CHOSEN = "on_a_device or half_precision or equal_rows or every_input or device or gpu or cuda or training"
"""Of those the tests that tell most: finite differences take minutes on a GPU."""


def row(what: str, result: str, *, passed: bool | None = None, **more: Any) -> None:
    """Print a row; ``passed`` is None for what is only measured."""
    print(json.dumps({"what": what, "result": result, "passed": passed, **more}), flush=True)


def reason(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return f"failed: {type(error).__name__}: {text[:300]}"


@contextmanager
def failures(what: str) -> Iterator[None]:
    """Whatever fails inside is a row, and the rest goes on."""
    try:
        yield
    except Exception as error:
        row(what, reason(error), passed=False)


def train(case: Case, folder: Path, run: Path, overrides: Sequence[str], *observers: Any) -> None:
    """Train a case, watched by ``observers``; what it says goes to the standard error."""
    from kd_core.experiment import Experiment

    with redirect_stdout(sys.stderr):
        Experiment.load(case.path(folder), overrides=[*case.overrides, *overrides]).train(run, observers=observers)


def first_losses(case: Case, device: str, run: Path) -> list[float]:
    """The losses of the first steps of a case on a device, in float32 without TF32."""
    from kd_core.observers import Observer, StepEvent

    class Enough(Exception):
        """The steps are done."""

    class Keeps(Observer):
        """Keeps the losses."""

        losses: list[float] = []  # noqa: RUF012  of the one run

        def after_step(self, event: StepEvent) -> None:
            """Read the loss, and end after some steps."""
            self.losses.append(event.losses()["loss"])
            if event.total == STEPS:
                raise Enough

    keeps = Keeps()
    keeps.losses = []
    try:
        train(case, run.parent, run, [f"runtime={{device: {device}, tf32: false}}"], keeps)
    except Enough:
        return keeps.losses
    raise AssertionError("the run ended early")


def losses(device: str, folder: Path) -> None:
    """The first losses of each case on the CPU and on the device."""
    for case in CASES:
        with failures(f"first {STEPS} losses, {case.name}"):
            there = first_losses(case, device, folder / f"{case.name}_there")
            here = first_losses(case, "cpu", folder / f"{case.name}_here")
            gaps = [abs(a - b) / max(abs(b), 1e-12) for a, b in zip(there, here, strict=True)]
            close = gaps[0] <= TOLERANCE[1] and max(gaps) <= TOLERANCE[STEPS]
            told = f"{gaps[0]:.1e} in the first step, {max(gaps):.1e} at most"
            row(
                f"first {STEPS} losses, {case.name}",
                f"relative difference {told}",
                passed=close,
                there=there,
                here=here,
            )


RESUMED = [
    (Case("float32", digits(KD)), "{{device: {device}, deterministic: true}}"),
    (
        Case("bfloat16, channels last, fused", digits(f"{{kd: {{loss: kd}}, hint: {HINT}}}", HINT_ADAPTERS)),
        "{{device: {device}, deterministic: true, precision: bf16, channels_last: true, fused_optimizer: true}}",
    ),
    (
        Case("float16 with scaled gradients", digits(KD)),
        "{{device: {device}, deterministic: true, precision: fp16, fused_optimizer: true}}",
    ),
]
KILLED_AT = 8


def die(number: int, device: str, folder: Path) -> None:
    """Train a case until a step, and then end this process as if it were killed."""
    from kd_core.observers import Observer, StepEvent

    class Killer(Observer):
        """Kills the process."""

        def after_step(self, event: StepEvent) -> None:
            """As the kernel does where memory runs out."""
            if event.total == KILLED_AT:
                os.kill(os.getpid(), signal.SIGKILL)

    case, runtime = RESUMED[number]
    train(case, folder, folder / f"killed{number}", [f"runtime={runtime.format(device=device)}"], Killer())


def resume(device: str, folder: Path) -> None:
    """Runs that are killed and resumed, and whole ones: their students must be equal to the bit."""
    from kd_core import experiment

    for number, (case, runtime) in enumerate(RESUMED):
        what = f"killed and resumed, {case.name}"
        if device == "cpu" and "fp16" in runtime:
            row(what, "not run: float16 needs a GPU")
            continue
        with failures(what):
            command = [sys.executable, __file__, "die", "--device", device, "--folder", str(folder)]
            done = subprocess.run([*command, "--number", str(number)], capture_output=True, text=True, check=False)
            if done.returncode != -signal.SIGKILL:
                raise AssertionError(f"the run was to be killed: {done.stderr[-300:]}")
            train(case, folder, folder / f"whole{number}", [f"runtime={runtime.format(device=device)}"])
            with redirect_stdout(sys.stderr):
                experiment.resume(folder / f"killed{number}")
            names = (f"{kind}{number}/student/model.safetensors" for kind in ("whole", "killed"))
            whole, resumed = ((folder / name).read_bytes() for name in names)
            row(what, "equal to the bit" if whole == resumed else "the students differ", passed=whole == resumed)


def waiting(device: str, folder: Path) -> None:
    """Whether the host waits for the device in a step: PyTorch raises where it does."""
    import torch

    if not device.startswith("cuda"):
        row("a step without waiting", "not run: only CUDA tells")
        return
    from kd_core.train.loop import StageRunner

    plain = StageRunner._step

    def watched(self: StageRunner, *arguments: Any) -> None:
        torch.cuda.set_sync_debug_mode("error" if self.progress.total >= 2 else "default")
        try:
            plain(self, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    StageRunner._step = watched  # type: ignore[method-assign]
    fast = f"runtime={{device: {device}, precision: bf16, channels_last: true, fused_optimizer: true, fuse_bn: true}}"
    for case in CASES:
        with failures(f"a step without waiting, {case.name}"):
            train(case, folder, folder / f"{case.name}_waiting", [fast, "log_every=1000000"])
            row(f"a step without waiting, {case.name}", "none", passed=True)


def suite(device: str, folder: Path) -> None:
    """The tests that can run on any device."""
    environment = {**os.environ, "KD_TEST_DEVICE": device, "NVIDIA_TF32_OVERRIDE": "0"}
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=line", "-p", "no:cacheprovider", "-W", "default"]
    command += ["-k", CHOSEN, *TESTS, *RUNS]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]]
    row("tests of the suite", re.sub(r"^=+ | =+$", "", lines[-1]), passed=done.returncode == 0)
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            row("a test of the suite", f"failed: {line[:300]}", passed=False)


SECTIONS: dict[str, Callable[[str, Path], None]] = {
    "suite": suite,
    "resume": resume,
    "losses": losses,
    "waiting": waiting,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("section", choices=[*SECTIONS, "die"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--number", type=int, default=0)
    arguments = parser.parse_args()
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        os.environ.setdefault("KD_CACHE", str(folder / "cache"))
        if arguments.section == "die":
            die(arguments.number, arguments.device, folder)
        else:
            with failures(arguments.section):
                SECTIONS[arguments.section](arguments.device, folder)


if __name__ == "__main__":
    main()
