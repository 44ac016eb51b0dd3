"""Edits that read other models: a module shared with one, or an adapter whose widths a pass over both tells."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kd_core.config import Call
from kd_core.errors import KDError
from kd_core.taps.wires import Tap, Wire, describe_shapes, parse_wire, pick

if TYPE_CHECKING:
    from torch import nn

Probe = Callable[[str, "nn.Module", Sequence[Tap]], Mapping[Tap, Any]]
"""``(name, model, taps)`` -> what a model gives at its taps for a few samples, its landmarks found before."""
SHAPED = "kd_core.adapters.shaped"


@dataclass
class Siblings:
    """The models of an experiment, each made when first asked for, and how one of them is run on a few samples."""

    names: Collection[str]
    make: Callable[[str], nn.Module]
    probe: Probe
    made: dict[str, nn.Module] = field(default_factory=dict)
    _under_way: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> nn.Module:
        """A model; KDError where its edits and those of another one read each other."""
        if name in self._under_way:
            raise KDError(f"its edits read {self._under_way[-1]!r}, and the edits of that read {name!r}")
        if name not in self.made:
            self._under_way.append(name)
            try:
                self.made[name] = self.make(name)
            finally:
                self._under_way.pop()
        return self.made[name]


class EditSurroundings:
    """What the edits of the model ``name`` take from its ``siblings``; without these, nothing.

    ``resolved`` are the edits so far as calls and paths, from which the model is made without its siblings.
    """

    def __init__(self, name: str, build: Callable[[Any], Any], siblings: Siblings | None) -> None:
        self.name, self.build, self.siblings = name, build, siblings
        self.resolved: list[dict[str, Any]] = []

    def learn(self, model: nn.Module) -> None:
        """Find the landmarks of a model that tells none."""
        if self.siblings is not None:
            self.siblings.probe(self.name, model, [])

    def resolve(self, model: nn.Module, edit: Mapping[str, Any]) -> Mapping[str, Any]:
        """An edit with a module where it names one of another model or an adapter."""
        from kd_core.taps.edits import MODULE_KEYS

        key = next((key for key in MODULE_KEYS if isinstance(edit.get(key), (str, Mapping))), None)
        if key is None:
            self.resolved.append(dict(edit))
            return edit
        value = edit[key]
        spec = {"module": value} if isinstance(value, str) else dict(value)
        if self._is_shared(name := str(spec.get("module"))):
            module = self._shared(model, name)
            call = Call("torch.nn.Linear", kwargs=_linear(name, module))
        else:
            call = Call(SHAPED, kwargs=self._shapes(model, spec, self._input(edit)))
            module = self.build(call)
        self.resolved.append({**edit, key: call})
        return {**edit, key: module}

    def _is_shared(self, text: str) -> bool:
        """Whether it is the path of a model's module, not the name of an adapter."""
        names = () if self.siblings is None else self.siblings.names
        return text.partition(".")[0] in names or "." in text

    def _input(self, edit: Mapping[str, Any]) -> Tap:
        """The place whose value the new module is to take."""
        from kd_core.taps.edits import insertion

        return insertion(edit) if "after" in edit else Tap(str(edit["replace"]), "in")

    def _wire(self, text: str) -> Wire:
        if self.siblings is None:
            hint = "score a run's student, whose description has no other model in it"
            raise KDError(f"{text!r} is read of another model, and only training builds both", hint=hint)
        return parse_wire(text, list(self.siblings.names))

    def _sibling(self, model: nn.Module, name: str) -> nn.Module:
        assert self.siblings is not None
        return model if name == self.name else self.siblings[name]

    def _shared(self, model: nn.Module, text: str) -> nn.Module:
        """The module of a model that is shared with this one."""
        from kd_core.taps.landmarks import known
        from kd_core.taps.paths import module_at

        wire = self._wire(text)
        assert self.siblings is not None
        if wire.tap is None or wire.fields or not wire.tap.path:
            raise KDError(f"{text!r} is not the path of a module", hint="write MODEL.path or MODEL.@classifier")
        owner = self._sibling(model, wire.root)
        if wire.tap.is_landmark and not known(owner):
            self.siblings.probe(wire.root, owner, [])
        return module_at(owner, wire.tap.path)

    def _shapes(self, model: nn.Module, spec: dict[str, Any], place: Tap) -> dict[str, Any]:
        """The arguments of :func:`kd_core.adapters.shaped` for an adapter that is to take the value at ``place``."""
        if self.siblings is None:
            self._wire(str(spec["module"]))
        assert self.siblings is not None
        match = spec.pop("match", None)
        taken = self.siblings.probe(self.name, model, [place])[place]
        shapes: dict[str, Any] = {"module": spec.pop("module"), "inputs": [shape_of(taken, str(place))]}
        if match is not None:
            wire = self._wire(match)
            if wire.tap is None:
                raise KDError(f"{match!r} is not a place in a model", hint="write MODEL.path or MODEL.@last_map")
            found = self.siblings.probe(wire.root, self._sibling(model, wire.root), [wire.tap])[wire.tap]
            shapes["match"] = shape_of(pick(found, wire.fields), match)
        return {**shapes, **spec}


def shape_of(value: Any, place: str) -> list[int]:
    """The shape of a tensor; KDError where the value at ``place`` is none."""
    from torch import Tensor

    if not isinstance(value, Tensor):
        raise KDError(f"{place} carries {describe_shapes(value)}, not one tensor")
    return list(value.shape)


def _linear(text: str, module: nn.Module) -> dict[str, Any]:
    """The arguments that make a linear layer like this one; KDError where it is no linear layer."""
    from torch import nn

    if type(module) is not nn.Linear:
        message = f"{text} is a {type(module).__name__}, and only a torch.nn.Linear is shared by its path"
        hint = "write the other model as a call with an anchor, and `!getattr:PATH [*ANCHOR]` here"
        raise KDError(message, hint=hint)
    values = {"in_features": module.in_features, "out_features": module.out_features}
    return values if module.bias is not None else {**values, "bias": False}
