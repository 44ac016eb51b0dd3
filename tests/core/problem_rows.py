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
"""In front of a further option of the first stage, which then stands in line 12, column 5."""
SYSTEM = "!call:os.system {command: touch harmed}"

# what is replaced in BASE, by what, and for each problem: its place, the path, a part of the message, of the hint
Row = tuple[str, str, list[tuple[str, str, str, str]]]


def one(old: str, new: str, place: str, path: str, message: str, hint: str = "") -> Row:
    """A config with one problem."""
    return old, new, [(place, path, message, hint)]


def data(new: str, column: int, path: str, message: str, hint: str = "") -> Row:
    """Another ``data:``, in line 2."""
    return one(DATA, f"data: {new}", f"2:{column}", path, message, hint)


def student(new: str, column: int, path: str, message: str, hint: str = "") -> Row:
    """Another student, in line 4; ``path`` begins below it."""
    return one(STUDENT, f"  student: {new}", f"4:{column}", f"models.student{path}", message, hint)


def teacher(keys: str, column: int, path: str, message: str, hint: str = "") -> Row:
    """Further keys of the teacher, from column 47 of line 5."""
    new = TEACHER.replace("null}", f"null, {keys}}}")
    return one(TEACHER, new, f"5:{column}", f"models.teacher{path}", message, hint)


def proj(new: str, column: int, path: str, message: str, hint: str = "") -> Row:
    """Another adapter, in line 7."""
    return one(PROJ, f"  proj: {new}", f"7:{column}", f"adapters.proj{path}", message, hint)


def option(new: str, column: int, path: str, message: str, hint: str = "") -> Row:
    """A further option of the first stage, in line 12."""
    return one(BATCH + "\n", f"{OPTION}{new}\n", f"12:{column}", f"stages.0{path}", message, hint)


def term(new: str, column: int, path: str, message: str, hint: str = "") -> Row:
    """Another ``ce``, in line 13."""
    return one(CE, f"      ce: {new}", f"13:{column}", f"stages.0.losses.ce{path}", message, hint)


def sgd(new: str, column: int, path: str, message: str, hint: str = "") -> Row:
    """Another optimiser, in line 16."""
    return one(SGD, f"    optimizer: {new}", f"16:{column}", f"stages.0.optimizer{path}", message, hint)


def step(new: str, column: int, path: str, message: str, hint: str = "") -> Row:
    """Another scheduler, in line 17."""
    return one(STEP, f"    scheduler: {new}", f"17:{column}", f"stages.0.scheduler{path}", message, hint)


def top(new: str, column: int, path: str, message: str, hint: str = "") -> Row:
    """A line before the first."""
    return one(TASK, f"{new}\n{TASK}", f"1:{column}", path, message, hint)


