"""Models with taps: run a module and capture what passes through its submodules, without changing it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kd_core.errors import did_you_mean, nearest
from kd_core.nested import mapped, tensors
from kd_core.wires import Inputs, Tap, describe, refuse

OUTPUT = Tap("")
_ENGINES = {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "FSDPModule"}


@dataclass(frozen=True)
class Capture:
    """What one forward pass gave: the model's output and the value at each tap. It lives for one step."""

    output: Any
    at: Mapping[Tap, Any]


def bare(module: nn.Module) -> nn.Module:
    """The user's module inside forward wrappers, ``torch.compile`` and DDP."""
    while True:
        if isinstance(module, ForwardWrapper):
            module = module.module
        elif "_orig_mod" in module._modules:
            module = module.get_submodule("_orig_mod")
        elif type(module).__name__ in _ENGINES and "module" in module._modules:
            module = module.get_submodule("module")
        else:
            return module


def module_at(model: nn.Module, path: str) -> nn.Module:
    """The submodule at a dotted ``path``, in which a negative number counts children from the end.

    Raises ConfigError with the nearest path where there is none.
    """
    found = bare(model)
    parts = path.split(".") if path else []
    for depth, part in enumerate(parts):
        children = found._modules
        if part.startswith("-") and part[1:].isdecimal() and 0 < int(part[1:]) <= len(children):
            part = list(children)[int(part)]
        child = children.get(part)
        if child is None:
            _no_module(bare(model), path, ".".join(parts[:depth]), found, part)
        found = child
    return found


def _no_module(model: nn.Module, path: str, parent_path: str, parent: nn.Module, part: str) -> NoReturn:
    message = f"{type(model).__name__} has no module {path!r}"
    within = f"{parent_path}." if parent_path else ""
    children = [within + name for name, child in parent._modules.items() if child is not None]
    if path.split(".")[0] == "output":
        refuse(
            message, f"the model's output is MODEL.output, its fields come after '/': MODEL.{path.replace('.', '/')}"
        )
    if isinstance(getattr(parent, part, None), Tensor):
        refuse(message, f"{within}{part} is a tensor; only modules can be tapped")
    if not children:
        refuse(message, f"{parent_path or 'it'} ({type(parent).__name__}) has no modules inside")
    rest = path[len(within) + len(part) :]
    near = nearest(within + part, children) or nearest(path, [name for name, _ in model.named_modules() if name])
    refuse(
        message,
        f"did you mean {near + rest if near in children else near!r}?" if near else did_you_mean(part, children),
    )


class _Stop(BaseException):
    """Every tap has fired. Not an Exception, so that no model's ``except Exception`` keeps it."""


@dataclass(eq=False)
class _Pass:
    """The forward pass of one wrapper, as its hooks see it."""

    on: bool = False
    pending: int = 0  # places that must still fire before the pass stops early; 0 where it must not stop


@dataclass
class _Plan:
    """What the first pass in a mode of the model, the probe, learned about one place."""

    clones: bool  # something changes the value in place later
    calls: int


