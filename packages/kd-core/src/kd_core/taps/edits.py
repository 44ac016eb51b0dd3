"""Changes to a built model: cut it short, replace or insert modules, freeze parameters. Kept parts keep their keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any, Protocol

from torch import nn

from kd_core.errors import ConfigError, KDError, Unverified, did_you_mean, nearest
from kd_core.taps.hooks import hook_output
from kd_core.taps.landmarks import cut_off, known, places
from kd_core.taps.paths import module_at, resolve_path, unwrap_model, walk
from kd_core.taps.wires import Tap, config_error, parse_tap, parse_wire

Build = Callable[[Any], nn.Module]
_CLASS = "class:"
_KEYS = {"replace": ("replace", "with"), "insert": ("insert", "after")}
_OPTIONAL = {"insert": ("name",)}
MODULE_KEYS = ("insert", "with")
"""The keys of edits that hold a module."""


class Surroundings(Protocol):
    """What edits may take from outside the model that they change."""

    def learn(self, model: nn.Module) -> None:
        """Find the landmarks of a model that tells none."""
        ...

    def resolve(self, model: nn.Module, edit: Mapping[str, Any]) -> Mapping[str, Any]:
        """An edit whose places are paths, with a module where it names one of another model or an adapter."""
        ...


def apply_edits(
    model: nn.Module, edits: Sequence[Mapping[str, Any]], build: Build, surroundings: Surroundings | None = None
) -> nn.Module:
    """Apply ``edits`` in order to ``model``, in place, and return it. ``build`` makes modules of what configs hold.

    - ``{truncate: PATH}``: the output of PATH (of its first call) becomes the model's, and the modules registered
      after it are dropped, with their parameters;
    - ``{replace: PATH, with: MODULE}``;
    - ``{insert: MODULE, after: PLACE}``: the new module takes the value at PLACE, the output of a module or, with
      ``:in``, its input, and what it gives takes that value's place. It is ``PATH.inserted``, or with ``name: NAME`` a
      module NAME of the model itself;
    - ``{freeze: PATTERN}`` or a list of them, as in :func:`matching`.

    A place may be a landmark. Raises ConfigError, whose problem has the path ``INDEX.KEY``.
    """
    for index, edit in enumerate(edits):
        kind = next((candidate for candidate in _EDITS if candidate in edit), None)
        try:
            if kind is None:
                near = did_you_mean(next(iter(edit), ""), list(_EDITS))
                raise config_error(f"an edit is one of {', '.join(_EDITS)}", near)
            _check_keys(edit, kind)
            user_model = unwrap_model(model)
            edit = _placed(user_model, edit, surroundings)
            _EDITS[kind](user_model, edit if surroundings is None else surroundings.resolve(user_model, edit), build)
        except Unverified:
            raise
        except KDError as error:
            path = (index, kind) if kind else (index,)
            moved = (
                problem if problem.path else problem.below(*path) for problem in error.problems
            )  # one from ``build`` has its own
            raise ConfigError(moved) from None
    return model


def _check_keys(edit: Mapping[str, Any], kind: str) -> None:
    keys = _KEYS.get(kind, (kind,))
    for key in edit:
        if key not in (known_keys := [*keys, *_OPTIONAL.get(kind, ())]):
            raise KDError(f"the edit {kind!r} has no key {key!r}", hint=did_you_mean(key, known_keys))
    for key in keys:
        if key not in edit:
            raise config_error(
                f"the edit {kind!r} is missing the required key {key!r}",
                f"write {{{', '.join(f'{key}: ...' for key in keys)}}}",
            )


def _placed(model: nn.Module, edit: Mapping[str, Any], surroundings: Surroundings | None) -> dict[str, Any]:
    """An edit whose landmarks are written out as places of this model."""
    written = {key: str(edit[key]) for key in ("truncate", "replace", "after") if str(edit.get(key)).startswith("@")}
    if written and surroundings is not None and not known(model):
        surroundings.learn(model)
    taps = {key: _landmark(model, text) for key, text in written.items()}
    for key, tap in taps.items():
        if tap.side != "out" and key != "after":
            raise config_error(f"{written[key]} is {tap}, which is no module's output", "name a module by its path")
    return {**edit, **{key: str(tap) for key, tap in taps.items()}}


def _landmark(model: nn.Module, text: str) -> Tap:
    """The one place that a landmark stands for."""
    wire = parse_wire(f"model.{text}", ["model"])
    assert wire.tap is not None
    found = places(model, wire.tap)
    if isinstance(found, list):
        raise config_error(f"{text} are {len(found)} places", f"write {text}/0 or {text}/-1")
    return found


def _truncate(model: nn.Module, edit: Mapping[str, Any], build: Build) -> None:
    path = str(edit["truncate"])
    along = resolve_path(model, path)
    _refuse_whole(along, "truncated")
    _refuse_uncalled(along[-1][1], path)
    for depth, ((_, parent), (last, _)) in enumerate(pairwise(along)):
        above = "".join(f"{name}." for name, _ in along[1 : depth + 1])
        names = list(parent._modules)
        for name in names[names.index(last) + 1 :]:
            setattr(parent, name, RemovedModule(above + name, path))
    cut = _Cut(model, path)
    along[-1][1].register_forward_hook(cut.reach)
    model.forward = cut.run
    cut_off(model, lambda path: _is_gone(model, path))


def _is_gone(model: nn.Module, path: str) -> bool:
    """Whether a module lies in what truncation dropped."""
    try:
        return any(isinstance(module, RemovedModule) for _, module in resolve_path(model, path))
    except ConfigError:
        return True


class RemovedModule(nn.Module):
    """Stands for a module that truncation dropped: forward passes may mention it on their way, but not run it."""

    def __init__(self, path: str, end: str) -> None:
        super().__init__()
        self.path = path
        self.end = end

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Raises ConfigError."""
        message = f"truncate dropped {self.path!r}, which the model runs before {self.end!r}"
        raise config_error(message, "truncate at a later or a larger module")