STEP_LR = "torch.optim.lr_scheduler.StepLR"
GROUPS = "{call: !call:torch.optim.SGD {lr: 0.1}, groups: "
TOP = [
    one(TASK, TASK.replace("task", "tsak"), "1:1", "tsak", "unknown key 'tsak'", "did you mean 'task'?"),
    one(TASK + "\n", "", "1:1", "", "needs a key 'task'"),
    one(TASK, "task: image_clasification", "1:7", "task", "no task 'image_clasification'", "'image_classification'"),
    one(TASK, "task: 3", "1:7", "task", "must be text, not 3"),
    one(TASK, "task: null", "1:7", "task", "must be text, not null"),
    one(DATA + "\n", "", "1:1", "", "needs a key 'data'"),
    top("stage: 1", 1, "stage", "unknown key 'stage'", "did you mean 'stages'?"),
    top("__class__: 3", 1, "__class__", "unknown key '__class__'", "choose one of: adapters, checkpoint"),
    top("seed: -1", 7, "seed", "at least 0, not -1"),
    top("seed: 1.5", 7, "seed", "a whole number, not 1.5"),
    top("seed: true", 7, "seed", "a whole number, not true"),
    top("seed: 99999999999999999999", 7, "seed", "less than 9223372036854775808"),
    top("name: ''", 7, "name", "a plain name"),
    top("name: ../../x", 7, "name", "a plain name of letters"),
    top("name: 3", 7, "name", "must be text, not 3"),
    top("imports: os", 10, "imports", "must be a list, not 'os'"),
    top("imports: [os]", 11, "imports.0", "os is refused: os can do harm", "--trust os"),
    top("imports: [my_pkg]", 11, "imports.0", "my_pkg is no allowed package", "--trust my_pkg"),
    top("imports: [3]", 11, "imports.0", "must be text, not 3"),
    top("runtime: slow", 10, "runtime", "one of 'default' or 'fast' or a mapping, not 'slow'"),
    top("runtime: 3", 10, "runtime", "not 3"),
    top("runtime: {device: gpu}", 19, "runtime.device", "'cpu', 'cuda' or 'mps', not 'gpu'"),
    top("runtime: {devise: cpu}", 11, "runtime.devise", "unknown key 'devise'", "did you mean 'device'?"),
    top("runtime: {precision: fp8}", 22, "runtime.precision", "not 'fp8'"),
    top("runtime: {compile: [techer]}", 21, "runtime.compile.0", "no model 'techer'", "did you mean 'teacher'?"),
    top("runtime: {compile: true}", 20, "runtime.compile", "must be a list, not true"),
    top("checkpoint: 3", 13, "checkpoint", "must be a mapping, not 3"),
    top("checkpoint: {every_step: 3}", 14, "checkpoint.every_step", "unknown key", "did you mean 'every_steps'?"),
    top("checkpoint: {every_minutes: 0}", 29, "checkpoint.every_minutes", "greater than 0, not 0"),
    top("checkpoint: {every_minutes: .nan}", 29, "checkpoint.every_minutes", "a finite number, not .nan"),
    top("checkpoint: {keep_last: 0}", 20, "checkpoint.keep", "at least 1, not 0"),
    top("log_every: 0", 12, "log_every", "at least 1, not 0"),
    top("extends: nix.yaml", 10, "extends", "nix.yaml: no such file"),
    top("extends: 3", 10, "extends", "a file or a list of files"),
    top("extends: wrong.yaml", 10, "extends", "extends goes in a circle"),
]
DATA_ROWS = [
    data("3", 7, "data", "must be a mapping, not 3"),
    data("[digits]", 7, "data", "must be a mapping, not a list of 1"),
    data(
        "!call:torchvision.datasets.CIFAR10 {root: x}", 7, "data", "a mapping, not !call:torchvision.datasets.CIFAR10"
    ),
    data("{name: digit}", 14, "data.name", "no data set 'digit'", "did you mean 'digits'?"),
    data("{name: digits, augmet: none}", 22, "data.augmet", "unknown key 'augmet'", "did you mean 'augment'?"),
    data("{name: digits, augment: shfit}", 31, "data.augment", "no augmentation 'shfit'", "did you mean 'shift'?"),
    data("{name: digits, augment: 3}", 31, "data.augment", "3 is neither"),
    data(
        "{name: digits, augment: [{op: shift, pixls: 2}]}", 44, "data.augment.0.pixls", "takes no 'pixls'", "'pixels'"
    ),
    data("{name: digits, augment: [{op: shft}]}", 37, "data.augment.0.op", "no augmentation 'shft'", "'shift'"),
    data("{name: digits, augment: {op: shift, pixels: 2.5}}", 51, "data.augment.pixels", "a whole number, not 2.5"),
    data(f"{{name: digits, augment: {SYSTEM}}}", 31, "data.augment", "os.system is refused", "--trust os"),
    data(f"{{name: digits, augment: [{SYSTEM}]}}", 32, "data.augment.0", "os.system is refused", "--trust os"),
    data("{name: digits, limit: true}", 29, "data.limit", "a whole number or a mapping, not true"),
    data("{name: digits, limit: -3}", 29, "data.limit", "at least 1, not -3"),
    data("{name: digits, limit: {trian: 3}}", 30, "data.limit.trian", "unknown key 'trian'", "'train'"),
    data("{name: digits, val: 1.5}", 27, "data.val", "a whole number or less than 1, not 1.5"),
    data("{name: digits, val: .nan}", 27, "data.val", "not .nan"),
    data("{name: digits, num_classes: 7}", 7, "data", "digits has 10 classes, not 7"),
    data("{name: digits, num_classes: 0}", 35, "data.num_classes", "at least 1, not 0"),
    data("{name: digits, classes: [0]}", 31, "data.classes", "a list of at least 2, not a list of 1"),
    data("{name: digits, size: 32}", 7, "data", "images of one size"),
    data("{name: digits, fraction: 0.5, per_class: 3}", 7, "data", "both choose the training images"),
    data("{name: digits, mean: [0.5, 0.5]}", 28, "data.mean", "2 values for images of 1 channels"),
    data("{name: digits, mean: [1.5]}", 29, "data.mean.0", "at most 1, not 1.5"),
    data("{name: digits, dataset: {train: 3}}", 39, "data.dataset.train", "must be a !call of a data set"),
    data("{dataset: {}}", 17, "data.dataset", "needs a key 'train'"),
    data(f"{{dataset: {{train: {SYSTEM}}}}}", 25, "data.dataset.train", "os.system is refused", "--trust os"),
    data("{dataset: {trian: 3}}", 18, "data.dataset.trian", "unknown key 'trian'", "did you mean 'train'?"),
    data(
        "{dataset: {train: !call:torchvision.datasets.CIFAR10 {root: x, trian: true}}}",
        70,
        "data.dataset.train.trian",
        "CIFAR10 takes no 'trian'",
        "did you mean 'train'?",
    ),
]
MODELS = [
    student("cnn", 12, "", "must be a mapping, not 'cnn'"),
    student("[cnn]", 12, "", "must be a mapping, not a list of 1"),
    student("{}", 12, "", "give exactly one of arch, zoo, run, hub, init_from, call"),
    student("{ach: cnn}", 12, "", "give exactly one of", "is 'ach' meant to be 'arch'?"),
    student("{arch: cnn, zoo: resnet20}", 12, "", "not arch and zoo"),
    student("{arch: cnnn}", 19, ".arch", "no model 'cnnn'", "did you mean 'cnn'?"),
    student("{arch: resnet18}", 19, ".arch", "no model 'resnet18'", "did you mean 'torchvision.resnet18'?"),
    student("{arch: 4}", 19, ".arch", "must be text, not 4"),
    student("{arch: cnn, widht: 4}", 24, ".widht", "cnn takes no 'widht'", "did you mean 'width'?"),
    student("{arch: cnn, width: '4'}", 31, ".width", "as a whole number, not '4'"),
    student("{arch: cnn, width: true}", 31, ".width", "as a whole number, not true"),
    student("{arch: cnn, width: .nan}", 31, ".width", "not .nan"),
    student("{arch: cnn, width: 0}", 12, "", "width and depth of at least 1"),
    student("{arch: cnn, width: 99999999999999}", 12, "", "it cannot be built"),
    student("{arch: cnn, depth: 100000}", 12, "", "it cannot be built"),
    student("{arch: cnn, num_classes: 0}", 37, ".num_classes", "at least 1, not 0"),
    student("{arch: cnn, in_channels: 3}", 12, "", "it cannot take (2, 1, 8, 8)"),
    student("{hub: bert-base-uncased}", 18, ".hub", "this task has no hub of models", "write `arch: NAME`"),
    student("{init_from: techer}", 24, ".init_from", "no model 'techer' to begin as", "did you mean 'teacher'?"),
    student("{init_from: student}", 24, ".init_from", "no model 'student' to begin as", "choose one of: teacher"),
    student("{init_from: teacher, layers: [0]}", 33, ".layers", "unknown key 'layers'"),
    student("{zoo: resnet02}", 18, ".zoo", "no weights 'resnet02'", "did you mean"),
    student("{zoo: resnet20}", 18, ".zoo", "were published for digits, only for cifar10"),
    student("{arch: cnn, weights: auto}", 33, ".weights", "no published weights for arch cnn", "write `zoo: NAME`"),
    student("{arch: cnn, weights: 3}", 33, ".weights", "must be text, not 3"),
    student("{call: 3}", 19, ".call", "must be a !call, not 3"),
    student("!call:torch.nn.Liner {}", 12, "", "torch.nn has no 'Liner'", "did you mean 'Linear'?"),
    student("!call:torchvision.models.resnet81 {}", 12, "", "has no 'resnet81'", "did you mean 'resnet18'?"),
    student("!call:torchvision.models.resnet18 [true]", 47, ".0", "takes no positional arguments, not 1"),
    student("!call:torch.nn.Linear {in_features: a, out_features: 2}", 35, ".in_features", "a number as", ""),
    student("!call:torch.optim.SGD {params: []}", 12, "", "torch.optim.SGD makes no Module"),
    student("!get:torch.float32", 12, "", "!get:torch.float32 makes no Module", "write !call"),
    student("!run steps", 12, "", "!run steps makes no Module"),
    student(SYSTEM, 12, "", "os.system is refused", "--trust os"),
    student(f"!call:torch.nn.Sequential [{SYSTEM}]", 39, ".0", "os.system is refused", "--trust os"),
    student("!call:my_pkg.Net {}", 12, "", "my_pkg is no allowed package", "--trust my_pkg"),
    student("{call: !call:torch.nn.Identity {}, width: 4}", 47, ".width", "unknown key 'width'", "choose one of: arch"),
    one(TEACHER, TEACHER.replace(", weights: null", ""), "5:12", "models.teacher", "without weights", "weights: null"),
    one(TEACHER, TEACHER.replace("weights", "weigths"), "5:34", "models.teacher.weigths", "takes no", "'weights'"),
    teacher("trainable: yes", 60, ".trainable", "true or false, not 'yes'"),
    teacher("mode: trian", 55, ".mode", "one of 'eval' or 'train', not 'trian'"),
    teacher("input: {siz: 3}", 57, ".input.siz", "unknown key 'siz'", "did you mean 'size'?"),
    teacher("input: {mean: [2]}", 64, ".input.mean.0", "at most 1, not 2"),
    teacher("input: {mean: [0.1, 0.2]}", 63, ".input.mean", "2 values for images of 1 channels"),
    teacher("input: {channels: 5}", 67, ".input.channels", "1 channels cannot become 5"),
    teacher("edit: {truncate: layers}", 55, ".edit", "must be a list, not a mapping"),
    teacher("edit: [3]", 56, ".edit.0", "must be a mapping, not 3"),
    teacher("edit: [{truncat: layers}]", 56, ".edit.0", "an edit is one of", "did you mean 'truncate'?"),
    teacher("edit: [{truncate: layerz}]", 67, ".edit.0.truncate", "no module 'layerz'", "did you mean 'layers'?"),
    teacher("edit: [{replace: fc}]", 66, ".edit.0.replace", "replace needs 'with'", "write {replace: ..., with: ...}"),
    teacher("edit: [{freeze: 'layrs*'}]", 65, ".edit.0.freeze", "nothing that matches 'layrs*'", "'layers'"),
    teacher(f"edit: [{{replace: fc, with: {SYSTEM}}}]", 76, ".edit.0.with", "os.system is refused", "--trust os"),
    teacher("edit: [{replace: fc, with: !call:torch.nn.Linear [3, 3]}]", 12, "", "it cannot take (2, 1, 8, 8)", ""),
    one(STUDENT, STUDENT.replace("student", "studnet"), "3:1", "models", "named 'student'", "is 'studnet' meant"),
    one(TEACHER, f"{TEACHER}\n  batch: {{arch: cnn, weights: null}}", "6:3", "models.batch", "are taken"),
    one(
        TEACHER, f"{TEACHER}\n  forward: {{arch: cnn, weights: null}}", "6:3", "models.forward", "every torch.nn.Module"
    ),
    one(TEACHER, f"{TEACHER}\n  a-b: {{arch: cnn, weights: null}}", "6:3", "models.a-b", "letters, digits and _"),
    one(f"{STUDENT}\n{TEACHER}\n", "  null\n", "4:3", "models", "must be a mapping, not null"),
]
ADAPTERS = [
    proj(
        "{module: projecter, inputs: student.fc}", 18, ".module", "no adapter 'projecter'", "did you mean 'projector'?"
    ),
    proj("{module: techer.fc, inputs: student.fc}", 18, ".module", "no adapter 'techer.fc'", "did you mean 'teacher'?"),
    proj("{module: teacher.fcc, inputs: student.fc}", 18, ".module", "no module 'fcc'", "did you mean 'fc'?"),
    proj("{module: teacher.fc, inputs: student.layers.2}", 18, ".module", "it cannot take (2, 16, 2, 2)"),
    proj("{modul: projector, inputs: student.fc}", 9, "", "needs a key 'module'", "is 'modul' meant to be 'module'?"),
    proj("{module: projector}", 9, "", "needs a key 'inputs'"),
    proj("{module: projector, inputs: []}", 37, ".inputs", "a list of at least 1"),
    proj("{module: projector, inputs: [3]}", 38, ".inputs.0", "must be text, not 3"),
    proj("{module: projector, inputs: adapters.proj}", 37, ".inputs", "adapters.proj feeds itself"),
    proj(
        "{module: projector, inputs: student.layers.9, out_features: 8}",
        37,
        ".inputs",
        "no module 'layers.9'",
        "'layers.2'",
    ),
    proj("{module: projector, inputs: student.layers.2}", 9, "", "projector knows no width", "write `like:`"),
    proj("{module: projector, inputs: student.layers.2, out_features: 0}", 59, ".to", "at least 1, not 0"),
    proj(
        "{module: projector, inputs: student.fc, out_features: 8, kernal: 3}",
        56,
        ".kernal",
        "takes no 'kernal'",
        "'kernel'",
    ),
    proj(
        "{module: projector, inputs: student.fc, out_features: 8, kernel: x}",
        64,
        ".kernel",
        "as a whole number, not 'x'",
    ),
    proj("{module: projector, inputs: student.layers.2, out_features: 32, kernel: 2}", 71, ".kernel", "must be odd"),
    proj("{module: projector, inputs: student.fc, match: techer.fc}", 55, ".like", "no model 'techer'", "'teacher'"),
    proj(f"{{module: {SYSTEM}, inputs: student.fc}}", 18, ".module", "os.system is refused", "--trust os"),
    proj("{module: !call:torch.nn.Flatten {}, inputs: student.fc, to: 3, x: 1}", 72, ".x", "unknown key 'x'", "braces"),
    proj("3", 9, "", "must be a mapping, not 3"),
]
