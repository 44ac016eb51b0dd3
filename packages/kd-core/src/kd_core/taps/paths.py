"""The modules of a model by their paths, and the user's model inside what wraps it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from kd_core.errors import ConfigError, did_you_mean, nearest
from kd_core.taps.landmarks import places
from kd_core.taps.wires import LANDMARKS, PARAMETERS, Tap, config_error


class ModelWrapper(nn.Module):
    """What holds a model as ``module``, and is looked through where paths are followed."""

    module: nn.Module


def unwrap_model(module: nn.Module) -> nn.Module:
    """The user's module inside forward wrappers, ``torch.compile`` and DDP."""
    while True:
        if "_orig_mod" in module._modules:
            inner = "_orig_mod"
        elif isinstance(module, ModelWrapper) or type(module).__name__ == "DistributedDataParallel":
            inner = "module"
        else:
            return module
        module = module.get_submodule(inner)


def walk(model: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every path of ``model`` with its module, in the order of registration; a shared module comes several times."""
    model = unwrap_model(model)
    yield path, model
    for name, child in model._modules.items():
        if child is not None:
            yield from walk(child, f"{path}.{name}" if path else name)


def resolve_path(model: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """The modules along a dotted ``path``, each with its own name, from the model itself (``""``) on.

    A negative number counts a module's children from the end, and ``@classifier`` or ``@features/1`` is a landmark's
    module. Raises ConfigError with the nearest path.
    """
    chain = [("", unwrap_model(model))]
    if path.startswith("@"):
        path = _landmark_path(chain[0][1], path)
    for name in path.split(".") if path else ():
        children = chain[-1][1]._modules
        if name[:1] == "-" and name[1:].isdecimal() and 0 < int(name[1:]) <= len(children):
            name = list(children)[int(name)]
        child = children.get(name)
        if child is None:
            raise _no_module(path, chain, name)
        chain.append((name, unwrap_model(child)))
    return chain


def _landmark_path(model: nn.Module, path: str) -> str:
    """``path``, which begins with a landmark, as the path of a module."""
    landmark, dot, rest = path.partition(".")
    if landmark[1:].partition("/")[0] not in LANDMARKS:
        raise config_error(f"there is no landmark {landmark}", f"write @{' or @'.join(LANDMARKS)}")
    place = places(model, Tap(landmark))
    if isinstance(place, list):
        raise config_error(f"{landmark} are {len(place)} modules", f"write {landmark}/0 or {landmark}/-1")
    return f"{place.path}{dot}{rest}"


def module_at(model: nn.Module, path: str) -> nn.Module:
    """The module at a dotted ``path``, as in :func:`resolve_path`."""
    return resolve_path(model, path)[-1][1]


def _no_module(path: str, chain: list[tuple[str, nn.Module]], name: str) -> ConfigError:
    (_, model), (_, parent) = chain[0], chain[-1]
    above = "".join(f"{child_name}." for child_name, _ in chain[1:])
    message = f"{type(model).__name__} has no module {path!r}"
    children = [above + child_name for child_name, child in parent._modules.items() if child is not None]
    if path.startswith("output."):
        return config_error(message, f"fields of the model's output come after '/': MODEL.{path.replace('.', '/')}")
    if isinstance(getattr(parent, name, None), Tensor):
        written = f", whose wire is {above[:-1]}:{name}" if above and name in PARAMETERS else ""
        return config_error(message, f"{above}{name} is a tensor, not a module{written}")
    if not children:
        return config_error(message, f"{above[:-1] or 'it'} is a {type(parent).__name__} without modules inside")
    sibling = nearest(above + name, children)
    if sibling:
        return config_error(message, f"did you mean {sibling + path[len(above + name) :]!r}?")
    near = nearest(path, [candidate for candidate, _ in walk(model)])
    return config_error(message, f"did you mean {near!r}?" if near else did_you_mean(above + name, children))
