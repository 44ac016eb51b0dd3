"""Write the table of torch's and torchvision's names that a config may use without ``--trust``.

The table, ``kd_core/config/calls/allowed.txt``, is reviewed as code is: a name is allowed because it stands there, not
because a rule lets it through. ``python scripts/make_allowed.py --check`` writes nothing and exits with 1 where the
installed libraries, of the versions that the table names, would give another one.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import pkgutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torchvision

from kd_core.config.calls.allowed import canonical, is_kind

TABLE = Path(__file__).parents[1] / "packages/kd-core/src/kd_core/config/calls/allowed.txt"
CLASSES = (
    *("torch.nn", "torch.optim", "torch.optim.lr_scheduler", "torch.optim.swa_utils", "torch.utils.data"),
    *("torchvision.datasets", "torchvision.ops", "torchvision.transforms", "torchvision.transforms.v2"),
)
"""Modules whose Modules, Optimizers, LRSchedulers, Datasets, Samplers and transforms are allowed."""
FUNCTIONS = ("torch.nn.functional", "torch.nn.init", "torch.nn.utils.parametrizations")
"""Modules whose functions are allowed: they compute on tensors and modules."""
SINGLE = {
    *("torch.nn.Parameter", "torch.nn.Buffer", "torch.utils.data.random_split", "torch.utils.data.default_collate"),
    *("torch.nn.Embedding.from_pretrained", "torch.nn.EmbeddingBag.from_pretrained"),
    *("torch.optim.swa_utils.get_ema_avg_fn", "torch.optim.swa_utils.get_ema_multi_avg_fn"),
    *("torch.optim.swa_utils.get_swa_avg_fn", "torch.optim.swa_utils.get_swa_multi_avg_fn"),
    *("torch.Generator", "torch.Generator:manual_seed", "torch.Size", "torch.device", "torch.tensor", "torch.zeros"),
    *("torch.ones", "torch.full", "torch.arange", "torch.linspace", "torch.eye", "torch.relu", "torch.sigmoid"),
    *("torch.tanh", "torch.softmax", "torch.log_softmax", "torch.exp", "torch.log", "torch.abs", "torch.sqrt"),
    "torchvision.models.get_model",
}
REFUSED = {
    "torch.nn.functional.boolean_dispatch": "makes functions",
    "torch.nn.functional.assert_int_or_pair": "is no function of tensors",
    "torchvision.datasets.Cityscapes": "unpacks archives that it finds beside the images, unchecked",
    "torchvision.datasets.LSUN": "unpickles",
    "torchvision.datasets.LSUNClass": "unpickles",
    "torchvision.datasets.Kinetics": "starts processes that download",
}
MODULE = (
    *("append", "bfloat16", "buffers", "children", "cpu", "cuda", "double", "eval", "extend", "float"),
    *("get_buffer", "get_parameter", "get_submodule", "half", "insert", "items", "keys", "load_state_dict"),
    *("modules", "named_buffers", "named_children", "named_modules", "named_parameters", "parameters", "pop"),
    *("requires_grad_", "reset_parameters", "state_dict", "to", "train", "update", "values", "zero_grad", "clear"),
)
"""Methods of modules: those that read, append, freeze and move. None registers a hook, compiles, or calls what it is
given (``apply``)."""
TENSOR = (
    *("bfloat16", "bool", "char", "clone", "contiguous", "cpu", "cuda", "detach", "dim", "double", "element_size"),
    *("expand", "expand_as", "fill_", "flatten", "float", "half", "int", "item", "long", "nelement", "new_full"),
    *("new_ones", "new_zeros", "normal_", "numel", "permute", "repeat", "requires_grad_", "reshape", "short", "size"),
    *("squeeze", "stride", "t", "to", "tolist", "transpose", "type_as", "uniform_", "unsqueeze", "view", "view_as"),
    *("zero_", "abs", "add", "all", "amax", "amin", "any", "argmax", "argmin", "argsort", "ceil", "chunk", "clamp"),
    *("clip", "cos", "cumsum", "diff", "div", "eq", "exp", "floor", "gather", "ge", "gt", "index_select", "isnan"),
    *("le", "log", "log_softmax", "logsumexp", "lt", "matmul", "max", "mean", "median", "min", "mul", "narrow", "ne"),
    *("neg", "norm", "pow", "prod", "relu", "round", "select", "sigmoid", "sin", "softmax", "sort", "split", "sqrt"),
    *("std", "sub", "sum", "tanh", "topk", "unbind", "unique", "var", "where"),
)
"""Methods of tensors: arithmetic and shapes. None reads a file, takes a function, or reaches memory by its address."""


def main() -> int:
    """Write the table, or with ``--check`` print how it differs from what would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the table is not current")
    check = parser.parse_args().check
    old, new = TABLE.read_text(encoding="utf-8") if TABLE.exists() else "", generated()
    if not check:
        TABLE.write_text(new, encoding="utf-8")
        return 0
    if old.partition("\n")[0] != new.partition("\n")[0]:
        print(f"made with other versions: {old.partition(chr(10))[0]}")
        return 0
    print("\n".join(difflib.unified_diff(old.splitlines(), new.splitlines(), "table", "as generated", n=0)))
    return int(old != new)