@dataclass(eq=False)
class _Place:
    """One side of one module: its hook, and what the pass under way has put there."""

    now: _Pass
    calls: list[tuple[Any, Any]] = field(default_factory=list)  # the value, and in the probe its clone
    versions: list[tuple[Tensor, int]] = field(default_factory=list)
    plans: dict[Any, _Plan] = field(default_factory=dict)  # by mode
    plan: _Plan | None = None

    def entering(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The forward pre-hook."""
        if self.now.on:
            self.take(args[0] if len(args) == 1 and not kwargs else Inputs(args, kwargs))

    def leaving(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The forward hook."""
        if self.now.on:
            self.take(output)

    def take(self, value: Any) -> None:
        """Keep ``value`` as it is now: itself, or its clone where the probe saw it change later.

        The probe keeps both and decides at its end, so that its graph is that of all passes after it. A compiled graph
        cannot watch versions: there, a capture is always a clone.
        """
        if torch.compiler.is_compiling():
            self.calls.append((mapped(torch.clone, value), None))
            return
        plan = self.plan
        if plan is not None and plan.clones:
            self.calls.append((mapped(torch.clone, value), None))
        else:
            self.versions += [(each, each._version) for each in tensors(value) if not each.is_inference()]
            self.calls.append((value, mapped(torch.clone, value) if plan is None else None))
        if self.now.pending and plan is not None and len(self.calls) == plan.calls:
            self.now.pending -= 1
            if not self.now.pending:
                raise _Stop

    def settle(self, mode: Any) -> bool:
        """At the end of a pass: learn from the probe. False where a value was lost to a change the probe did not see."""
        changed = any(tensor._version != version for tensor, version in self.versions)
        if self.plan is not None:
            return not changed
        changed |= torch.is_inference_mode_enabled()  # inference tensors have no versions
        self.plans[mode] = _Plan(changed, len(self.calls))
        if changed:
            self.calls = [(value if copy is None else copy, None) for value, copy in self.calls]
        return True


class ForwardWrapper(nn.Module):
    """Runs ``module`` and captures the values at ``taps``.

    Outputs are those of the bare module, bit for bit, and so are the state_dict's keys. ``call(module, inputs)`` is
    the forward pass. With ``early_stop``, a pass whose taps lack the model's output ends at the deepest tap and its
    ``output`` is None; it runs in full the first time in each mode, to learn which that is, in compiled code, under DDP
    and where a tap counts calls from the end. Gradients flow through captures.
    """

    def __init__(
        self,
        module: nn.Module,
        taps: Iterable[Tap] = (),
        *,
        name: str = "student",
        call: Callable[[nn.Module, Any], Any] | None = None,
        early_stop: bool = False,
    ) -> None:
        super().__init__()
        self.module = module
        self.name = name
        self.early_stop = early_stop
        self._call = call
        self._taps: tuple[Tap, ...] = ()
        self._now = _Pass()
        self._wired: dict[Tap, _Place] = {}
        self._places: list[_Place] = []
        self._handles: list[RemovableHandle] = []
        self.register_load_state_dict_pre_hook(_add_prefix)
        self.retap(taps)

    @property
    def taps(self) -> tuple[Tap, ...]:
        return self._taps

    def retap(self, taps: Iterable[Tap]) -> None:
        """Look at these taps from now on; ConfigError, and nothing changed, where a module does not exist."""
        taps = tuple(dict.fromkeys(taps))
        if taps == self._taps:
            return
        modules = {tap: module_at(self.module, tap.path) for tap in taps if tap != OUTPUT}
        for handle in self._handles:
            handle.remove()
        places = {(modules[tap], tap.side): _Place(self._now) for tap in modules}
        self._taps = taps
        self._wired = {tap: places[modules[tap], tap.side] for tap in modules}
        self._places = list(places.values())
        self._handles = [_hook(module, side, place) for (module, side), place in places.items()]
        if places and is_compiled(self.module):
            torch._dynamo.reset()  # what is compiled ignores hooks that came later (pytorch#117758)

    def release(self) -> nn.Module:
        """Remove all hooks and give the module back as it was."""
        self.retap(())
        return self.module

    def forward(self, inputs: Any) -> Capture:
        """One pass. Raises KDError where a tap did not fire, or its module ran several times and ``call`` is None."""
        asks_output = OUTPUT in self._taps or not self.early_stop
        if not (asks_output or self._places):
            return Capture(None, {})
        mode = (self.module.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        try:
            output = self._run(inputs, mode, stops=not asks_output and self._can_stop())
            at = self._collect(mode)
        finally:
            self._now.on = False
            for place in self._places:
                place.calls, place.versions = [], []
        if OUTPUT in self._taps:
            at[OUTPUT] = output
        return Capture(output if asks_output else None, at)

    def _run(self, inputs: Any, mode: Any, stops: bool) -> Any:
        for place in self._places:
            place.plan = place.plans.get(mode)
        self._now.pending = len(self._places) if stops else 0
        self._now.on = True
        try:
            return self._call(self.module, inputs) if self._call else self.module(inputs)
        except _Stop:
            return None

    def _can_stop(self) -> bool:
        return self.module is bare(self.module) and not any((tap.call or 0) < 0 for tap in self._taps)

    def _collect(self, mode: Any) -> dict[Tap, Any]:
        intact = [place.settle(mode) for place in self._places]
        if not all(intact):
            lost = next(tap for tap in self._wired if not intact[self._places.index(self._wired[tap])])
            refuse(
                f"{self.name}: the value at {lost} was changed in place by a later operation, but not in earlier passes",
                "let the model do it always or never (inplace=False)",
            )
        return {tap: self._value(tap, [value for value, _ in place.calls]) for tap, place in self._wired.items()}

    def _value(self, tap: Tap, calls: list[Any]) -> Any:
        if not calls:
            self._refuse_silent(tap)
        if tap.call is None and len(calls) == 1:
            return calls[0]
        if tap.call is not None and -len(calls) <= tap.call < len(calls):
            return calls[tap.call]
        ran = ", ".join(f":{index} {describe(each)}" for index, each in enumerate(calls))
        times = "once" if len(calls) == 1 else f"{len(calls)} times"
        refuse(
            f"{self.name}: module {tap.path!r} runs {times} in a pass: {ran}",
            f"choose a call: {self.name}.{tap.path}{':in' if tap.side == 'in' else ''}:{len(calls) - 1}",
        )

    def _refuse_silent(self, tap: Tap) -> NoReturn:
        kind = type(module_at(self.module, tap.path)).__name__
        message = (
            f"{self.name}: tap {tap} did not fire: module {tap.path!r} ({kind}) exists but was not called in this pass"
        )
        if is_compiled(self.module):
            refuse(message, "if the model ran compiled before it was tapped, call torch._dynamo.reset()")
        refuse(
            message,
            "`taps` lists the modules that a pass calls; the parent may use this one's weights without calling it",
        )

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return bare(self).state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return bare(self).load_state_dict(state_dict, strict, assign)


class Teacher(ForwardWrapper):
    """A frozen model: no gradients, evaluation mode whatever ``train()`` says, captures without a graph.

    It runs under no_grad and not inference_mode, whose tensors no student could save for backward. With ``train_mode``
    it follows ``train()``, and its BatchNorm statistics then move. :meth:`release` gives back requires_grad and modes.
    """

    def __init__(
        self, module: nn.Module, taps: Iterable[Tap] = (), *, train_mode: bool = False, **options: Any
    ) -> None:
        super().__init__(module, taps, **options)
        self.train_mode = train_mode
        self._thawed = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._training = [each for each in module.modules() if each.training]
        module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Teacher:
        super().train(mode)
        self.module.train(mode and self.train_mode)
        return self

    def forward(self, inputs: Any) -> Capture:
        if self.module.training and not self.train_mode:
            self.module.eval()
        with torch.no_grad():
            capture = super().forward(inputs)
        return Capture(_plain(capture.output), {tap: _plain(value) for tap, value in capture.at.items()})

    def release(self) -> nn.Module:
        self.module.eval()
        for each in self._training:
            each.training = True
        for parameter in self._thawed:
            parameter.requires_grad_(True)
        return super().release()


def _plain(value: Any) -> Any:
    return mapped(Tensor.detach, value) if any(each.requires_grad for each in tensors(value)) else value


def _hook(module: nn.Module, side: str, place: _Place) -> RemovableHandle:
    if side == "in":
        return module.register_forward_pre_hook(place.entering, with_kwargs=True)
    return module.register_forward_hook(place.leaving)


def _add_prefix(wrapper: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before a parent loads: the keys of the bare model become those of the module tree."""
    inner = next(name for name, each in wrapper.named_modules() if each is bare(wrapper))
    for key in [key for key in state_dict if key.startswith(prefix)]:
        state_dict[f"{prefix}{inner}.{key[len(prefix) :]}"] = state_dict.pop(key)


def is_compiled(model: nn.Module) -> bool:
    """Whether any part of ``model`` went through torch.compile."""
    return any(each._compiled_call_impl is not None or "_orig_mod" in each._modules for each in model.modules())
