"""Wrong configs: what is replaced in a sound one, and the problems that are to be reported."""

from __future__ import annotations

BASE = """\
task: image_classification
data: {name: digits, augment: none}
models:
  student: {arch: cnn, width: 4}
  teacher: {arch: cnn, width: 8, weights: null}
adapters:
  proj: {module: projector, inputs: student.layers.2, match: teacher.layers.2}
stages:
  distill:
    epochs: 2
    batch_size: 32
    losses:
      ce: {loss: cross_entropy, weight: 0.5}
      kd: {loss: kd, temperature: 4.0}
      hint: {loss: mse, student: adapters.proj, teacher: teacher.layers.2}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
    scheduler: !call:torch.optim.lr_scheduler.StepLR {step_size: 1}
  tune:
    epochs: 1
"""
TASK, DATA, STUDENT, TEACHER, PROJ = (BASE.splitlines()[row] for row in (0, 1, 3, 4, 6))
EPOCHS, BATCH, CE, KD, HINT, SGD, STEP, SECOND = (BASE.splitlines()[row] for row in (9, 10, 12, 13, 14, 15, 16, 18))
STAGES = BASE[BASE.index("stages:") :]
OPTION = "    batch_size: 32\n    "
"""In front of a further option of the first stage."""
SYSTEM = "!call:os.system {command: touch harmed}"

HERE = "«"
"""In a replacement: right before the place that a problem is reported at. It is not written."""

# what is replaced in BASE, by what, and for each problem: the path, a part of the message, of the hint. The places of
# the problems are those of HERE in what is written, in order; a single one is the place of all of them.
Row = tuple[str, str, list[tuple[str, str, str]]]


def config(old: str, new: str) -> tuple[str, list[str]]:
    """BASE with a replacement, and the places ``line:column`` that it marks."""
    assert BASE.count(old) >= 1
    *before, last = BASE.replace(old, new, 1).split(HERE)
    places, text = [], ""
    for part in before:
        text += part
        places.append(f"{text.count(chr(10)) + 1}:{len(text) - text.rfind(chr(10))}")
    return text + last, places


def one(old: str, new: str, path: str, message: str, hint: str = "") -> Row:
    """A config with one problem."""
    return old, new, [(path, message, hint)]


def data(new: str, path: str, message: str, hint: str = "") -> Row:
    """Another ``data:``."""
    return one(DATA, f"data: {new}", path, message, hint)


def student(new: str, path: str, message: str, hint: str = "") -> Row:
    """Another student; ``path`` begins below it."""
    return one(STUDENT, f"  student: {new}", f"models.student{path}", message, hint)


def teacher(keys: str, path: str, message: str, hint: str = "") -> Row:
    """Further keys of the teacher."""
    return one(TEACHER, TEACHER.replace("null}", f"null, {keys}}}"), f"models.teacher{path}", message, hint)


def proj(new: str, path: str, message: str, hint: str = "") -> Row:
    """Another adapter."""
    return one(PROJ, f"  proj: {new}", f"adapters.proj{path}", message, hint)


def option(new: str, path: str, message: str, hint: str = "") -> Row:
    """A further option of the first stage."""
    return one(BATCH + "\n", f"{OPTION}{new}\n", f"stages.distill{path}", message, hint)


def term(new: str, path: str, message: str, hint: str = "") -> Row:
    """Another ``ce``."""
    return one(CE, f"      ce: {new}", f"stages.distill.losses.ce{path}", message, hint)


def sgd(new: str, path: str, message: str, hint: str = "") -> Row:
    """Another optimiser."""
    return one(SGD, f"    optimizer: {new}", f"stages.distill.optimizer{path}", message, hint)


def step(new: str, path: str, message: str, hint: str = "") -> Row:
    """Another scheduler."""
    return one(STEP, f"    scheduler: {new}", f"stages.distill.scheduler{path}", message, hint)


def top(new: str, path: str, message: str, hint: str = "") -> Row:
    """A line before the first."""
    return one(TASK, f"{new}\n{TASK}", path, message, hint)


