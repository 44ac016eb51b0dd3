"""Changes to a built model: cut it short, replace or insert modules, freeze parameters. Kept parts keep their keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NoReturn

from torch import nn

from kd_core.errors import ConfigError, Problem, did_you_mean, nearest
from kd_core.wires import refuse
from kd_core.wrappers import bare, module_at

Build = Callable[[Any], nn.Module]


def apply_edits(model: nn.Module, edits: Sequence[Mapping[str, Any]], build: Build) -> nn.Module:
    """Apply ``edits`` in order to ``model``, in place, and return it. ``build`` makes modules of what configs hold.

    ``{truncate: PATH}`` the output of PATH's first call becomes the model's, and what is registered after it is dropped;
    ``{replace: PATH, with: MODULE}``; ``{insert: MODULE, after: PATH}`` the new module, ``PATH.inserted``, takes the
    output of PATH and gives it back changed; ``{freeze: PATTERN}`` as in :func:`matching`.

    Raises ConfigError whose problem's path is ``INDEX.KEY``.
    """
    for index, edit in enumerate(edits):
        kind = next((each for each in _EDITS if each in edit), None)
        try:
            _check_keys(edit, kind)
            _EDITS[str(kind)][1](model, edit, build)
        except ConfigError as error:
            place = f"{index}.{kind}" if kind else str(index)
            raise ConfigError(Problem(each.message, place, each.mark, each.hint) for each in error.problems) from error
    return model


def _check_keys(edit: Mapping[str, Any], kind: str | None) -> None:
    if kind is None:
        refuse(
            f"an edit is one of {', '.join(_EDITS)}, not {{{', '.join(edit)}}}",
            did_you_mean(next(iter(edit), ""), list(_EDITS)),
        )
    wanted = [kind, *_EDITS[kind][0]]
    for key in wanted:
        if key not in edit:
            refuse(f"{kind!r} needs {key!r}", f"write {{{', '.join(f'{each}: ...' for each in wanted)}}}")
    for key in edit:
        if key not in wanted:
            refuse(f"{kind!r} takes no {key!r}", did_you_mean(key, wanted))


def _truncate(model: nn.Module, edit: Mapping[str, Any], build: Build) -> None:
    model, path = bare(model), edit["truncate"]
    target = module_at(model, path)
    if target is model:
        refuse("cannot truncate at the whole model", "name one of its modules")
    dropped, parent = [], model
    for part in path.split("."):
        names = list(parent._modules)
        at = int(part) % len(names) if part.startswith("-") else names.index(part)
        for name in names[at + 1 :]:
            dropped.append(name)
            delattr(parent, name)
        parent = parent.get_submodule(names[at])
    cut = _Cut(model, path, tuple(dropped))
    target.register_forward_hook(cut.reach)
    model.forward = cut  # type: ignore[method-assign]


class _Reached(BaseException):
    """The module that a model is truncated at has run."""

    def __init__(self, output: Any) -> None:
        self.output = output


@dataclass(eq=False)
class _Cut:
    """The forward of a truncated model: that of its class, as far as the module at ``path``."""

    model: nn.Module
    path: str
    dropped: tuple[str, ...]
    running: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.running = True
        try:
            type(self.model).forward(self.model, *args, **kwargs)
        except _Reached as reached:
            return reached.output
        except AttributeError as error:
            gone = next((name for name in self.dropped if f"no attribute '{name}'" in str(error)), None)
            if gone:
                refuse(
                    f"truncate: {gone!r} was dropped, but the model uses it before {self.path!r} runs",
                    "truncate further on",
                )
            raise
        finally:
            self.running = False
        refuse(
            f"truncate: module {self.path!r} was not called in this pass", "truncate at a module that the model calls"
        )

    def reach(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.running:
            raise _Reached(output)


def _replace(model: nn.Module, edit: Mapping[str, Any], build: Build) -> None:
    path = edit["replace"]
    old = module_at(model, path)
    if old is bare(model):
        refuse("cannot replace the whole model", "name one of its modules")
    parent = module_at(model, path.rpartition(".")[0])
    name = next(name for name, child in parent._modules.items() if child is old)
    setattr(parent, name, _built(build, edit["with"], old))


def _insert(model: nn.Module, edit: Mapping[str, Any], build: Build) -> None:
    host = module_at(model, edit["after"])
    if isinstance(host, (nn.ModuleList, nn.ModuleDict)):
        refuse(
            f"{edit['after']!r} ({type(host).__name__}) is never called: nothing comes out of it",
            "name a module inside it",
        )
    taken = sum(name.startswith("inserted") for name in host._modules)
    name = f"inserted{taken + 1}" if taken else "inserted"
    host.add_module(name, _built(build, edit["insert"], host))
    if type(host).forward is not nn.Sequential.forward:  # which runs its new last module itself
        host.register_forward_hook(_RunChild(name))


@dataclass(frozen=True)
class _RunChild:
    """A forward hook that passes the output through a child of the module."""

    name: str

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        return module.get_submodule(self.name)(output)


def _built(build: Build, value: Any, near: nn.Module) -> nn.Module:
    module = build(value)
    if not isinstance(module, nn.Module):
        refuse(f"expected a module, got {type(module).__name__}")
    return module.train(near.training)


def _freeze(model: nn.Module, edit: Mapping[str, Any], build: Build) -> None:
    for _, parameter in matching(model, edit["freeze"]):
        parameter.requires_grad_(False)


_EDITS: dict[str, tuple[tuple[str, ...], Callable[[nn.Module, Mapping[str, Any], Build], None]]] = {
    "truncate": ((), _truncate),
    "replace": (("with",), _replace),
    "insert": (("after",), _insert),
    "freeze": ((), _freeze),
}


def matching(root: nn.Module, pattern: str) -> list[tuple[str, nn.Parameter]]:
    """The parameters of ``root`` that ``pattern`` names, each once, in the order of registration.

    A pattern is the path of a module (everything beneath it) or parameter, a glob over such paths in which ``*`` crosses
    dots (``layer*.bn*``, ``*.bias``), or ``class:NAME`` for modules of a class or its subclasses.

    Raises ConfigError with the nearest name where nothing matches.
    """
    model = bare(root)
    if pattern.startswith("class:"):
        return _of_class(model, pattern.removeprefix("class:"))
    prefixes = _prefixes(model, pattern)
    found = {
        id(parameter): (name, parameter)
        for name, parameter in reversed(list(model.named_parameters(remove_duplicate=False)))
        if any(name == each or name.startswith(f"{each}.") for each in prefixes)
    }
    return list(reversed(found.values())) or _no_parameters(model, pattern)


def _prefixes(model: nn.Module, pattern: str) -> list[str]:
    """The module and parameter paths that a path or glob names."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    names += [name for name, _ in model.named_parameters(remove_duplicate=False)]
    if any(each in pattern for each in "*?["):
        return [name for name in names if fnmatchcase(name, pattern)] or _no_match(pattern, names)
    if pattern in names:
        return [pattern]
    target = module_at(model, pattern)  # a path with negative numbers, or an error
    return [name for name, module in model.named_modules(remove_duplicate=False) if module is target and name]


def _of_class(model: nn.Module, name: str) -> list[tuple[str, nn.Parameter]]:
    def classes(module: nn.Module) -> set[str]:
        return {each.__name__ for each in type(module).__mro__} - {"Module", "object"}

    modules = [module for module in model.modules() if name in classes(module)]
    if not modules:
        there = sorted(set().union(*map(classes, model.modules())))
        refuse(f"{type(model).__name__} has no module of class {name!r}", did_you_mean(name, there))
    wanted = {id(parameter) for module in modules for parameter in module.parameters()}
    found = [(each, parameter) for each, parameter in model.named_parameters() if id(parameter) in wanted]
    return found or _no_parameters(model, f"class:{name}")


def _no_match(pattern: str, names: Sequence[str]) -> NoReturn:
    near = nearest(pattern, names)
    refuse(
        f"nothing matches {pattern!r}",
        f"did you mean {near!r}?" if near else "a path, a glob such as *.bias, or class:NAME",
    )


def _no_parameters(model: nn.Module, pattern: str) -> NoReturn:
    refuse(f"what {pattern!r} names in {type(model).__name__} has no parameters")
