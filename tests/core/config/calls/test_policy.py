"""What a stranger's config may name, and what it may not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kd_core.config import Builder, Policy, allow, allow_package, loads
from kd_core.config.calls.allowed import _PACKAGES, _SAFE, _SAFE_OBJECTS
from kd_core.errors import ConfigError, Mark


@pytest.fixture
def registered():
    """Registrations of one test only."""
    tables = (_PACKAGES, _SAFE, _SAFE_OBJECTS)
    before = [table.copy() for table in tables]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A stranger's package, importable from the working directory only."""
    folder = tmp_path / "stranger_pkg"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "import os\nfrom os import system as shell\nfrom torch import load as read\nfrom torch import hub\n"
        "from torch import nn\nimport functools\nrun = functools.partial(os.system, 'true')\n"
        "open('imported', 'w').close()\nevaluate = eval\n"
        "class Plain:\n    def __init__(self, x=1): self.x = x\n    def save(self): return self.x\n"
        "class Net(nn.Module):\n    pass\n"
        "def make(a, *, b=2): return a + b\n"
        "def fail(): raise SystemExit('bye')\n"
    )
    (folder / "inner.py").write_text("VALUE = 3\n")
    (folder / "broken.py").write_text("raise RuntimeError('no luck')\n")
    (folder / "exits.py").write_text("raise SystemExit(3)\n")
    (folder / "needs.py").write_text("import a_package_nobody_has\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "stranger_pkg"]:
        del sys.modules[name]


def verdict(target: str, *trust: str, tag: str = "call") -> str:
    """What check says of one call or get; empty where it is fine."""
    value = loads(f"a: !{tag}:{target}").data["a"]
    problems = Builder(Policy(trust)).check(value, path="a")
    return "\n".join(str(problem) for problem in problems if " required parameter" not in problem.message)


ALLOWED_CALLS = [
    "torch.nn.ReLU",
    "torch.nn.modules.linear.Linear",
    "torch.nn.Module",
    "torch.nn.CrossEntropyLoss",
    "torch.optim.SGD",
    "torch.optim.lr_scheduler.StepLR",
    "torch.optim.lr_scheduler.ReduceLROnPlateau",
    "torch.optim.swa_utils.AveragedModel",
    "torch.utils.data.TensorDataset",
    "torch.utils.data.Subset",
    "torch.utils.data.RandomSampler",
    "torch.tensor",
    "torch.device",
    "torch.nn.Parameter",
    "torch.nn.functional.relu",
    "torch.nn.functional.gelu",
    "torch.nn.Embedding.from_pretrained",
]
ALLOWED_VISION = [
    "torchvision.datasets.CIFAR10",
    "torchvision.datasets.ImageFolder",
    "torchvision.models.resnet.ResNet",
    "torchvision.models.googlenet.GoogLeNet",
    "torchvision.transforms.Compose",
    "torchvision.transforms.Lambda",
    "torchvision.transforms.RandAugment",
    "torchvision.transforms.v2.Resize",
    "torchvision.transforms.v2.Compose",
]


@pytest.mark.parametrize("target", ALLOWED_CALLS + ALLOWED_VISION)
def test_allowed_calls(target: str) -> None:
    if target in ALLOWED_VISION:
        pytest.importorskip("torchvision")
    assert verdict(target) == ""
    assert verdict(target, tag="get") == ""


@pytest.mark.parametrize(
    "target",
    ["torch.float32", "torch.channels_last", "torch.inf", "torchvision.transforms.InterpolationMode.BILINEAR"],
)
def test_constants_are_got_but_not_called(target: str) -> None:
    assert verdict(target, tag="get") == ""
    assert "cannot be called" in verdict(target)


REFUSED = {
    # whatever surrounds them is allowed: these are named, hidden, or reached through somebody's imports
    "torch.hub.load": "downloads code",
    "torch.hub.load_state_dict_from_url": "downloads code",
    "torch.utils.model_zoo.load_url": "downloads",
    "torch.load": "unpickles",
    "torch.serialization.load": "unpickles",
    "torch.jit.load": "loads code",
    "torch.jit.script": "torch.jit is unsafe",
    "torch.jit.ScriptModule": "torch.jit is unsafe",
    "torch.package.PackageImporter": "loads code",
    "torch.export.load": "loads code",
    "torch.ops.load_library": "loads libraries",
    "torch.classes.load_library": "loads libraries",
    "torch.utils.cpp_extension.load_inline": "compiles",
    "torch.distributed.rpc.remote": "other machines",
    "torch.distributed.nn.RemoteModule": "other machines",
    "torch.nn.parallel.DistributedDataParallel": "torch.distributed is unsafe",
    "torch.multiprocessing.spawn": "torch.multiprocessing is unsafe",
    "torch.fx.GraphModule": "torch.fx is unsafe",
    "torchvision.models.feature_extraction.DualGraphModule": "feature_extraction is unsafe",
    "torchvision.models.feature_extraction.create_feature_extractor": "feature_extraction is unsafe",
    "torchvision.models.list_models": "only functions registered",
    "torchvision.datasets.Cityscapes": "not in the table",
    "torch.utils.tensorboard.SummaryWriter": "nothing in it is in the table",
    "torch.from_file": "torch.from_file is unsafe",
    "torch.save": "unpickles",
    "torch.UntypedStorage.from_file": "torch.storage is unsafe",
    "torch.utils.data.datapipes.iter.FileOpener": "datapipes is unsafe",
    "torch.utils.data.IterDataPipe": "datapipes is unsafe",
    "torchvision.datasets.LSUN": "LSUN is unsafe",
    "torchvision.datasets.lsun.LSUNClass": "lsun is unsafe",
    "torch.utils.data.DataLoader": "it is not a Module, Optimizer",
    "torch.Tensor": "it is not a Module, Optimizer",
    "torch.nn.Module.load_state_dict": "only functions registered as safe",
    "torch.manual_seed": "only functions registered as safe",
    "torch.compile": "only functions registered as safe",
    "torchvision.datasets.folder.default_loader": "only functions registered as safe",
    "torch.nn.Module.__reduce__": "'__reduce__' is private",
    "torch.nn.Module.__subclasses__": "'__subclasses__' is private",
    "torch.nn.modules.module._addindent": "'_addindent' is private",
    "torch._C.Generator": "'_C' is private",
    "torch.nn.__builtins__": "'__builtins__' is private",
    "torch.optim.sgd.torch.os.system": "torch is not a part of torch.optim.sgd",
    "torch.optim.sgd.torch.nn.ReLU": "torch is not a part of torch.optim.sgd",
    "torch.os.system": "os is not a part of torch",
    "torch.sys.exit": "sys is not a part of torch",
    "torch.nn.functional.importlib.import_module": "importlib is not a part of",
    "torch.nn.functional.handle_torch_function": "only functions registered as safe",
    "torch.utils.data.datapipes.utils.decoder.pickle.loads": "datapipes is unsafe",
    "torchvision.datasets.cifar.pickle.loads": "pickle is not a part of",
    "torchvision.os.system": "torchvision has no 'os'",
    "torchvision.models.ResNet18_Weights.DEFAULT.get_state_dict": "neither a module nor a class",
    "kd_core.config.syntax.load.os.system": "only imports it",
    "kd_core.config.allow": "only functions registered as safe",
    "kd_core.config.Policy": "it is not a Module",
    "os.system": "os is unsafe",
    "posix.system": "posix is not an allowed package",
    "subprocess.run": "subprocess is unsafe",
    "builtins.eval": "builtins is unsafe",
    "builtins.open": "builtins is unsafe",
    "sys.exit": "sys is unsafe",
    "importlib.import_module": "importlib is unsafe",
    "pickle.loads": "pickle is unsafe",
    "ctypes.CDLL": "ctypes is unsafe",
    "runpy.run_path": "runpy is unsafe",
    "shutil.rmtree": "shutil is unsafe",
    "antigravity.webbrowser": "antigravity is not an allowed package",
    "numpy.load": "numpy is not an allowed package",
    "torchh.nn.ReLU": "did you mean 'torch'?",
    "kd_evil.X": "kd_evil is not an allowed package",
    "torch": "is not a dotted path",
    "eval": "is not a dotted path",
    # mistakes
    "torch.nn": "torch.nn is a module",
    "torch.nn.Relu": "did you mean 'ReLU'?",
    "torch.nnn.ReLU": "did you mean 'nn'?",
    "torch.optim.Adm": "did you mean 'Adam'?",
    "torch.nn.ReLU.x.y": "torch.nn.ReLU has no 'x'",
    "torch.nn.functional.relu.x": "neither a module nor a class",
}


@pytest.mark.parametrize("tag", ["call", "get"])
@pytest.mark.parametrize("target", REFUSED)
def test_refused(target: str, tag: str) -> None:
    if target.startswith("torchvision"):
        pytest.importorskip("torchvision")
    said = verdict(target, tag=tag)
    assert said.startswith("<string>:1:4: a: ")
    assert REFUSED[target] in said


@pytest.mark.parametrize(
    "target",
    [
        "torch.hub.load",
        "torch.load",
        "torch.jit.load",
        "torch.nn.Module.__reduce__",
        "torch.os.system",
        "torch._C.Generator",
    ],
)
def test_refused_whatever_is_trusted(target: str) -> None:
    assert "is blocked" in verdict(target, "torch", "torch.hub", "torch.load", "torch.jit", "os")


def test_trusting_a_package_does_not_trust_the_harmful_in_it() -> None:
    assert "torch.jit is unsafe" in verdict("torch.jit.script", "torch")
    assert verdict("torch.jit.script", "torch.jit") == ""
    assert verdict("torch.utils.data.DataLoader", "torch.utils.data") == ""
    assert verdict("torch.manual_seed", "torch") == ""
    assert verdict("os.getcwd", "os") == ""
    assert "os is unsafe" in verdict("os.getcwd", "osx", "o")


def test_a_package_is_not_imported_to_look_at_it(package: Path) -> None:
    assert "stranger_pkg is not an allowed package\n    hint: --trust stranger_pkg" in verdict("stranger_pkg.Net")
    assert "stranger_pkg is not an allowed package" in verdict("stranger_pkg.Net", "stranger", "stranger_pkg.inner")
    assert not (package / "imported").exists()
    assert "stranger_pkg" not in sys.modules


def test_a_trusted_package(package: Path) -> None:
    for target in ("stranger_pkg.Net", "stranger_pkg.Plain", "stranger_pkg.make"):
        assert verdict(target, "stranger_pkg") == ""
    assert verdict("stranger_pkg.inner.VALUE", "stranger_pkg", tag="get") == ""
    assert verdict("stranger_pkg.inner.VALUE", "stranger_pkg.inner", tag="get") == ""
    for target, reason in {
        "stranger_pkg.os.system": "os is not a part of stranger_pkg",
        "stranger_pkg.shell": "os is unsafe",
        "stranger_pkg.run": "os is unsafe",
        "stranger_pkg.evaluate": "builtins is unsafe",
        "stranger_pkg.read": "unpickles",
        "stranger_pkg.hub.load": "hub is not a part of stranger_pkg",
        "stranger_pkg.nn.ReLU": "nn is not a part of stranger_pkg",
        "stranger_pkg.__name__": "private",
        "stranger_pkg.Plaine": "did you mean 'Plain'?",
        "stranger_pkg.broken.X": "importing stranger_pkg.broken failed: RuntimeError: no luck",
        "stranger_pkg.exits.X": "importing stranger_pkg.exits failed: SystemExit: 3",
        "stranger_pkg.needs.X": "stranger_pkg.needs needs the package 'a_package_nobody_has'",
        "stranger_pkg.nowhere.X": "stranger_pkg has no 'nowhere'",
    }.items():
        for tag in ("call", "get"):
            assert reason in verdict(target, "stranger_pkg", tag=tag), target


def test_trust_must_be_a_name() -> None:
    for prefix in ("", "*", "a.", "__main__", "a b", "../x"):
        with pytest.raises(ConfigError, match=r"^--trust .*is not a package or a dotted name$"):
            Policy([prefix])


def test_a_trusted_package_that_is_not_there() -> None:
    assert "there is no module 'nowhere_to_be_found'" in verdict("nowhere_to_be_found.X", "nowhere_to_be_found")


def test_imports(package: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^imports\.0: stranger_pkg is blocked: stranger_pkg is not an allowed package"
    ):
        Policy().import_module("stranger_pkg", path="imports.0")
    assert Policy(["stranger_pkg"]).import_module("stranger_pkg.inner").VALUE == 3
    with pytest.raises(ConfigError, match=r"there is no module 'stranger_pkg\.x'"):
        Policy(["stranger_pkg"]).import_module("stranger_pkg.x")


@pytest.mark.usefixtures("registered")
def test_allow(package: Path, monkeypatch) -> None:
    @allow
    def helper() -> None: ...

    Policy().check_call_allowed(helper)
    assert "only functions registered" in verdict("torch.numel")
    assert allow("torch.numel") == "torch.numel"
    assert verdict("torch.numel") == ""
    assert "is not an allowed package" in verdict("stranger_pkg.Net")
    allow_package("stranger_pkg")
    monkeypatch.syspath_prepend(package)
    assert verdict("stranger_pkg.Net") == ""
    assert "it is not a Module" in verdict("stranger_pkg.Plain")


@pytest.mark.parametrize(
    "text",
    [
        "!call:torchvision.transforms.Lambda {lambd: !get:os.system }",
        "!call:torchvision.datasets.DatasetFolder {root: x, loader: !get:torch.load }",
        "!call:torch.optim.lr_scheduler.LambdaLR {optimizer: x, lr_lambda: [!get:builtins.eval ]}",
        "!call:torch.nn.Sequential [!call:torch.nn.Sequential [!call:os.system [ls]]]",
        "!call:torch.nn.Identity {x: {y: [!call:torch.hub.load [a, b]]}}",
        "!getattr:x [!call:os.getcwd {}]",
        "!setattr:x [1, !get:os.system ]",
        "!item [{a: !get:os.system }, a]",
        "!call_method:apply {obj: !call:torch.nn.ReLU {}, args: [!get:os.system ]}",
        "!join [a, !call:os.getcwd {}]",
        "{a: [{b: !import_call_method {package: os, class_name: null, method_name: system}}]}",
    ],
)
def test_refused_wherever_it_is_nested(text: str) -> None:
    value = loads(f"a: {text}").data
    problems = [str(problem) for problem in Builder(Policy()).check(value)]
    assert any("is blocked" in problem for problem in problems)
    with pytest.raises(ConfigError, match=r"is blocked"):
        Builder(Policy()).build(value)


@pytest.mark.parametrize(
    "text",
    [
        "!call:torch.nn.Identity {trust_remote_code: true}",
        "!call:torch.nn.Identity [{a: [{trust_remote_code: !run steps }]}]",
        "{hub: x, trust_remote_code: 1}",
        "!call_method:x {obj: !call:torch.nn.Identity {}, kwargs: {trust_remote_code: yes}}",
        "!setattr:trust_remote_code [!call:torch.nn.Identity {}, true]",
    ],
)
def test_remote_code_is_refused(text: str) -> None:
    problems = Builder(Policy(["torch"])).check(loads(f"a: {text}").data)
    assert any("trust_remote_code is blocked" in str(problem) for problem in problems)


MODULE = "!call:torch.nn.Linear [2, 2]"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"!getattr:__class__ [{MODULE}]", "'__class__' is blocked: it is private"),
        (f"!getattr:_modules [{MODULE}]", "'_modules' is blocked: it is private"),
        (f"!call_method:__reduce__ {{obj: {MODULE}}}", "'__reduce__' is blocked"),
        (f"!setattr:__class__ [{MODULE}, x]", "'__class__' is blocked"),
        ("!setattr:forward [!get:torch.nn.Linear , 3]", "not an object that the config built"),
        ("!getattr:forward [!get:torch.nn.Linear ]", "not an object that the config built"),
        ("!call_method:relu {obj: !get:torch.nn.functional.relu }", "not an object that the config built"),
        ("!call_method:format {obj: '{0.x}', args: [1]}", "'format' of a str is blocked"),
        ("!call_method:append {obj: [], args: [1]}", "'append' of a list is blocked"),
        (
            "!call_method:numpy {obj: !call:torch.zeros [1]}",
            "Tensor.numpy is blocked: it is not in the table",
        ),
        ("!call_method:untyped_storage {obj: !call:torch.zeros [1]}", "Tensor.untyped_storage is blocked"),
        ("!getattr:register_hook [!call:torch.zeros [1]]", "Tensor.register_hook is blocked"),
        ("!item ['abc', 0]", "an item of a str is blocked"),
        (f"!call_method:compile {{obj: {MODULE}}}", "Linear.compile is blocked: it is not in the table"),
        (f"!call_method:apply {{obj: {MODULE}, args: [!get:torch.nn.init.ones_ ]}}", "Linear.apply is blocked"),
        (f"!call_method:add_module {{obj: {MODULE}, args: [a, {MODULE}]}}", "Linear.add_module is blocked"),
        (f"!getattr:register_forward_hook [{MODULE}]", "Linear.register_forward_hook is blocked"),
        (f"!setattr:forward [{MODULE}, !get:torch.nn.functional.relu ]", "Linear.forward is blocked"),
        (f"!setattr:train [{MODULE}, !get:torch.nn.functional.relu ]", "methods are not replaced"),
        ("!setattr:root [!call:torchvision.datasets.FakeData {}, /]", "only modules' attributes are set"),
        (f"!call:torch.nn.ModuleDict [{{'a\"+b': {MODULE}}}]", "is not a name of a module"),
        (f"!getattr:nope [{MODULE}]", "reading 'nope' failed: AttributeError"),
        ("!getattr:loader [!call:torchvision.datasets.FakeData {}]", "reading 'loader' failed"),
        ("!call_method:extra_repr {obj: !call:torchvision.datasets.FakeData {}}", "FakeData.extra_repr is blocked"),
    ],
)
def test_built_objects(text: str, reason: str) -> None:
    if "torchvision" in text:
        pytest.importorskip("torchvision")
    with pytest.raises(ConfigError) as caught:
        Builder(Policy()).build(loads(f"a: {text}").data)
    assert reason in str(caught.value)
    assert str(caught.value).startswith("<string>:1:4: a: ")


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
def test_the_parts_of_a_scripted_module_are_judged_by_their_names() -> None:
    scripted = torch.jit.trace(torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.zeros(1, 2))
    Policy().check_names_allowed(scripted, Mark("config.yaml", 1, 1), "models.student")


def test_a_function_taken_out_of_an_object_is_judged(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x.png").write_bytes(b"")
    folder = f"!call:torchvision.datasets.ImageFolder {{root: '{tmp_path}'}}"
    with pytest.raises(ConfigError, match="default_loader is blocked: only functions registered as safe"):
        Builder(Policy()).build(loads(f"a: !getattr:loader [{folder}]").data)


def test_config_imports_no_torch() -> None:
    code = (
        "import sys, kd_core.config as c; c.loads('a: !call:torch.nn.ReLU {}'); c.Builder(c.Policy());"
        "assert not {'torch', 'torchvision', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