def generated() -> str:
    """The text of the table: the versions, and a name a line; those of methods have a colon before the method."""
    names = SINGLE | set(classes()) | set(functions()) | set(models()) | set(methods())
    names = {name for name in names if not any(part.startswith("_") for part in name.replace(":", ".").split("."))}
    return "\n".join([versions(), *sorted(names - set(REFUSED))]) + "\n"


def versions() -> str:
    """The first line: what the table was made with."""
    torch_version, vision_version = (module.__version__.partition("+")[0] for module in (torch, torchvision))
    return f"# torch {torch_version}, torchvision {vision_version}: written by scripts/make_allowed.py"


def members(name: str, kind: Callable[[object], bool]) -> Iterator[tuple[str, object]]:
    """What stands in a module under a public name."""
    for member, value in vars(importlib.import_module(name)).items():
        if not member.startswith("_") and kind(value):
            yield f"{name}.{member}", value


def allowed_class(value: object) -> bool:
    """A class of one of the kinds of a config, of torch's or torchvision's own; no data pipe, nothing distributed."""
    if not (isinstance(value, type) and is_kind(value)):
        return False
    outside = ("torch.utils.data.datapipes", "torch.distributed", "torch.nn.parallel.distributed", "torch.fx")
    homes = [canonical(base) for base in value.__mro__]
    inside = homes[0].startswith(("torch.nn.", "torch.optim.", "torch.utils.data.", "torchvision."))
    return inside and not any(home.startswith(outside) for home in homes)


def classes() -> Iterator[str]:
    """The classes of :data:`CLASSES`, by the names that users write and those of where they are defined."""
    for module in CLASSES:
        for name, value in members(module, allowed_class):
            if name not in REFUSED:
                yield from (name, canonical(value))


def functions() -> Iterator[str]:
    """The functions of :data:`FUNCTIONS` that are defined there or, in C, for it."""
    for module in FUNCTIONS:
        for name, value in members(module, callable):
            built_in = isinstance(value, types.BuiltinFunctionType) and "torch" in str(value.__module__ or "torch")
            own = inspect.isfunction(value) and value.__module__ in (module, "torch._jit_internal")
            if (own or built_in) and "torch_function" not in name and name not in REFUSED:
                yield name


def models() -> Iterator[str]:
    """The builders that torchvision registers, and the classes of its models."""
    from torchvision.models import get_model_builder, list_models

    builders = {get_model_builder(name) for name in list_models()}
    package = importlib.import_module("torchvision.models")
    names = [info.name for info in pkgutil.walk_packages(package.__path__, "torchvision.models.")]
    for module in ["torchvision.models", *names]:
        if "._" in module or module.endswith("feature_extraction"):
            continue
        for name, value in members(module, lambda value: callable(value)):
            if value in builders or allowed_class(value):
                yield from (name, canonical(value))


def methods() -> Iterator[str]:
    """Methods of built objects, by the class that defines them."""
    for cls in (torch.nn.Module, *(torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)):
        yield from (f"{canonical(cls)}:{name}" for name in MODULE if name in vars(cls))
    yield from (f"torch.Tensor:{name}" for name in TENSOR if hasattr(torch.Tensor, name))


if __name__ == "__main__":
    sys.exit(main())
