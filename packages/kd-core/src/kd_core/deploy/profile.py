"""How large a student is and how long it takes on this machine, beside others."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from kd_core.deploy.formats import FORMATS, Example, quiet
from kd_core.deploy.inputs import Callee, Inputs, inputs_of
from kd_core.errors import KDError
from kd_core.files import write_text
from kd_core.runs.environment import environment
from kd_core.student import Student, load

MODES = ("eager", "compiled", "torch-export", "onnx")
"""How a model is run: as Python, by torch.compile, as a file of torch.export, by onnxruntime."""
BATCHES = (1, 32)
WARMUP, FEWEST, MOST = 3, 10, 10_000
"""Passes that are not measured, and the least and the most that are."""
HEADER = ("model", "parameters", "MACs", "mode", "batch", "median ms", "p95 ms", "samples/s")
BEGIN, END = "<!-- profile -->", "<!-- end of profile -->"


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one pass of a batch: the median, and what 95 of 100 passes do not exceed."""

    mode: str
    batch: int
    median: float
    p95: float
    passes: int


@dataclass(frozen=True)
class Measured:
    """A model: parameters, multiply-accumulates of one sample, and its latencies."""

    name: str
    parameters: int
    macs: int
    sample: str
    latencies: list[Latency]


@dataclass(frozen=True)
class Profile:
    """What was measured, and on what."""

    models: list[Measured]
    hardware: dict[str, Any]
    device: str
    notes: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, ...]]:
        """The table below :data:`HEADER`: a line for each model, mode and batch."""
        return [
            (
                *(model.name, f"{model.parameters:,}", f"{model.macs:,}", latency.mode, str(latency.batch)),
                *(f"{latency.median:.3f}", f"{latency.p95:.3f}", f"{1000 * latency.batch / latency.median:,.0f}"),
            )
            for model in self.models
            for latency in model.latencies
        ]

    def markdown(self) -> str:
        """The section of a model card."""
        lines = [f"| {' | '.join(row)} |" for row in (HEADER, ("---",) * len(HEADER), *self.rows())]
        return "\n".join([BEGIN, "## Size and latency", "", *lines, "", *self.notes, END])


def profile(
    target: str | Path,
    *,
    against: Sequence[str | Path] = (),
    batches: Sequence[int] = BATCHES,
    modes: Sequence[str] = (),
    seconds: float = 1.0,
    device: str = "cpu",
    samples: Sequence[str] = (),
    trust: Sequence[str] = (),
    **options: Any,
) -> Profile:
    """Measure the student of a run, and those of the runs ``against``, and write the table into the run's model card.

    Inputs are those of :func:`kd_core.deploy.inputs.inputs_of`, repeated to fill a batch; each model gets them as its
    own run prepares them. ``modes`` are those of :data:`MODES`, all by default, onnx where onnxruntime is installed.
    Each latency is of at least ``seconds`` and :data:`FEWEST` passes, after :data:`WARMUP` that do not count.
    """
    chosen, notes = available(modes, device)
    models = []
    for path in [target, *against]:
        student = load(path, device=device, trust=trust)
        inputs = inputs_of(student, path, samples, count=max(batches), trust=trust, **options)
        models.append(measured(label(Path(path)), student, inputs, chosen, batches, seconds))
    hardware = environment()["hardware"]
    notes = [
        f"Inputs of one sample: {'; '.join(dict.fromkeys(model.sample for model in models))}. MACs: of one sample.",
        f"On {hardware.get('cpu')}, {torch.get_num_threads()} threads, device {device}, torch {torch.__version__}.",
        *notes,
    ]
    done = Profile(models, hardware, device, notes)
    into_card(Path(target), done)
    return done


def available(modes: Sequence[str], device: str) -> tuple[Sequence[str], list[str]]:
    """The modes to measure, and what is left out of those that nobody named; KDError for one that was."""
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown:
        raise KDError(f"there is no mode {unknown[0]!r}", hint=f"choose among {', '.join(MODES)}")
    if device != "cpu" and "onnx" in modes:
        raise KDError(f"onnx is measured on the CPU, not on {device}")
    missing = [package for package in FORMATS["onnx"].packages if find_spec(package) is None]
    if "onnx" in modes:
        FORMATS["onnx"].require("onnx")
    if modes:
        return modes, []
    if device != "cpu":
        return MODES[:3], [f"onnx was not measured: it is measured on the CPU, not on {device}."]
    return (MODES[:3], [f"onnx was not measured: {missing[0]} is not installed."]) if missing else (MODES, [])


def measured(
    name: str, student: Student, inputs: Inputs, modes: Sequence[str], batches: Sequence[int], seconds: float
) -> Measured:
    """One student's sizes and latencies."""
    module = Callee(student, list(inputs.batches[0])).eval()
    tensors = tuple(inputs.batch(1).values())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*tensors)
    latencies = []
    with tempfile.TemporaryDirectory() as folder:
        for mode in modes:
            run = runner(mode, module, student, inputs, Path(folder))
            latencies += [timed(mode, run, inputs, size, seconds, student.device) for size in batches]
    parameters = sum(parameter.numel() for parameter in student.model.parameters())
    return Measured(name, parameters, counter.get_total_flops() // 2, inputs.shape(), latencies)


def runner(
    mode: str, module: Callee, student: Student, inputs: Inputs, folder: Path
) -> Callable[[Sequence[torch.Tensor]], Any]:
    """What runs a model's tensors in a mode."""
    if mode == "eager":
        return lambda tensors: module(*tensors)
    if mode == "compiled":
        torch._dynamo.reset()
        compiled = torch.compile(copy.deepcopy(module), dynamic=False)
        return lambda tensors: compiled(*tensors)
    chosen, file = FORMATS[mode], folder / f"model{FORMATS[mode].suffix}"
    chosen.write(copy.deepcopy(module), Example(inputs.batch(2), student.task.dynamic_dims, max(BATCHES)), file, {})
    return chosen.open(file)


def timed(
    mode: str,
    run: Callable[[Sequence[torch.Tensor]], Any],
    inputs: Inputs,
    size: int,
    seconds: float,
    device: torch.device,
) -> Latency:
    """The latency of batches of ``size`` samples."""
    tensors = list(inputs.batch(size).values())

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    passes: list[float] = []
    with torch.no_grad(), quiet():
        for _ in range(WARMUP):
            run(tensors)
        wait()
        end = time.perf_counter() + seconds
        while len(passes) < FEWEST or (time.perf_counter() < end and len(passes) < MOST):
            begin = time.perf_counter()
            run(tensors)
            wait()
            passes.append(1000 * (time.perf_counter() - begin))
    p95 = statistics.quantiles(passes, n=20, method="inclusive")[-1]
    return Latency(mode, size, statistics.median(passes), p95, len(passes))


def label(path: Path) -> str:
    """What a model is called in the table: its run's folder."""
    resolved = path.resolve()
    return resolved.parent.name if resolved.name == "student" else resolved.name


def into_card(run: Path, done: Profile) -> None:
    """Put the table at the end of a run's model card, in the place of an earlier one."""
    card = run / "README.md"
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    write_text(card, f"{before.rstrip()}\n\n{done.markdown()}\n{after.lstrip()}")
