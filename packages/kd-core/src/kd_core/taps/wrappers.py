"""Models with taps: run a module and capture what passes through its submodules, without changing it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

from kd_core.errors import ConfigError
from kd_core.taps.hooks import Mode, Pass, Place, Stop, hooked, random_states
from kd_core.taps.landmarks import places
from kd_core.taps.nested import mapped, tensors
from kd_core.taps.paths import ModelWrapper, module_at, unwrap_model
from kd_core.taps.wires import ALL, Tap, config_error, describe_shapes

OUTPUT = Tap("")


@dataclass(frozen=True)
class Capture:
    """What one forward pass gave: the model's output and the value at each tap. It lives for one step."""

    output: Any
    at: Mapping[Tap, Any]


def is_compiled(model: nn.Module) -> bool:
    """Whether any part of ``model`` is to run through torch.compile."""
    return any(
        submodule._compiled_call_impl is not None or "_orig_mod" in submodule._modules for submodule in model.modules()
    )


class ForwardWrapper(ModelWrapper):
    """Runs ``module`` and captures the values at ``taps``, each as it was when the module took or gave it.

    Outputs are the bare module's, bit for bit, and so are the state_dict's keys; gradients flow through captures.
    ``call(module, inputs)`` is the forward pass.

    With ``early_stop``, where no tap asks for the model's output, that is None and a pass ends at its deepest tap. It
    runs in full the first time in each mode of the module, in compiled code, under DDP, and where a tap counts calls
    from the end or takes all of them. With ``spare`` it runs in full, too, where a module in training mode that has
    parameters or buffers comes after that tap, whose statistics may move, or where random numbers are drawn there.
    """

    def __init__(
        self,
        module: nn.Module,
        taps: Iterable[Tap] = (),
        *,
        name: str = "student",
        call: Callable[[nn.Module, Any], Any] | None = None,
        early_stop: bool = False,
        spare: bool = False,
    ) -> None:
        super().__init__()
        self.module = module
        self.name = name
        self.early_stop = early_stop
        self._spare = spare
        self._ends_idle: dict[Mode, bool] = {}
        self._call = call
        self._now = Pass()
        self._taps: tuple[Tap, ...] = ()
        self._landmarks: dict[Tap, Tap | list[Tap]] = {}
        self._parameter_taps: dict[Tap, tuple[nn.Module, str]] = {}
        self._wired: dict[Tap, Place] = {}
        self._places: list[Place] = []
        self._asks_output = not early_stop
        self._stops = False
        self._handles: list[RemovableHandle] = []
        self.retap(taps)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The places looked at."""
        return self._taps

    def retap(self, taps: Iterable[Tap]) -> None:
        """Look at these places from now on; ConfigError, and nothing changed, where there is no such module."""
        taps = tuple(dict.fromkeys(taps))
        if taps == self._taps:
            return
        landmarks = {tap: places(unwrap_model(self.module), tap) for tap in taps if tap.is_landmark}
        at_modules = dict.fromkeys(flat_places(landmarks.get(tap, tap) for tap in taps))
        modules = {tap: module_at(self.module, tap.path) for tap in at_modules if tap != OUTPUT}
        parameters: dict[Tap, tuple[nn.Module, str]] = {
            tap: (module, tap.side) for tap, module in modules.items() if tap.is_parameter
        }
        for tap, (module, name) in parameters.items():
            if not isinstance(getattr(module, name, None), Tensor):
                raise config_error(f"{tap}: {type(module).__name__} has no {name}")
        modules = {tap: module for tap, module in modules.items() if tap not in parameters}
        points = {(module, tap.side): Place(self._now) for tap, module in modules.items()}
        for handle in self._handles:
            handle.remove()
        self._taps, self._landmarks, self._parameter_taps = taps, landmarks, parameters
        self._ends_idle = {}
        self._asks_output = OUTPUT in taps or not self.early_stop
        # DDP prepares its backward pass after the module's forward: that is not cut short
        self._stops = (
            self.early_stop
            and self.module is unwrap_model(self.module)
            and all(tap.call != ALL and int(tap.call or 0) >= 0 for tap in modules)
        )
        self._wired = {tap: points[module, tap.side] for tap, module in modules.items()}
        self._places = list(points.values())
        self._handles = [hooked(module, side, point) for (module, side), point in points.items()]
        for tap, point in self._wired.items():
            point.needed = max(point.needed, 1 if tap.call == ALL else int(tap.call or 0) + 1)
        if points and is_compiled(self.module):
            torch._dynamo.reset()  # code that is already compiled ignores new hooks (pytorch#117758)

    def release(self) -> nn.Module:
        """Take the hooks off and give the module back as it was."""
        self.retap(())
        return self.module

    def forward(self, inputs: Any) -> Capture:
        """One pass. KDError where a tap did not fire, or its module ran several times and no call is chosen."""
        if not (self._asks_output or self._places):
            return Capture(None, self._with_parameters({}))
        module = self.module
        mode = (module.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        try:
            output = self._run(module, inputs, mode)
            at = self._collect(mode)
        finally:
            self._now.on = False
            for point in self._places:
                point.clear()
        if OUTPUT in self._taps:
            at[OUTPUT] = output
        return Capture(output if self._asks_output else None, at)

    def _run(self, module: nn.Module, inputs: Any, mode: Mode) -> Any:
        probing = False
        for point in self._places:
            point.clones = point.learned.get(mode)
            probing |= point.clones is None
        stops = self._stops and not self._asks_output
        may_stop = not self._spare or self._ends_idle.get(mode, False)
        self._now.pending = len(self._places) if stops and may_stop and not probing else 0
        self._now.on = True
        try:
            with self._watched(mode) if stops and self._spare and probing else nullcontext():
                return module(inputs) if self._call is None else self._call(module, inputs)
        except Stop:
            return None

    @contextmanager
    def _watched(self, mode: Mode) -> Iterator[None]:
        """See in a full pass whether a module that may move begins, or numbers are drawn, after the deepest tap."""
        idle = True
        self._now.drawn = random_states()

        def beginning(module: nn.Module, args: Any) -> None:
            nonlocal idle
            moves = module.training and (module._parameters or module._buffers)  # what has neither may draw, seen below
            idle = idle and not (moves and all(len(point.calls) >= point.needed for point in self._places))

        handle = register_module_forward_pre_hook(beginning)
        try:
            yield
            self._ends_idle[mode] = idle and all(map(torch.equal, self._now.drawn, random_states()))
        finally:
            self._now.drawn = None
            handle.remove()

    def _collect(self, mode: Mode) -> dict[Tap, Any]:
        intact = {point: point.settle(mode) for point in self._places}
        at = {}
        for tap, point in self._wired.items():
            if not intact[point]:
                change = "was changed in place later in this pass, and in earlier ones was not"
                raise config_error(
                    f"{self.name}: the value at {tap} {change}", "write the model's operation with inplace=False"
                )
            calls = point.calls
            at[tap] = calls[0] if tap.call is None and len(calls) == 1 else self._chosen(tap, calls)
        return self._with_parameters(at)

    def parameter_values(self) -> dict[Tap, Any]:
        """The values of the taps that are parameters, which no pass changes, whole where they are sharded."""
        at: dict[Tap, Any] = {}
        for tap, (module, name) in self._parameter_taps.items():
            parameter = getattr(module, name)
            if (
                hasattr(parameter, "full_tensor") and parameter.requires_grad
            ):  # each process would have its own gradient
                raise config_error(f"{self.name}: {tap} is sharded and trained, and cannot be read as a whole")
            at[tap] = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
        return at

    def _with_parameters(self, at: dict[Tap, Any]) -> dict[Tap, Any]:
        """The values of a pass with those of parameters, and those of landmarks."""
        at |= self.parameter_values()
        for tap, place in self._landmarks.items():
            at[tap] = [_landmark(at, one) for one in place] if isinstance(place, list) else _landmark(at, place)
        return at

    def _chosen(self, tap: Tap, calls: list[Any]) -> Any:
        if tap.call == ALL and calls:
            return list(calls)
        if isinstance(tap.call, int) and -len(calls) <= tap.call < len(calls):
            return calls[tap.call]
        if not calls:
            raise self._silent(tap)
        ran = ", ".join(f":{index} {describe_shapes(output)}" for index, output in enumerate(calls))
        hint = f"choose one, such as {self.name}.{Tap(tap.path, tap.side, len(calls) - 1)}, or all by :all"
        raise config_error(f"{self.name}: module {tap.path!r} ran {len(calls)} times in this pass: {ran}", hint)

    def _silent(self, tap: Tap) -> ConfigError:
        kind = type(module_at(self.module, tap.path)).__name__
        missed = "called it" if tap.side == "in" else "finished a call of it"
        message = f"{self.name}: tap {tap} did not fire: the model has {tap.path!r} ({kind}), but no pass {missed}"
        if is_compiled(self.module):
            return config_error(message, "if the model ran compiled before it was tapped, call torch._dynamo.reset()")
        return config_error(message, "`taps` lists what a pass calls; a module's parent may use only its weights")

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """That of the bare module."""
        return unwrap_model(self).state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load what :meth:`state_dict` gave."""
        return unwrap_model(self).load_state_dict(state_dict, strict, assign)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """When a parent loads: give keys of the bare module the names that they have in the tree of modules."""
        inner = next(name for name, module in self.named_modules() if module is unwrap_model(self))
        for key in [key for key in state_dict if key.startswith(prefix)]:
            state_dict[f"{prefix}{inner}.{key[len(prefix) :]}"] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)