STEP_LR = "torch.optim.lr_scheduler.StepLR"
GROUPS = "{call: !call:torch.optim.SGD {lr: 0.1}, groups: "
TOP = [
    one(TASK, TASK.replace("task", "«tsak"), "tsak", "unknown key 'tsak'", "did you mean 'task'?"),
    one(TASK + "\n", "«", "", "missing required key 'task'"),
    one(TASK, "task: «image_clasification", "task", "no task 'image_clasification'", "'image_classification'"),
    one(TASK, "task: «3", "task", "must be a string, not 3"),
    one(TASK, "task: «null", "task", "must be a string, not null"),
    one(f"{TASK}\n{DATA}\n", f"«{TASK}\n", "", "missing required key 'data'"),
    top("«stage: 1", "stage", "unknown key 'stage'", "did you mean 'stages'?"),
    top("«__class__: 3", "__class__", "unknown key '__class__'", "choose one of: adapters, checkpoint"),
    top("seed: «-1", "seed", "at least 0, not -1"),
    top("seed: «1.5", "seed", "an integer, not 1.5"),
    top("seed: «true", "seed", "an integer, not true"),
    top("seed: «99999999999999999999", "seed", "less than 9223372036854775808"),
    top("name: «''", "name", "a plain name"),
    top("name: «../../x", "name", "a plain name of letters"),
    top("name: «3", "name", "must be a string, not 3"),
    top("imports: «os", "imports", "must be a list, not 'os'"),
    top("imports: [«os]", "imports.0", "os is blocked: os is unsafe", "--trust os"),
    top("imports: [«my_pkg]", "imports.0", "my_pkg is not an allowed package", "--trust my_pkg"),
    top("imports: [«3]", "imports.0", "must be a string, not 3"),
    top("runtime: «slow", "runtime", "one of 'default' or 'fast' or a mapping, not 'slow'", "write `runtime: fast`"),
    top("observers: «[gradient_norms]", "observers", "must be a mapping, not a list of 1", "observers are named"),
    top("runtime: «3", "runtime", "not 3"),
    top("runtime: {device: «gpu}", "runtime.device", "'cpu', 'cuda' or 'mps', not 'gpu'", "did you mean 'cuda'?"),
    top("runtime: {«workers: 2}", "runtime.workers", "unknown key 'workers'", "did you mean 'data.workers'?"),
    top("runtime: {«fast: true}", "runtime.fast", "unknown key 'fast'", "write `runtime: fast`"),
    top("runtime: {precision: «bfloat16}", "runtime.precision", "not 'bfloat16'", "did you mean 'bf16'?"),
    top("runtime: {cpu_kernels: «student}", "runtime.cpu_kernels", "a list, not 'student'", "write `[student]`"),
    top("runtime: {cpu_kernels: [«techer]}", "runtime.cpu_kernels.0", "no model 'techer'", "did you mean 'teacher'?"),
    top("runtime: {device: cuda, cpu_kernels: «[student]}", "runtime.cpu_kernels", "for a CPU, and `device` is cuda"),
    top("runtime: {cuda_graphs: «true}", "runtime.cuda_graphs", "`compile` names none", "write `compile: [student]`"),
    top("runtime: {device: cpu, precision: «fp16}", "runtime.precision", "fp16 needs a GPU", "write `bf16`"),
    top("runtime: {device: mps, compile: [student], cuda_graphs: «true}", "runtime.cuda_graphs", "and `device` is mps"),
    top("runtime: {«devise: cpu}", "runtime.devise", "unknown key 'devise'", "did you mean 'device'?"),
    top("runtime: {precision: «fp8}", "runtime.precision", "not 'fp8'"),
    top("runtime: {compile: [«techer]}", "runtime.compile.0", "no model 'techer'", "did you mean 'teacher'?"),
    top("runtime: {compile: «true}", "runtime.compile", "must be a list, not true"),
    top("checkpoint: «3", "checkpoint", "must be a mapping, not 3"),
    top(
        "observers: {gradient_norms: {every_steps: «!run steps}}",
        "observers.gradient_norms.every_steps",
        "must be a plain value, not !run steps",
    ),
    top("checkpoint: {«every_step: 3}", "checkpoint.every_step", "unknown key", "did you mean 'every_steps'?"),
    top("checkpoint: {every_minutes: «0}", "checkpoint.every_minutes", "greater than 0, not 0"),
    top("checkpoint: {every_minutes: «.nan}", "checkpoint.every_minutes", "a finite number, not .nan"),
    top("checkpoint: {keep_last: «0}", "checkpoint.keep_last", "at least 1, not 0"),
    top("log_every: «0", "log_every", "at least 1, not 0"),
    top("extends: «nix.yaml", "extends", "nix.yaml: no such file"),
    top("extends: «3", "extends", "a file or a list of files"),
    top("extends: «wrong.yaml", "extends", "extends forms a cycle"),
]
DATA_ROWS = [
    data("«3", "data", "must be a mapping, not 3"),
    data("«[digits]", "data", "must be a mapping, not a list of 1"),
    data("«!call:torchvision.datasets.CIFAR10 {root: x}", "data", "a mapping, not !call:torchvision.datasets.CIFAR10"),
    data("{name: «digit}", "data.name", "no data set 'digit'", "did you mean 'digits'?"),
    data("{name: digits, «sampler: weighted}", "data.sampler", "unknown key", "did you mean 'stages.distill.sampler'?"),
    data("{name: digits, workers: «100000}", "data.workers", "at most 1024, not 100000"),
    data("{files: «t.csv}", "data.files", "must be a mapping, not 't.csv'", "write `files: {train: train.csv"),
    data("{name: digits, mean: «0.5}", "data.mean", "must be a list, not 0.5", "write `[0.5]`"),
    data("{name: digits, «augmet: none}", "data.augmet", "unknown key 'augmet'", "did you mean 'augment'?"),
    data("{name: digits, augment: «shfit}", "data.augment", "no augmentation 'shfit'", "did you mean 'shift'?"),
    data("{name: digits, augment: «3}", "data.augment", "3 is neither"),
    data(
        "{name: digits, augment: [{op: shift, «pixls: 2}]}",
        "data.augment.0.pixls",
        "has no parameter 'pixls'",
        "'pixels'",
    ),
    data("{name: digits, augment: [{op: «shft}]}", "data.augment.0.op", "no augmentation 'shft'", "'shift'"),
    data("{name: digits, augment: {op: shift, pixels: «2.5}}", "data.augment.pixels", "an integer, not 2.5"),
    data(f"{{name: digits, augment: «{SYSTEM}}}", "data.augment", "os.system is blocked", "--trust os"),
    data(f"{{name: digits, augment: [«{SYSTEM}]}}", "data.augment.0", "os.system is blocked", "--trust os"),
    data("{name: digits, limit: «true}", "data.limit", "an integer or a mapping, not true"),
    data("{name: digits, limit: «-3}", "data.limit", "at least 1, not -3"),
    data("{name: digits, limit: {«trian: 3}}", "data.limit.trian", "unknown key 'trian'", "'train'"),
    data("{name: digits, val: «1.5}", "data.val", "an integer or less than 1, not 1.5"),
    data("{name: digits, val: «.nan}", "data.val", "not .nan"),
    data("«{name: digits, num_classes: 7}", "data", "digits has 10 classes, not 7"),
    data("{name: digits, num_classes: «0}", "data.num_classes", "at least 1, not 0"),
    data("{name: digits, classes: «[0]}", "data.classes", "a list of at least 2, not a list of 1"),
    data("«{name: digits, size: 32}", "data", "images of one size"),
    data("«{name: digits, fraction: 0.5, per_class: 3}", "data", "both choose the training images"),
    data("{name: digits, mean: «[0.5, 0.5]}", "data.mean", "2 values for images of 1 channels"),
    data("{name: digits, mean: [«1.5]}", "data.mean.0", "at most 1, not 1.5"),
    data("{dataset: {train: «3}}", "data.dataset.train", "must be a !call of a data set"),
    data("{dataset: «{}}", "data.dataset", "missing required key 'train'"),
    data(f"{{dataset: {{train: «{SYSTEM}}}}}", "data.dataset.train", "os.system is blocked", "--trust os"),
    data("{dataset: {«trian: 3}}", "data.dataset.trian", "unknown key 'trian'", "did you mean 'train'?"),
    data(
        "{dataset: {train: !call:torchvision.datasets.CIFAR10 {root: x, «trian: true}}}",
        "data.dataset.train.trian",
        "CIFAR10 has no parameter 'trian'",
        "did you mean 'train'?",
    ),
]
MODELS = [
    student("«cnn", "", "must be a mapping, not 'cnn'"),
    student("«[cnn]", "", "must be a mapping, not a list of 1"),
    student("«{}", "", "give exactly one of arch, zoo, timm, hub, run, init_from, call"),
    student("«{ach: cnn}", "", "give exactly one of", "is 'ach' meant to be 'arch'?"),
    student("«{arch: cnn, zoo: resnet20}", "", "not arch and zoo"),
    student("{arch: «cnnn}", ".arch", "no model 'cnnn'", "did you mean 'cnn'?"),
    student("{arch: «resnet18}", ".arch", "no model 'resnet18'", "did you mean 'torchvision.resnet18'?"),
    student("{arch: «4}", ".arch", "must be a string, not 4"),
    student("{arch: cnn, «widht: 4}", ".widht", "cnn has no parameter 'widht'", "did you mean 'width'?"),
    student("{arch: cnn, width: «'4'}", ".width", "must be an integer, not '4'"),
    student("{arch: cnn, width: «true}", ".width", "must be an integer, not true"),
    student("{arch: cnn, width: «.nan}", ".width", "not .nan"),
    student("{arch: cnn, width: «0}", ".width", "must be at least 1, not 0"),
    student("«{arch: cnn, width: 99999999999999}", "", "it cannot be built"),
    student("«{arch: cnn, depth: 100000}", "", "it cannot be built"),
    student("{arch: cnn, num_classes: «0}", ".num_classes", "must be at least 1, not 0"),
    student("«{arch: cnn, in_channels: 3}", "", "forward failed on a dummy input of shape (2, 1, 8, 8)"),
    student("«{timm: resnet02}", "", "timm has no model 'resnet02'", "did you mean"),
    student("{init_from: «techer}", ".init_from", "no model 'techer'", "did you mean 'teacher'?"),
    student("{init_from: «student}", ".init_from", "no model 'student'", "choose one of: teacher"),
    student("{init_from: teacher, «layers: [0]}", ".layers", "unknown key 'layers'"),
    student("{zoo: «resnet02}", ".zoo", "no weights 'resnet02'", "did you mean"),
    student("{zoo: «resnet20}", ".zoo", "were published for digits, only for cifar10"),
    student("{arch: cnn, weights: «auto}", ".weights", "no published weights for arch cnn", "write `zoo: NAME`"),
    student("{arch: cnn, weights: «3}", ".weights", "must be a string, not 3"),
    student("{call: «3}", ".call", "must be a !call, not 3"),
    student("«!call:torch.nn.Liner {}", "", "torch.nn has no 'Liner'", "did you mean 'Linear'?"),
    student("«!call:torchvision.models.resnet81 {}", "", "has no 'resnet81'", "did you mean 'resnet18'?"),
    student("!call:torchvision.models.resnet18 [«true]", ".0", "takes no positional arguments, not 1"),
    student("!call:torch.nn.Linear {«in_features: a, out_features: 2}", ".in_features", "must be a number", ""),
    student("«!call:torch.optim.SGD {params: []}", "", "torch.optim.SGD is not a torch.nn.Module"),
    student("«!get:torch.float32", "", "!get:torch.float32 is not a torch.nn.Module", "write !call"),
    student("«!run steps", "", "!run steps is not a torch.nn.Module"),
    student(f"«{SYSTEM}", "", "os.system is blocked", "--trust os"),
    student(f"!call:torch.nn.Sequential [«{SYSTEM}]", ".0", "os.system is blocked", "--trust os"),
    student("«!call:my_pkg.Net {}", "", "my_pkg is not an allowed package", "--trust my_pkg"),
    student("{call: !call:torch.nn.Identity {}, «width: 4}", ".width", "unknown key 'width'", "choose one of: arch"),
    one(TEACHER, "  teacher: «{arch: cnn, width: 8}", "models.teacher", "without weights", "weights: null"),
    one(TEACHER, TEACHER.replace("weights", "«weigths"), "models.teacher.weigths", "has no parameter", "'weights'"),
    teacher("trainable: «yes", ".trainable", "true or false, not 'yes'"),
    teacher("mode: «trian", ".mode", "one of 'eval' or 'train', not 'trian'"),
    teacher("input: {«siz: 3}", ".input.siz", "unknown key 'siz'", "did you mean 'size'?"),
    teacher("input: {mean: [«2]}", ".input.mean.0", "at most 1, not 2"),
    teacher("input: {mean: «[0.1, 0.2]}", ".input.mean", "2 values for images of 1 channels"),
    teacher("input: {channels: «5}", ".input.channels", "1 channels cannot become 5"),
    teacher("edit: «{truncate: layers}", ".edit", "must be a list, not a mapping"),
    teacher("edit: [«3]", ".edit.0", "must be a mapping, not 3"),
    teacher("edit: [«{truncat: layers}]", ".edit.0", "an edit is one of", "did you mean 'truncate'?"),
    teacher("edit: [{truncate: «layerz}]", ".edit.0.truncate", "no module 'layerz'", "did you mean 'layers'?"),
    teacher(
        "edit: [{replace: «fc}]",
        ".edit.0.replace",
        "the edit 'replace' is missing the required key 'with'",
        "write {replace: ..., with: ...}",
    ),
    teacher("edit: [{freeze: «'layrs*'}]", ".edit.0.freeze", "nothing that matches 'layrs*'", "'layers'"),
    teacher(f"edit: [{{replace: fc, with: «{SYSTEM}}}]", ".edit.0.with", "os.system is blocked", "--trust os"),
    one(
        TEACHER,
        TEACHER.replace("{", "«{").replace("null", "null, edit: [{replace: fc, with: !call:torch.nn.Linear [3, 3]}]"),
        "models.teacher",
        "forward failed on a dummy input of shape (2, 1, 8, 8)",
        "",
    ),
    one(
        f"models:\n{STUDENT}",
        f"«models:\n  studnet{STUDENT[9:]}",
        "models",
        "named 'student'",
        "is 'studnet' meant",
    ),
    one(TEACHER, f"{TEACHER}\n  «batch: {{arch: cnn, weights: null}}", "models.batch", "are taken"),
    one(TEACHER, f"{TEACHER}\n  «forward: {{arch: cnn, weights: null}}", "models.forward", "every torch.nn.Module"),
    one(TEACHER, f"{TEACHER}\n  «a-b: {{arch: cnn, weights: null}}", "models.a-b", "letters, digits and _"),
    one(f"{STUDENT}\n{TEACHER}\n", "  «null\n", "models", "must be a mapping, not null"),
]
ADAPTERS = [
    proj("{module: «projecter, inputs: student.fc}", ".module", "no adapter 'projecter'", "did you mean 'projector'?"),
    proj("{module: «techer.fc, inputs: student.fc}", ".module", "no adapter 'techer.fc'", "did you mean 'teacher'?"),
    proj("{module: «teacher.fcc, inputs: student.fc}", ".module", "no module 'fcc'", "did you mean 'fc'?"),
    proj(
        "{module: «teacher.fc, inputs: student.layers.2}",
        ".module",
        "forward failed on a dummy input of shape (2, 16, 2, 2)",
    ),
    proj(
        "«{modul: projector, inputs: student.fc}",
        "",
        "missing required key 'module'",
        "is 'modul' meant to be 'module'?",
    ),
    proj("«{module: projector}", "", "missing required key 'inputs'"),
    proj("{module: projector, inputs: «[]}", ".inputs", "a list of at least 1"),
    proj("{module: projector, inputs: [«3]}", ".inputs.0", "must be a string, not 3"),
    proj("«{adapter: projector, inputs: student.fc}", "", "missing required key", "is 'adapter' meant to be 'module'?"),
    proj("«{module: projector, from: student.fc}", "", "missing required key", "is 'from' meant to be 'inputs'?"),
    proj("{module: projector, inputs: «adapters.proj}", ".inputs", "adapters.proj depends on itself"),
    proj(
        "{module: projector, inputs: «student.layers.9, out_features: 8}",
        ".inputs",
        "no module 'layers.9'",
        "'layers.2'",
    ),
    proj("«{module: projector, inputs: student.layers.2}", "", "projector has no output width", "write `match:`"),
    proj("{module: projector, inputs: student.layers.2, out_features: «0}", ".out_features", "at least 1, not 0"),
    proj(
        "{module: projector, inputs: student.fc, out_features: 8, «kernal: 3}",
        ".kernal",
        "has no parameter 'kernal'",
        "'kernel'",
    ),
    proj(
        "{module: projector, inputs: student.fc, out_features: 8, kernel: «x}", ".kernel", "must be an integer, not 'x'"
    ),
    proj("{module: projector, inputs: student.layers.2, out_features: 32, kernel: «2}", ".kernel", "must be odd"),
    proj("{module: projector, inputs: student.fc, match: «techer.fc}", ".match", "no model 'techer'", "'teacher'"),
    proj(f"{{module: «{SYSTEM}, inputs: student.fc}}", ".module", "os.system is blocked", "--trust os"),
    proj("{module: !call:torch.nn.Flatten {}, inputs: student.fc, «x: 1}", ".x", "unknown key 'x'", "braces"),
    proj("«3", "", "must be a mapping, not 3"),
]
