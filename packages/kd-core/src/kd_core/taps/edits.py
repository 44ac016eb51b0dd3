"""Changes to a built model: cut it short, replace or insert modules, freeze parameters. Kept parts keep their keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from torch import nn

from kd_core.errors import ConfigError, KDError, did_you_mean, nearest
from kd_core.taps.paths import module_at, resolve_path, unwrap_model, walk
from kd_core.taps.wires import config_error
from kd_core.taps.wrappers import hook_output

Build = Callable[[Any], nn.Module]
_CLASS = "class:"


def apply_edits(model: nn.Module, edits: Sequence[Mapping[str, Any]], build: Build) -> nn.Module:
    """Apply ``edits`` in order to ``model``, in place, and return it. ``build`` makes modules of what configs hold.

    - ``{truncate: PATH}``: the output of PATH (of its first call) becomes the model's, and the modules registered
      after it are dropped, with their parameters;
    - ``{replace: PATH, with: MODULE}``;
    - ``{insert: MODULE, after: PATH}``: the new module, ``PATH.inserted``, takes the output of PATH, and what it gives
      takes that output's place;
    - ``{freeze: PATTERN}`` or a list of them, as in :func:`matching`.

    Raises ConfigError, whose problem has the path ``INDEX.KEY``.
    """
    for index, edit in enumerate(edits):
        kind = next((candidate for candidate in _EDITS if candidate in edit), None)
        try:
            if kind is None:
                near = did_you_mean(next(iter(edit), ""), list(_EDITS))
                raise config_error(f"an edit is one of {', '.join(_EDITS)}", near)
            _check_keys(edit, kind)
            _EDITS[kind](unwrap_model(model), edit, build)
        except KDError as error:
            path = (index, kind) if kind else (index,)
            moved = (
                problem if problem.path else problem.below(*path) for problem in error.problems
            )  # one from ``build`` has its own
            raise ConfigError(moved) from None
    return model


def _check_keys(edit: Mapping[str, Any], kind: str) -> None:
    keys = {"replace": ["replace", "with"], "insert": ["insert", "after"]}.get(kind, [kind])
    for key in edit:
        if key not in keys:
            raise KDError(f"the edit {kind!r} has no key {key!r}", hint=did_you_mean(key, keys))
    for key in keys:
        if key not in edit:
            raise config_error(
                f"the edit {kind!r} is missing the required key {key!r}",
                f"write {{{', '.join(f'{key}: ...' for key in keys)}}}",
            )


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
    host = module_at(model, str(edit["after"]))
    _refuse_uncalled(host, edit["after"])
    number = sum(child_name.startswith("inserted") for child_name in host._modules)
    name = f"inserted{number + 1}" if number else "inserted"
    host.add_module(name, _built(build, edit["insert"], host.training))
    if type(host).forward is not nn.Sequential.forward:  # which runs its last child by itself
        hook_output(host, _RunChild(name))


@dataclass(frozen=True)
class _RunChild:
    """A forward hook that sends a module's output through one of its children."""

    name: str

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        return module._modules[self.name](output)  # type: ignore[misc]


def _refuse_whole(along: Sequence[tuple[str, nn.Module]], done: str) -> None:
    if len(along) == 1:
        raise config_error(f"a model cannot be {done} as a whole", "name one of its modules")


def _refuse_uncalled(module: nn.Module, path: str) -> None:
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        raise config_error(f"nothing comes out of {path!r}, a {type(module).__name__}", "name a module inside it")


def _built(build: Build, value: Any, training: bool) -> nn.Module:
    module = build(value)
    if not isinstance(module, nn.Module):
        raise config_error(f"expected a torch.nn.Module, got {type(module).__name__}")
    return module.train(training)


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