def flat_places(landmarks: Iterable[Tap | list[Tap]]) -> Iterator[Tap]:
    """The taps in single ones and lists of them."""
    for place in landmarks:
        yield from place if isinstance(place, list) else [place]


def _landmark(at: Mapping[Tap, Any], place: Tap) -> Any:
    """What a landmark takes of its module's value: the first tensor, as a transformer's layer gives its hidden state
    first, unless its form says otherwise."""
    value = at[place]
    if place.form == "second":
        return value[1]
    value = value if isinstance(value, Tensor) else next(tensors(value), value)
    return value.permute(0, 3, 1, 2) if place.form == "channels_last" else value


class Teacher(ForwardWrapper):
    """A frozen model: no gradients, evaluation mode whatever ``train()`` says, captures without a graph.

    It runs under no_grad, not inference_mode, whose tensors no student could save for its backward pass. With
    ``train_mode`` it follows ``train()``, and BatchNorm statistics move. :meth:`release` gives back requires_grad and
    the modes of all modules.
    """

    def __init__(
        self,
        module: nn.Module,
        taps: Iterable[Tap] = (),
        *,
        name: str = "teacher",
        call: Callable[[nn.Module, Any], Any] | None = None,
        early_stop: bool = False,
        train_mode: bool = False,
    ) -> None:
        super().__init__(module, taps, name=name, call=call, early_stop=early_stop)
        self.train_mode = train_mode
        self._thawed = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._training = [submodule for submodule in module.modules() if submodule.training]
        module.requires_grad_(False)
        self.train(module.training)

    def train(self, mode: bool = True) -> Teacher:
        """Evaluation mode, or with ``train_mode`` the mode asked for."""
        return super().train(mode and self.train_mode)

    def forward(self, inputs: Any) -> Capture:
        """One pass without gradients."""
        if self.module.training and not self.train_mode:
            self.module.eval()
        with torch.no_grad():
            capture = super().forward(inputs)
        return Capture(_detached(capture.output), {tap: _detached(value) for tap, value in capture.at.items()})

    def release(self) -> nn.Module:
        """Take the hooks off and give the module back as it was, unfrozen."""
        for submodule in self.module.modules():
            submodule.training = False
        for submodule in self._training:
            submodule.training = True
        for parameter in self._thawed:
            parameter.requires_grad_(True)
        return super().release()


def _detached(value: Any) -> Any:
    # an input that needs gradients, tapped or handed through, keeps its graph under no_grad
    return mapped(Tensor.detach, value) if any(tensor.requires_grad for tensor in tensors(value)) else value
