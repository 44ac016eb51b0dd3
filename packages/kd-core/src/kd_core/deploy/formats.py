"""The formats that a student is exported to: how each is written, and how its runtime runs the file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_core.errors import KDError

METADATA = "kd_student.json"
"""The name of what a file says of its inputs and classes, as JSON: a property of an ONNX file, an extra file of
torch.export."""
METHOD = "kd_student_json"
"""The same in an ExecuTorch file: a method without arguments."""
Run = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Example:
    """What a model is traced with: a batch by name, and its dimensions beside the first that differ among inputs.

    ``most`` is the largest batch where a format must know it.
    """

    batch: Mapping[str, Tensor]
    dynamic: Sequence[int]
    most: int

    def shapes(self, first: Any) -> tuple[dict[int, Any], ...]:
        """What torch.export takes for dimensions, of each tensor; ``first`` is that of the samples."""
        auto = torch.export.Dim.AUTO
        return tuple(
            {0: first, **{dim: auto for dim in self.dynamic if dim < tensor.ndim}} for tensor in self.batch.values()
        )


@dataclass(frozen=True)
class Format:
    """A format: what its name is followed by, what must be installed, how it is written and how it is run."""

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[nn.Module, Example, Path, Mapping[str, Any]], None]
    open: Callable[[Path], Run]
    fixed_size: bool = False
    """Whether inputs other than the batch have the sizes of the samples that it is traced with."""

    def require(self, name: str) -> None:
        """KDError where something is not installed."""
        missing = [package for package in self.packages if find_spec(package) is None]
        if missing:
            packages = "executorch" if name == "executorch" else "kd-core[export]"
            message = f"the format {name} needs {' and '.join(missing)}, and {missing[0]} is not installed"
            raise KDError(message, hint=f"pip install '{packages}'")


def program(module: nn.Module, example: Example, first: Any) -> Any:
    """The module as torch.export traces it, for batches of any size; KDError where it cannot be."""
    module = Traced(module)
    shapes = (example.shapes(first),)
    with quiet(), torch.no_grad():
        try:
            return torch.export.export(module, tuple(example.batch.values()), dynamic_shapes=shapes)
        except Exception as error:  # whatever the model's code raises, or what torch finds in it
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise KDError(f"torch.export cannot follow the model for batches of any size: {reason}") from error


class Traced(nn.Module):
    """A module in evaluation mode, whose parameters need no gradient."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.eval().requires_grad_(False)

    def forward(self, *tensors: Tensor) -> Tensor:
        output: Tensor = self.module(*tensors)
        return output


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of exporters, which are about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write_torch(module: nn.Module, example: Example, file: Path, metadata: Mapping[str, Any]) -> None:
    """A .pt2 archive of torch.export."""
    exported = program(module, example, torch.export.Dim.DYNAMIC)
    with quiet():
        torch.export.save(exported, file, extra_files={METADATA: json.dumps(metadata)})


def open_torch(file: Path) -> Run:
    """Run a .pt2 archive as PyTorch does."""
    with quiet():
        module = torch.export.load(file).module()
    return lambda tensors: module(*tensors)


def write_onnx(module: nn.Module, example: Example, file: Path, metadata: Mapping[str, Any]) -> None:
    """An ONNX file, its inputs and its output by name."""
    exported = program(module, example, torch.export.Dim.DYNAMIC)
    with quiet():
        made: Any = torch.onnx.export(
            exported, (), None, input_names=list(example.batch), output_names=["output"], dynamo=True, verbose=False
        )
        made.model.metadata_props[METADATA] = json.dumps(metadata)
        made.save(file)


def open_onnx(file: Path) -> Run:
    """Run an ONNX file with onnxruntime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(tensors: Sequence[Tensor]) -> Tensor:
        arrays = [tensor.cpu().numpy() for tensor in tensors]
        return torch.from_numpy(session.run(None, dict(zip(names, arrays, strict=True)))[0])

    return run


def write_executorch(module: nn.Module, example: Example, file: Path, metadata: Mapping[str, Any]) -> None:
    """A .pte program for ExecuTorch's runtime, delegated to XNNPACK as far as that goes.

    Its memory is planned for batches of up to ``example.most`` samples, of which it is traced with so many.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    most = example.most
    rows = torch.arange(most)
    batch = {name: tensor[rows % len(tensor)].contiguous() for name, tensor in example.batch.items()}
    exported = program(module, Example(batch, (), most), torch.export.Dim("batch", min=1, max=most))
    with quiet():
        text = {METHOD: json.dumps(metadata)}
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()], constant_methods=text)
        file.write_bytes(lowered.to_executorch().buffer)


def open_executorch(file: Path) -> Run:
    """Run a .pte program with ExecuTorch's runtime."""
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(file).load_method("forward")
    return lambda tensors: method.execute(list(tensors))[0].clone()


FORMATS = {
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), write_onnx, open_onnx),
    "torch-export": Format(".pt2", (), write_torch, open_torch),
    "executorch": Format(".pte", ("executorch",), write_executorch, open_executorch, fixed_size=True),
}