class _TruncationPoint(BaseException):
    """The module at which a model is truncated has run."""

    def __init__(self, cut: _Cut, output: Any) -> None:
        self.cut = cut
        self.output = output


@dataclass(eq=False)
class _Cut:
    """The forward pass of a truncated model: that of its class, as far as the module at ``path``.

    An exception ends it, so that any model can be cut, whatever its forward does. torch.compile follows it without a
    graph break, as does ``torch.export.export(strict=True)``; it pickles and copies along with the model.
    """

    model: nn.Module
    path: str
    running: bool = False

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward."""
        self.running = True
        try:
            type(self.model).forward(self.model, *args, **kwargs)
        except _TruncationPoint as reached:
            if reached.cut is not self:
                raise
            return reached.output
        finally:
            self.running = False
        raise config_error(f"truncate: no pass calls {self.path!r}", "truncate at a module that the model calls")

    def reach(self, module: nn.Module, args: Any, output: Any) -> None:
        """The forward hook at ``path``, which others may call by itself."""
        if self.running:
            raise _TruncationPoint(self, output)

    reach.ends_pass = True  # type: ignore[attr-defined]


def _replace(model: nn.Module, edit: Mapping[str, Any], build: Build) -> None:
    along = resolve_path(model, str(edit["replace"]))
    _refuse_whole(along, "replaced")
    name, old = along[-1]
    setattr(along[-2][1], name, _built(build, edit["with"], old.training))


def _insert(model: nn.Module, edit: Mapping[str, Any], build: Build) -> None:
    place = insertion(edit)
    host, sequential = module_at(model, place.path), nn.Sequential.forward
    _refuse_uncalled(host, edit["after"])
    module = _built(build, edit["insert"], host.training)
    if (name := edit.get("name")) is not None:
        _add_named(model, str(name), module)
        child = _Child(str(name), model)
    elif place.side == "in" and type(host).forward is sequential:
        raise config_error(f"{edit['after']}: a Sequential runs all of its modules", "give the new one a `name:`")
    else:
        number = sum(child_name.startswith("inserted") for child_name in host._modules)
        child = _Child(f"inserted{number + 1}" if number else "inserted")
        host.add_module(child.name, module)
    if place.side == "in":
        host.register_forward_pre_hook(child.before)
    elif name is not None or type(host).forward is not sequential:  # which runs its last child by itself
        hook_output(host, child.after)


def insertion(edit: Mapping[str, Any]) -> Tap:
    """Where an edit inserts a module; ConfigError where that is one call of several, or a parameter."""
    place = parse_tap(str(edit["after"]))
    if place.call is not None or place.is_parameter:
        what = "one of several calls" if place.call is not None else "a parameter"
        raise config_error(f"nothing can be inserted at {place}, {what}", "write `after: PATH` or `after: PATH:in`")
    return place


def _add_named(model: nn.Module, name: str, module: nn.Module) -> None:
    if not name.isidentifier() or hasattr(model, name):
        raise config_error(f"{name!r} cannot name an inserted module: it is taken, or no identifier", "choose another")
    if type(model).forward is nn.Sequential.forward:
        raise config_error(f"{name}: a Sequential runs all of its modules", "leave `name:` out")
    model.add_module(name, module)


@dataclass(frozen=True, eq=False)
class _Child:
    """The hooks that send a value through a child of the hooked module, or of ``owner``."""

    name: str
    owner: nn.Module | None = None

    def run(self, module: nn.Module, value: Any) -> Any:
        """What the child gives for a value."""
        return (module if self.owner is None else self.owner)._modules[self.name](value)  # type: ignore[misc]

    def after(self, module: nn.Module, args: Any, output: Any) -> Any:
        """The forward hook."""
        return self.run(module, output)

    def before(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The forward pre-hook."""
        return (self.run(module, args[0]), *args[1:])


