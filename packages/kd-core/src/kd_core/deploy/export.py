"""A student as a file of another format, which is there only if it gives what the run's student gives."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_core.deploy.formats import FORMATS, Example, Run
from kd_core.deploy.inputs import Callee, Inputs, inputs_of
from kd_core.errors import KDError, did_you_mean, reason
from kd_core.files import write_errors
from kd_core.student import Student, load
from kd_core.taps.wires import describe_shapes

TOLERANCE = 1e-4
"""By how much outputs may differ, as a share of the largest of them, or of 1 where they are smaller."""
MOST = 64
"""The largest batch of a format whose memory is planned."""


@dataclass(frozen=True)
class Parity:
    """How outputs of a file compare with the run's: the largest difference, the largest output, and the share of equal
    predictions (None where outputs are no classes)."""

    samples: int
    difference: float
    largest: float
    equal: float | None

    @property
    def relative(self) -> float:
        """The largest difference as a share of the largest output, or of 1 where that is smaller."""
        return self.difference / max(1.0, self.largest)


@dataclass(frozen=True)
class Exported:
    """A file that was written, what it takes, and how it compares with the run."""

    file: Path
    format: str
    bytes: int
    inputs: dict[str, list[int | str]]
    source: str
    parity: Parity


def export(
    target: str | Path,
    *,
    format: str,
    out: Path,
    samples: Sequence[str] = (),
    count: int = 64,
    tolerance: float = TOLERANCE,
    most: int = MOST,
    trust: Sequence[str] = (),
    **options: Any,
) -> Exported:
    """Write the student of ``target``, a run's folder or its ``student/``, to the file ``out``.

    The file is run by the format's own runtime on samples (see :func:`kd_core.deploy.inputs.inputs_of`), in batches and
    one alone, and compared with the model: KDError, and no file, where the largest difference is more than a share
    ``tolerance`` of the largest output. Predictions can differ only between classes that are as likely as that.
    """
    if format not in FORMATS:
        raise KDError(f"there is no format {format!r}", hint=did_you_mean(format, list(FORMATS)))
    chosen = FORMATS[format]
    chosen.require(format)
    if out.suffix != chosen.suffix:
        raise KDError(f"{out}: is not named as a {chosen.suffix} file")
    if not out.parent.is_dir():
        raise KDError(f"{out}: there is no folder {out.parent}")
    student = load(target, trust=trust)
    inputs = inputs_of(student, target, samples, count=count, trust=trust, **options)
    dynamic = () if chosen.fixed_size else student.task.dynamic_dims
    example = Example(inputs.batch(max(2, len(next(iter(inputs.batches[0].values()))))), dynamic, most)
    module = Callee(student, list(example.batch))
    with write_errors(out), tempfile.TemporaryDirectory(dir=out.parent, prefix=".tmp-") as folder:
        file = Path(folder) / out.name
        chosen.write(module, example, file, metadata_of(student, example))
        parity = compare(module, chosen.open(file), inputs, most if chosen.fixed_size else None)
        if parity.relative > tolerance:
            share = "" if parity.equal is None else f", and {100 * parity.equal:.4g} % of the predictions are the same"
            raise KDError(
                f"the exported model is another one: outputs of up to {parity.largest:.4g} differ by"
                f" {parity.difference:.2g}{share}",
                hint="--tolerance SHARE allows more; no file was written",
            )
        file.replace(out)
    sizes = {name: shape_of(tensor, dynamic) for name, tensor in example.batch.items()}
    return Exported(out, format, out.stat().st_size, sizes, inputs.source, parity)


def shape_of(tensor: Tensor, dynamic: Sequence[int]) -> list[int | str]:
    """The sizes of an input, ``batch`` and ``any`` where they are free."""
    sizes: list[int | str] = ["any" if dim in dynamic else size for dim, size in enumerate(tensor.shape)]
    return ["batch", *sizes[1:]]


def metadata_of(student: Student, example: Example) -> dict[str, Any]:
    """What a file says of itself, in plain values: how its inputs are made, and what its outputs are."""
    told = student.description
    return {
        "task": student.task.name,
        "classes": None if student.classes is None else list(student.classes),
        "inputs": {
            name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": shape_of(tensor, example.dynamic)}
            for name, tensor in example.batch.items()
        },
        "input": {key: value for key, value in told.input.items() if key != "tokenizer"},
        "preprocessing": told.preprocessing,
        **student.task.exported_facts(student.model),
        "lineage": {key: student.lineage.get(key) for key in ("run", "weights", "config")},
    }


def compare(module: Callee, run: Run, inputs: Inputs, most: int | None = None) -> Parity:
    """Run both on every batch, and on the first sample alone; ``most`` is the largest batch that ``run`` takes."""
    differences, largest, equal, samples = [0.0], [0.0], [], 0
    module.eval()
    for batch in _batches(inputs, most):
        tensors = list(batch.values())
        with torch.no_grad():
            expected = module(*tensors).float().cpu()
        try:
            found = run(tensors).float().cpu()
        except Exception as error:  # a size that the file does not take
            shapes = describe_shapes(tensors)
            raise KDError(f"the exported model does not take inputs of shape {shapes}: {reason(error)}") from error
        if found.shape != expected.shape:
            raise KDError(f"the exported model returns {tuple(found.shape)}, and the run's {tuple(expected.shape)}")
        if not expected.isfinite().all():
            raise KDError("the student's outputs are not finite: there is nothing to compare")
        gap = (found - expected).abs().max().item()
        differences.append(gap if gap == gap else float("inf"))
        largest.append(expected.abs().max().item())
        samples += len(expected)
        if module.task.exports_classes and expected.ndim > 1 and expected.shape[1] > 1:
            equal.append((found.argmax(1) == expected.argmax(1)).float().flatten())
    share = torch.cat(equal).mean().item() if equal else None
    return Parity(samples - 1, max(differences), max(largest), share)


def _batches(inputs: Inputs, most: int | None) -> Iterator[dict[str, Tensor]]:
    yield inputs.batch(1)
    for batch in inputs.batches:
        rows = len(next(iter(batch.values())))
        for start in range(0, rows, most or rows):
            yield {name: tensor[start : start + (most or rows)] for name, tensor in batch.items()}
