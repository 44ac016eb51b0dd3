"""What every registered model keeps: :data:`MODEL_CHECKS`, each a function of a :class:`ModelCase`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kd_core.models.registry import MODELS
from kd_core.taps.nested import tensors
from kd_core.testing.require import no_error, require, run_all

CLASSES = 7
"""The number of classes that a model is built for."""


def first_tensor(output: Any) -> Tensor:
    """The logits of a model's output: its ``logits``, its ``out``, or the first tensor in it."""
    for name in ("logits", "out"):
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    return next(tensors(output))


@dataclass(frozen=True)
class ModelCase:
    """A model function, by itself or by its registered name, and what it is tested on.

    ``inputs`` is the shape of one sample of random numbers in [0, 1), or a function from the number of samples to what
    the model is called with. ``values`` are parameters without which it cannot be built or would be large. ``logits``
    takes the logits out of the model's output. ``output`` is the shape of one sample's logits for
    ``num_classes=7``: (7,) unless given, None where the model has no parameter ``num_classes``.
    """

    model: Callable[..., nn.Module] | str
    inputs: tuple[int, ...] | Callable[[int], Any]
    values: Mapping[str, Any] = field(default_factory=dict)
    logits: Callable[[Any], Tensor] = first_tensor
    output: tuple[int, ...] | None = (CLASSES,)

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.model if isinstance(self.model, str) else getattr(self.model, "__name__", repr(self.model))

    def build(self) -> nn.Module:
        """A new model, for :data:`CLASSES` classes; KDError where no model has that name.

        Lazy layers have got their shapes from one pass, as in a run.
        """
        function = MODELS.get(self.model) if isinstance(self.model, str) else self.model
        classes = {} if self.output is None else {"num_classes": CLASSES}
        model = function(**classes, **self.values)
        if any(map(is_lazy, model.parameters())):
            with torch.no_grad():
                self(model.eval(), self.samples())
        return model.train()

    def samples(self, size: int = 2) -> Any:
        """What the model is called with: ``size`` samples."""
        return self.inputs(size) if callable(self.inputs) else torch.rand(size, *self.inputs)

    def __call__(self, model: nn.Module, samples: Any) -> Tensor:
        """The logits of a built model."""
        return self.logits(model(**samples) if isinstance(samples, Mapping) else model(samples))


def builds_on_the_meta_device(case: ModelCase) -> None:
    """``check`` builds it there: without weights, memory or numbers; it gives as many logits as there are classes."""
    with no_error(f"the model {case.name} cannot be built and run on the meta device"), torch.device("meta"):
        logits = case(case.build().eval(), case.samples())
    if case.output is not None:
        expected = (2, *case.output)
        require(
            logits.shape == expected,
            f"the logits of {case.name} for 2 samples and {CLASSES} classes have the shape {tuple(logits.shape)}, "
            f"not {expected}",
        )


def weights_are_a_function_of_the_seed(case: ModelCase) -> None:
    """Equal seeds give equal models, other seeds others, and a state_dict carries everything that a model is."""
    samples = case.samples(1)
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(case.build().eval())
    same, again, other = models
    expected = case(same, samples)
    require(torch.equal(expected, case(again, samples)), f"the model {case.name} is not a function of the seed")
    require(not torch.equal(expected, case(other, samples)), f"the model {case.name} does not depend on the seed")
    other.load_state_dict(same.state_dict())
    carried = torch.equal(expected, case(other, samples))
    require(carried, f"the state_dict of {case.name} does not carry all that its output depends on")


def every_parameter_gets_a_gradient(case: ModelCase) -> None:
    """One that gets none is not used, and DDP waits for it for ever."""
    model = case.build()
    case(model, case.samples()).square().sum().backward()
    idle = [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None]
    require(not idle, f"the parameters {idle} of {case.name} get no gradient")


MODEL_CHECKS: tuple[Callable[[ModelCase], None], ...] = (
    builds_on_the_meta_device,
    weights_are_a_function_of_the_seed,
    every_parameter_gets_a_gradient,
)
"""What every registered model keeps, each as a function that raises AssertionError."""


def check_model(
    model: Callable[..., nn.Module] | str,
    inputs: tuple[int, ...] | Callable[[int], Any],
    *,
    values: Mapping[str, Any] | None = None,
    logits: Callable[[Any], Tensor] = first_tensor,
    output: tuple[int, ...] | None = (CLASSES,),
) -> None:
    """Run :data:`MODEL_CHECKS` on a model function, or on the registered one of that name.

    The parameters are the fields of :class:`ModelCase`. AssertionError says what the model does not keep::

        check_model("lenet", (3, 32, 32))
        check_model("unet", (3, 32, 32), values={"width": 4}, output=(7, 32, 32))
    """
    run_all(MODEL_CHECKS, ModelCase(model, inputs, values or {}, logits, output))