def _refuse_whole(along: Sequence[tuple[str, nn.Module]], done: str) -> None:
    if len(along) == 1:
        raise config_error(f"a model cannot be {done} as a whole", "name one of its modules")


def _refuse_uncalled(module: nn.Module, path: str) -> None:
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        raise config_error(f"nothing comes out of {path!r}, a {type(module).__name__}", "name a module inside it")


def _built(build: Build, value: Any, training: bool) -> nn.Module:
    """The module that an edit holds; one that another model has, too, is in the mode that it has there."""
    module = value if isinstance(value, nn.Module) else build(value)
    if not isinstance(module, nn.Module):
        raise config_error(f"expected a torch.nn.Module, got {type(module).__name__}")
    return module if module is value else module.train(training)


def _freeze(model: nn.Module, edit: Mapping[str, Any], build: Build) -> None:
    patterns = edit["freeze"]
    for pattern in patterns if isinstance(patterns, list) else [patterns]:
        for _, parameter in matching(model, str(pattern)):
            parameter.requires_grad_(False)


_EDITS: dict[str, Callable[[nn.Module, Mapping[str, Any], Build], None]] = {
    "truncate": _truncate,
    "replace": _replace,
    "insert": _insert,
    "freeze": _freeze,
}


def matching(root: nn.Module, pattern: str) -> list[tuple[str, nn.Parameter]]:
    """The parameters of ``root`` that ``pattern`` means, each once with its name, in the order of registration.

    A pattern is the path of a parameter, or of a module for everything beneath it; a glob over such paths, in which
    ``*`` crosses dots (``layer*.bn*``, ``*.bias``); or ``class:NAME``, modules of that class or one derived from it.

    Raises ConfigError with the nearest name where it means none.
    """
    model = unwrap_model(root)
    modules = dict(walk(model))
    parameters = {
        f"{path}.{name}" if path else name: parameter
        for path, module in modules.items()
        for name, parameter in module._parameters.items()
        if parameter is not None
    }
    meant = _of_class(modules, pattern) if pattern.startswith(_CLASS) else _of_path(modules, list(parameters), pattern)
    unique: dict[int, tuple[str, nn.Parameter]] = {}
    for name, parameter in parameters.items():
        if not meant.isdisjoint(_prefixes(name)):
            unique.setdefault(id(parameter), (name, parameter))
    if not unique:
        raise config_error(f"what {pattern!r} means in {type(model).__name__} has no parameters")
    return list(unique.values())


def _prefixes(name: str) -> Iterator[str]:
    """``""``, ``layer1``, ``layer1.0`` and ``layer1.0.weight`` for the last of them."""
    yield ""
    for at, letter in enumerate(name):
        if letter == ".":
            yield name[:at]
    yield name


def _of_class(modules: Mapping[str, nn.Module], pattern: str) -> set[str]:
    name = pattern.removeprefix(_CLASS)
    classes = {path: {base.__name__ for base in type(module).__mro__} for path, module in modules.items()}
    matches = {path for path, names in classes.items() if name in names}
    if not matches or name in ("Module", "object"):
        there = {type(module).__name__ for module in modules.values()}
        message = f"{modules['']._get_name()} has no module of class {name!r}"
        raise config_error(message, did_you_mean(name, sorted(there)))
    return matches


def _of_path(modules: Mapping[str, nn.Module], parameters: Sequence[str], pattern: str) -> set[str]:
    names = [*filter(None, modules), *parameters]
    if "-" in pattern and not any(character in pattern for character in "*?[") and pattern not in names:
        pattern = ".".join(name for name, _ in resolve_path(modules[""], pattern)[1:])
    matches = {name for name in names if fnmatchcase(name, pattern)}
    if not matches:
        near = nearest(pattern, names)
        hint = f"did you mean {near!r}?" if near else "write a path, a glob such as '*.bias', or class:NAME"
        raise config_error(f"{modules['']._get_name()} has nothing that matches {pattern!r}", hint)
    return matches
