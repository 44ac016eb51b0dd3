"""What every loss keeps: :data:`LOSS_CHECKS`, each a function of a :class:`LossCase`."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError

from kd_core.errors import KDError
from kd_core.losses.reduction import Count, count_of
from kd_core.losses.registry import LOSSES, Loss, LossSignature, loss_signature, validate_loss
from kd_core.signatures import FROM_INPUTS
from kd_core.testing.require import no_error, random_state_untouched, require, require_close, run_all

ROWS = 6
"""Samples in the batch that a loss is tested on."""

Input = tuple[int, ...] | Callable[[int], Tensor]
"""The shape of a tensor of random floating-point numbers without its batch dimension, or a function: rows -> tensor."""


def class_labels(classes: int, *shape: int) -> Callable[[int], Tensor]:
    """An input of a :class:`LossCase`: random labels 0 .. ``classes`` - 1, int64 (B, \\*shape)."""

    def labels(rows: int) -> Tensor:
        return torch.randint(classes, (rows, *shape), generator=torch.Generator().manual_seed(0))

    return labels


@dataclass(frozen=True)
class LossCase:
    """A loss, by itself or by its registered name, and what it is tested on.

    ``inputs`` has an entry for each tensor that the loss takes: the shape without the batch dimension of random
    floating-point numbers that get a gradient, or a function from the number of rows to a tensor without a gradient
    (:func:`class_labels`; ``torch.arange`` for ``batch.index``). What a loss takes as a list of tensors has an entry
    for each, ``student/0``, ``student/1``. ``values`` are hyperparameters, small ones where the defaults would take
    long. ``from_run`` are those that only a run knows and that need no default (``num_samples``, ``num_classes``).
    ``unused_rows`` is how many of the first rows of :data:`ROWS` the loss does not depend on. ``holds`` is true of a
    loss that by its definition holds a part of itself constant, a weight by the student's own error for one: its
    gradient is then not that of its value. ``device`` is where it is tested.
    """

    loss: Loss | str
    inputs: Mapping[str, Input]
    values: Mapping[str, Any] = field(default_factory=dict)
    from_run: Mapping[str, Any] = field(default_factory=dict)
    unused_rows: int = 0
    holds: bool = False
    device: str = "cpu"

    @cached_property
    def function(self) -> Loss:
        """The loss itself; KDError where no loss has that name."""
        return LOSSES.get(self.loss) if isinstance(self.loss, str) else self.loss

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.loss if isinstance(self.loss, str) else getattr(self.loss, "__name__", repr(self.loss))

    @cached_property
    def signature(self) -> LossSignature:
        """What it takes."""
        return loss_signature(self.function)

    def tensors(self, dtype: torch.dtype = torch.float32, rows: int = ROWS, seed: int = 0) -> dict[str, Tensor]:
        """A batch of ``rows`` samples on the device; a function of the arguments."""
        random = torch.Generator().manual_seed(seed)
        return {
            wire: kind(rows).to(self.device)
            if callable(kind)
            else torch.randn(rows, *kind, generator=random, dtype=torch.float64).to(self.device, dtype).requires_grad_()
            for wire, kind in self.inputs.items()
        }

    def __call__(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The loss of ``tensors``; of a module in the state that one pass left, on the device of its inputs."""
        wires = _lists(tensors)
        if not inspect.isclass(self.function):
            return self.function(**wires, **self.values)
        first = next(iter(tensors.values()))
        module = copy.deepcopy(self._module).to(first.device)
        if any(True for _ in module.parameters()):
            module = module.to(torch.promote_types(first.dtype, torch.float32))
        loss: Tensor = module(**wires)
        return loss

    @cached_property
    def _module(self) -> nn.Module:
        """The module of a stateful loss after a pass over another batch, so that its memories are filled."""
        needed = {key: value for key, value in self.from_run.items() if key in self.signature.values}
        wires = _lists(replace(self, device="cpu").tensors(seed=1))
        build = getattr(self.function, FROM_INPUTS, None)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            make = self.function if build is None else functools.partial(build, wires)
            module: nn.Module = make(**needed, **self.values)  # type: ignore[assignment]
        with torch.no_grad():
            module(**wires)
        return module

    def gradients(self, loss: Tensor, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradients of a loss for those inputs that get one, by name."""
        trained = {wire: tensor for wire, tensor in tensors.items() if tensor.requires_grad}
        with no_error(f"the loss {self.name} gives a gradient to each of its inputs {', '.join(trained)}"):
            return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


def _lists(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """``tensors`` by wire: those called NAME/0, NAME/1, ... are a list."""
    wires: dict[str, Any] = {}
    for key, tensor in tensors.items():
        wire, listed, _ = key.partition("/")
        if listed:
            wires.setdefault(wire, []).append(tensor)
        else:
            wires[wire] = tensor
    return wires


def can_be_registered(case: LossCase) -> None:
    """Its parameters can be written in a config."""
    function = case.function
    with no_error(f"the loss {case.name} cannot be registered"):
        validate_loss(case.name, function)


def inputs_are_those_of_the_signature(case: LossCase) -> None:
    """The case has every tensor that must be given, and none that the loss does not take."""
    takes, optional = set(case.signature.wires), set(case.signature.optional_wires)
    tested = {key.partition("/")[0] for key in case.inputs}
    require(takes - optional <= tested, f"the case of {case.name} is missing {sorted(takes - optional - tested)}")
    require(tested <= takes, f"the loss {case.name} has no input {sorted(tested - takes)}")


def hyperparameters_have_defaults(case: LossCase) -> None:
    """All but those that only a run knows."""
    values = case.signature.values.values()
    without = {value.name for value in values if value.default is value.empty} - set(case.from_run)
    require(not without, f"the hyperparameters {sorted(without)} of {case.name} have no default")


def docstring_names_the_inputs(case: LossCase) -> None:
    """The docstring names each tensor, and says ``-> scalar``."""
    text = inspect.getdoc(case.function) or ""
    missing = [wire for wire in case.signature.wires if wire not in text]
    require(not missing, f"the docstring of {case.name} does not name its inputs {missing}")
    require("-> scalar" in text, f"the docstring of {case.name} does not say 'student (B, C) -> scalar', its shapes")


def is_a_finite_scalar_of_full_precision(case: LossCase) -> None:
    """float32 of float32, float64 of float64."""
    for dtype in (torch.float32, torch.float64):
        loss = case(case.tensors(dtype))
        require(loss.shape == (), f"the loss {case.name} has the shape {tuple(loss.shape)}, and is not a scalar")
        require(loss.dtype == dtype, f"the loss {case.name} of {dtype} is {loss.dtype}")
        require(loss.isfinite(), f"the loss {case.name} of random inputs is {loss.item()}")


def gives_every_input_a_gradient(case: LossCase) -> None:
    """It detaches none: the config does, where a term says ``detach``."""
    tensors = case.tensors()
    for wire, gradient in case.gradients(case(tensors), tensors).items():
        require(gradient.isfinite().all(), f"the gradient of {case.name} for {wire} is not finite")
        require(gradient.any(), f"the gradient of {case.name} for {wire} is zero everywhere")


def gradients_are_those_of_the_value(case: LossCase) -> None:
    """They agree with finite differences, in float64, unless the loss holds a part of itself constant."""
    if case.holds:
        return
    tensors = case.tensors(torch.float64)
    with no_error(f"the gradients of {case.name} are not those of its value", GradcheckError):
        torch.autograd.gradcheck(lambda *values: case(dict(zip(tensors, values, strict=True))), list(tensors.values()))


def depends_on_every_row(case: LossCase) -> None:
    """Each sample of the batch gets a gradient."""
    tensors = case.tensors()
    for wire, gradient in case.gradients(case(tensors), tensors).items():
        reached = gradient[case.unused_rows :].flatten(1).any(1)
        require(reached.all(), f"the loss {case.name} does not depend on every row of {wire}")


def widens_half_precision_first(case: LossCase) -> None:
    """Of bfloat16 and float16 it is what it is of the same numbers in float32; gradients have the inputs' type."""
    for dtype in (torch.bfloat16, torch.float16):
        narrow = case.tensors(dtype)
        wide = {k: v.detach().float() if v.is_floating_point() else v for k, v in narrow.items()}
        loss = case(narrow)
        require(torch.equal(loss, case(wide)), f"the loss {case.name} does not compute {dtype} inputs in float32")
        types = {gradient.dtype for gradient in case.gradients(loss, narrow).values()}
        require(types <= {dtype}, f"the gradients of {case.name} for {dtype} inputs are {types}")


def memory_layout_does_not_matter(case: LossCase) -> None:
    """Strided and transposed inputs give the same value."""
    tensors = case.tensors()
    expected = case(tensors)
    strided = {k: torch.stack([v, v], dim=-1)[..., 0] for k, v in tensors.items()}
    flipped = {k: v.transpose(0, -1).contiguous().transpose(0, -1) for k, v in tensors.items()}
    for layout in (strided, flipped):
        with no_error(f"the loss {case.name} does not take inputs that are not contiguous"):
            require_close(case(layout), expected, f"the loss {case.name} depends on the memory layout of its inputs")


def takes_a_batch_of_one(case: LossCase) -> None:
    """The last batch of an epoch may be that small."""
    _require_finite(case, case.tensors(rows=1), "one sample")


def is_finite_for_equal_rows(case: LossCase) -> None:
    """All zeros and all ones give a finite value and finite gradients."""
    for fill in (0.0, 1.0):
        tensors = {k: torch.full_like(v, fill).requires_grad_(v.requires_grad) for k, v in case.tensors().items()}
        _require_finite(case, tensors, f"inputs that are all {fill}")


def leaves_inputs_and_random_state_alone(case: LossCase) -> None:
    """It writes into no input, draws from no global generator, and a second call gives the same value."""
    tensors = case.tensors()
    copies = {k: v.detach().clone() for k, v in tensors.items()}
    case(tensors)  # a module is built, from the global random state, when it is first called
    with random_state_untouched(f"the loss {case.name} draws from torch's global random state"):
        first = case(tensors)
        first.backward()
    changed = [wire for wire in tensors if not torch.equal(tensors[wire], copies[wire])]
    require(not changed, f"the loss {case.name} changes its inputs {changed} in place")
    require(torch.equal(case(tensors), first), f"the loss {case.name} gives two values for the same inputs")


def names_the_shapes_that_do_not_fit(case: LossCase) -> None:
    """A KDError names both inputs with their shapes where the second one has a row less."""
    tensors = case.tensors()
    if len(tensors) == 1:
        return  # there is nothing to fit
    first, second, *_ = tensors
    tensors[second] = tensors[second][:-1]
    shapes = [f"{wire} {tuple(tensors[wire].shape)}" for wire in (first, second)]
    try:
        case(tensors)
    except KDError as error:
        missing = [shape for shape in shapes if shape not in str(error)]
        require(not missing, f"the error of {case.name} for shapes that do not fit does not name {missing}: {error}")
    else:
        raise AssertionError(f"the loss {case.name} takes {' and '.join(shapes)}, which do not fit, without a KDError")


def micro_batches_add_up(case: LossCase) -> None:
    """Marked as a mean, it adds up: micro-batches of 4 and of 2, each times what it counts, give the batch of 8."""
    count = count_of(case.function)
    if count is None:
        return  # it is refused micro-batches, and given the samples of all processes
    whole = case.tensors(torch.float64, rows=8)
    expected = case.gradients(case(whole), whole)
    for rows in (4, 2):
        parts = [{wire: _rows(tensor, start, rows) for wire, tensor in whole.items()} for start in range(0, 8, rows)]
        divisors = [_divisor(case, count, part) for part in parts]
        shares = [rows / 8 if divisor is None else divisor / _total(divisors) for divisor in divisors]
        added = sum((case(part) * share for part, share in zip(parts, shares, strict=True)), start=torch.zeros(()))
        for wire, gradient in case.gradients(added, whole).items():
            message = f"the loss {case.name} is not the mean that its mark says: micro-batches of {rows} do not add up"
            require_close(gradient, expected[wire], f"{message} to the gradient of {wire}")


def _rows(tensor: Tensor, start: int, rows: int) -> Tensor:
    """A micro-batch of a batch of 8; what has another length is no part of the batch."""
    return tensor[start : start + rows] if len(tensor) == 8 else tensor


def _divisor(case: LossCase, count: Count, tensors: Mapping[str, Tensor]) -> Tensor | None:
    known = {**case.values, **tensors}
    return count(**{name: known[name] for name in inspect.signature(count).parameters if name in known})


def _total(divisors: Sequence[Tensor | None]) -> Tensor:
    return torch.stack([divisor for divisor in divisors if divisor is not None]).sum().clamp(min=1e-12)


def reads_no_number_back(case: LossCase) -> None:
    """On a GPU that waits for the device. Meta tensors have no numbers: ``.item()`` or ``if tensor`` fails on them."""
    tensors = {k: v.detach().to("meta") for k, v in case.tensors().items()}
    with no_error(f"the loss {case.name} reads numbers of its inputs (.item(), if tensor:) or has tensors elsewhere"):
        require(case(tensors).shape == (), f"the loss {case.name} is not a scalar on the meta device")


def _require_finite(case: LossCase, tensors: Mapping[str, Tensor], which: str) -> None:
    with no_error(f"the loss {case.name} does not take {which}"):
        loss = case(tensors)
    require(loss.shape == (), f"the loss {case.name} of {which} is not a scalar")
    require(loss.isfinite(), f"the loss {case.name} of {which} is {loss.item()}")
    for wire, gradient in case.gradients(loss, tensors).items():
        require(gradient.isfinite().all(), f"the gradient of {case.name} for {wire} is not finite for {which}")


LOSS_CHECKS: tuple[Callable[[LossCase], None], ...] = (
    can_be_registered,
    inputs_are_those_of_the_signature,
    hyperparameters_have_defaults,
    docstring_names_the_inputs,
    is_a_finite_scalar_of_full_precision,
    gives_every_input_a_gradient,
    gradients_are_those_of_the_value,
    depends_on_every_row,
    widens_half_precision_first,
    memory_layout_does_not_matter,
    takes_a_batch_of_one,
    is_finite_for_equal_rows,
    leaves_inputs_and_random_state_alone,
    names_the_shapes_that_do_not_fit,
    micro_batches_add_up,
    reads_no_number_back,
)
"""What every loss keeps, each as a function that raises AssertionError."""


def check_loss(
    loss: Loss | str,
    inputs: Mapping[str, Input],
    *,
    values: Mapping[str, Any] | None = None,
    from_run: Mapping[str, Any] | None = None,
    unused_rows: int = 0,
    holds: bool = False,
    device: str = "cpu",
) -> None:
    """Run :data:`LOSS_CHECKS` on a loss, a function or an ``nn.Module`` class, or the registered one of that name.

    The parameters are the fields of :class:`LossCase`. AssertionError says what the loss does not keep::

        check_loss(charbonnier, {"student": (7,), "teacher": (7,)}, values={"epsilon": 0.01})
    """
    run_all(LOSS_CHECKS, LossCase(loss, inputs, values or {}, from_run or {}, unused_rows, holds, device))
