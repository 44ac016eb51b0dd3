"""Wrong stages, terms and optimisers, and several mistakes in one config."""

from __future__ import annotations

from .problem_rows import (
    ADAPTERS,
    BASE,
    BATCH,
    DATA_ROWS,
    EPOCHS,
    GROUPS,
    HINT,
    KD,
    MODELS,
    OPTION,
    SECOND,
    SGD,
    STAGES,
    STEP,
    STEP_LR,
    STUDENT,
    SYSTEM,
    TEACHER,
    TOP,
    Row,
    one,
    option,
    sgd,
    step,
    term,
)

FIRST = BASE[BASE.index(EPOCHS) : BASE.index(STEP)]
"""The keys of the first stage up to its scheduler."""
STAGE_ROWS = [
    *(
        one(EPOCHS, f"    epochs: «{value}", "stages.distill.epochs", message)
        for value, message in [
            ("-2", "at least 1, not -2"),
            ("0", "at least 1, not 0"),
            ("2.0", "an integer, not 2.0"),
            ("true", "an integer, not true"),
            ("two", "an integer, not 'two'"),
            (".nan", "an integer, not .nan"),
            ("99999999999999999999999", "less than 2147483648"),
        ]
    ),
    one(EPOCHS, "    «epoch: 2", "stages.distill.epoch", "unknown key 'epoch'", "did you mean 'epochs'?"),
    one(EPOCHS, EPOCHS + "\n    «steps: 3", "stages.distill.steps", "'epochs' or 'steps', not both"),
    one(EPOCHS + "\n    ", "    «", "stages.distill", "missing required key 'epochs' or 'steps'"),
    one(BATCH, "    batch_size: «0", "stages.distill.batch_size", "at least 1, not 0"),
    one(BATCH, "    «batchsize: 32", "stages.distill.batchsize", "unknown key", "did you mean 'batch_size'?"),
    one(f"{EPOCHS}\n{BATCH}\n", f"    «{EPOCHS.lstrip()}\n", "stages.distill", "missing required key 'batch_size'"),
    option("accumulation_steps: «64", ".accumulation_steps", "cannot cut a batch of 32 into 64 micro-batches"),
    option("«accumulation_step: 2", ".accumulation_step", "unknown key", "did you mean 'accumulation_steps'?"),
    option("max_grad_norm: «0", ".max_grad_norm", "greater than 0, not 0"),
    option("max_grad_norm: «.inf", ".max_grad_norm", "a finite number, not .inf"),
    option("ema: «1.5", ".ema", "less than 1, not 1.5"),
    option("early_stopping: «3", ".early_stopping", "must be a mapping, not 3"),
    option("early_stopping: {«patence: 3}", ".early_stopping.patence", "unknown key", "did you mean 'patience'?"),
    option("early_stopping: {patience: «0}", ".early_stopping.patience", "at least 1, not 0"),
    option("validate: «{}", ".validate", "give one of 'every_epochs' and 'every_steps'"),
    option("validate: {«every: 3}", ".validate.every", "unknown key 'every'", "did you mean 'every_"),
    option("monitor: «{metric: top1}", ".monitor", "missing required key 'mode'"),
    option("monitor: {metric: «topp1, mode: max}", ".monitor.metric", "no metric 'topp1'", "did you mean 'top1'?"),
    option("monitor: {metric: top1, mode: «most}", ".monitor.mode", "one of 'max' or 'min', not 'most'"),
    option("train: «student", ".train", "must be a list, not 'student'"),
    option("train: [«studnt]", ".train.0", "the run has nothing that matches 'studnt'", "did you mean 'student'?"),
    option("train: [«adapters.prj]", ".train.0", "nothing that matches", "did you mean 'adapters.proj'?"),
    option("freeze: [«'class:BatchNorm']", ".freeze.0", "no module of class 'BatchNorm'", "'BatchNorm2d'"),
    option("drop_last: «1", ".drop_last", "true or false, not 1"),
    option("eval_batch_size: «0", ".eval_batch_size", "at least 1, not 0"),
    option("data: {name: «digit}", ".data.name", "no data set 'digit'", "did you mean 'digits'?"),
    one(BATCH, f"{OPTION}«epochs: 3", "", "the key 'epochs' is repeated", "first given at"),
    one(SECOND, f"{SECOND}\n    losses: «{{}}", "stages.tune.losses", "needs at least one term"),
    one(SECOND, f"{SECOND}\n    optimizer: «null", "stages.tune.optimizer", "must not be null"),
    one(SECOND, f"{SECOND}\n    accumulation_steps: «33", "stages.tune.accumulation_steps", "cannot cut a batch of 32"),
    one(SECOND, "    epochs: «-1", "stages.tune.epochs", "at least 1, not -1"),
    one(SECOND, f"{SECOND}\n    «steps: 3", "stages.tune.steps", "not both"),
    one(STAGES, "stages: «null\n", "stages", "must be a mapping, not null"),
    one(STAGES, "stages: {distill: «3}\n", "stages.distill", "must be a mapping, not 3"),
    one(STAGES, "stages: «[{epochs: 1}]\n", "stages", "must be a mapping, not a list of 1"),
]
TERMS = [
    term("«3", "", "must be a mapping, not 3"),
    term("«cross_entropy", "", "must be a mapping, not 'cross_entropy'"),
    term("«{los: cross_entropy}", "", "missing required key 'loss'", "is 'los' meant to be 'loss'?"),
    term("{loss: «crossentropy}", ".loss", "no loss 'crossentropy'", "did you mean 'cross_entropy'?"),
    term("{loss: «3}", ".loss", "must be a string or a !call, not 3"),
    term("{loss: cross_entropy, «wieght: 0.5}", ".wieght", "has no parameter 'wieght'", "did you mean 'weight'?"),
    term("{loss: cross_entropy, weight: «'1'}", ".weight", "a number or a mapping, not '1'"),
    term("{loss: cross_entropy, weight: «true}", ".weight", "not true"),
    term("{loss: cross_entropy, weight: «.nan}", ".weight", "a finite number or a mapping, not .nan"),
    term("{loss: cross_entropy, weight: «!run steps }", ".weight", "not !run steps"),
    term("{loss: cross_entropy, weight: {schedule: «liner}}", ".weight.schedule", "no schedule 'liner'", "'linear'"),
    term("{loss: cross_entropy, weight: «{start: 0}}", ".weight", "nor a schedule", "write a number"),
    term("{loss: cross_entropy, weight: «{schedule: linear, start: 0}}", ".weight", "'end' is missing"),
    term("{loss: cross_entropy, «label_smothing: 0.1}", ".label_smothing", "has no parameter", "'label_smoothing'"),
    term("{loss: cross_entropy, label_smoothing: «'0'}", ".label_smoothing", "must be a number, not '0'"),
    term("{loss: cross_entropy, label_smoothing: «1.5}", ".label_smoothing", "must be in [0, 1], not 1.5"),
    term("{loss: cross_entropy, class_weights: «[1, 2]}", ".class_weights", "has 2 numbers"),
    term("{loss: cross_entropy, student: «student.fcc}", ".student", "no module 'fcc'", "did you mean 'fc'?"),
    term("{loss: cross_entropy, student: «studnet.fc}", ".student", "no model 'studnet'", "'student'"),
    term("{loss: cross_entropy, student: «student}", ".student", "names nothing", "write student.output"),
    term("{loss: cross_entropy, student: «student.fc:inn}", ".student", "neither a side nor a call", ":in"),
    term("{loss: cross_entropy, student: «student.fc:7}", ".student", "ran 1 times", "student.fc:0"),
    term("{loss: cross_entropy, student: «student.fc/0}", ".student", "there is no field '0'", "leave the field out"),
    term(
        "«{loss: cross_entropy, student: student.layers.0}", ".target", "target (2,) does not fit student (2, 4, 8, 8)"
    ),
    term("{loss: cross_entropy, student: «3}", ".student", "a wire or a list of wires, not 3"),
    term("{loss: cross_entropy, student: «[]}", ".student", "a wire or a list of wires, not a list of 0"),
    term("{loss: cross_entropy, target: «batch.targt}", ".target", "the batch has no 'targt'"),
    term("{loss: cross_entropy, «mask: batch.mask}", ".mask", "has no parameter 'mask'"),
    term("{loss: cross_entropy, detach: «targt}", ".detach", "has no input 'targt'", "did you mean 'target'?"),
    term(f"{{loss: cross_entropy, label_smoothing: «{SYSTEM}}}", ".label_smoothing", "os.system is blocked"),
    term("{loss: «!call:torch.nn.CrossEntropyLos {}}", ".loss", "has no 'CrossEntropyLos'", "'CrossEntropyLoss'"),
    term("{loss: !call:torch.nn.CrossEntropyLoss {«label: 0.1}}", ".loss.label", "has no parameter 'label'"),
    term("«{loss: !call:torch.nn.CrossEntropyLoss {reduction: none}}", "", "not one number", ""),
    term("{loss: !call:torch.nn.CrossEntropyLoss {}, «label_smoothing: 0.1}", ".label_smoothing", "no input", "braces"),
    term(f"{{loss: «{SYSTEM}}}", ".loss", "os.system is blocked", "--trust os"),
    term("«{loss: !call:torch.nn.Linear [3, 4]}", "", "the loss failed on input (2, 10)"),
    term("{loss: «!call:torch.optim.SGD {params: []}}", ".loss", "is not a loss", "torch.nn.Module"),
    one(KD, KD.replace("temp", "«tmp"), "stages.distill.losses.kd.tmperature", "kd has no parameter", "'temperature'"),
    one(KD, KD.replace("4.0", "«0"), "stages.distill.losses.kd.temperature", "must be greater than 0, not 0"),
    one(KD, KD.replace("4.0", "«.inf"), "stages.distill.losses.kd.temperature", "a finite number, not .inf"),
    one(KD, KD.replace("4.0", "«[4]"), "stages.distill.losses.kd.temperature", "must be a number, not a list of 1"),
    one(HINT, HINT.replace("adapters.proj", "«adapters.prj"), "stages.distill.losses.hint.student", "'prj'", "'proj'"),
    one(
        HINT,
        HINT.replace("adapters", "«adapters").replace("layers.2", "layers.1"),
        "stages.distill.losses.hint.student",
        "the same shape",
    ),
    one(HINT, HINT.replace("hint:", "«a.b:"), "stages.distill.losses.a.b", "cannot name a term: a name is letters"),
    one(HINT, HINT.replace("hint:", "«forward:"), "stages.distill.losses.forward", "every torch.nn.Module has"),
]
OPTIMISERS = [
    sgd("«3", "", "must be a !call or a mapping, not 3"),
    sgd("«sgd", "", "must be a !call or a mapping, not 'sgd'"),
    one(SGD, SGD.replace("optimizer", "«optimiser"), "stages.distill.optimiser", "unknown key", "'optimizer'"),
    one(
        FIRST,
        FIRST.replace("epochs", "«epochs").replace(f"{SGD}\n", ""),
        "stages.distill",
        "missing required key 'optimizer'",
    ),
    sgd("!call:torch.optim.SGD {lr: 0.05, «momentun: 0.9}", ".momentun", "has no parameter 'momentun'", "'momentum'"),
    sgd("!call:torch.optim.SGD {«lr: '0.05'}", ".lr", "must be a number, not '0.05'"),
    sgd("!call:torch.optim.SGD {«lr: true}", ".lr", "must be a number, not true"),
    sgd("!call:torch.optim.SGD {lr: 0.1, «nesterov: 'yes'}", ".nesterov", "must be true or false, not 'yes'"),
    sgd("«!call:torch.optim.SGD {lr: -1}", "", "Invalid learning rate: -1"),
    sgd("«!call:torch.optim.SGD {lr: .nan}", "", "nan is not a valid learning rate"),
    sgd("«!call:torch.optim.SGDD {}", "", "has no 'SGDD'", "did you mean 'SGD'?"),
    sgd("«!call:torch.nn.ReLU {}", "", "torch.nn.ReLU is not a torch.optim.Optimizer"),
    sgd(
        "«!call:torch.nn.Linear {in_features: 3, out_features: 2}", "", "torch.nn.Linear is not a torch.optim.Optimizer"
    ),
    sgd(f"«!call:{STEP_LR} {{step_size: 1}}", "", "is not a torch.optim.Optimizer"),
    sgd("!call:torch.optim.SGD {«params: [], lr: 0.1}", ".params", "supplied to torch.optim.SGD already"),
    sgd("«!get:torch.optim.SGD", "", "!get:torch.optim.SGD is not a torch.optim.Optimizer", "write !call"),
    sgd("«{groups: []}", "", "missing required key 'call'"),
    sgd(f"{{call: !call:torch.optim.SGD {{lr: «{SYSTEM}}}}}", ".call.lr", "os.system is blocked", "--trust os"),
    sgd("{call: !call:torch.optim.SGD {lr: 0.1}, «grups: []}", ".grups", "unknown key 'grups'", "'groups'"),
    sgd(f"{GROUPS}[«{{lr: 3}}]}}", ".groups.0", "missing required key 'params'"),
    sgd(f"{GROUPS}[{{params: «[]}}]}}", ".groups.0.params", "a list of at least 1"),
    sgd(f"{GROUPS}[{{params: «'studnt.*'}}]}}", ".groups.0.params", "nothing that matches", "'student'"),
    sgd(f"{GROUPS}[{{params: «'teacher.*'}}]}}", ".groups.0.params", "no parameter that learns"),
    sgd(
        f"{GROUPS}[{{params: student.fc, «lrr: 3}}]}}",
        ".groups.0.lrr",
        "SGD has no parameter 'lrr'",
        "did you mean 'lr'?",
    ),
    step("«cosine", "", "must be a !call or a mapping, not 'cosine'"),
    step("«{interval: epoch}", "", "missing required key 'call'"),
    step(f"«!call:{STEP_LR} {{}}", "", "is missing the required parameter 'step_size'"),
    step(f"«!call:{STEP_LR}R {{step_size: 1}}", "", "has no 'StepLRR'", "did you mean 'StepLR'?"),
    step(f"!call:{STEP_LR} {{«step_size: one}}", ".step_size", "must be a number, not 'one'"),
    step(f"«!call:{STEP_LR} {{step_size: 0}}", "", "step 1 of StepLR failed"),
    step(
        f"{{call: !call:{STEP_LR} {{step_size: 3}}, interval: «epochs}}", ".interval", "'step' or 'epoch', not 'epochs'"
    ),
    step(
        "{call: !call:torch.optim.lr_scheduler.ReduceLROnPlateau {mode: max}, interval: «step}",
        ".interval",
        "follows the validation after an epoch, not single steps",
        "interval: epoch",
    ),
    step(
        "«!call:torch.optim.lr_scheduler.ReduceLROnPlateau {mode: max}\n    validate: {every_steps: 2}",
        "",
        "follows the validation after an epoch, and this stage has none",
        "every_epochs",
    ),
    step(
        "«!call:torch.optim.lr_scheduler.ReduceLROnPlateau {}",
        "",
        "has mode 'min', but the monitored metric is best at its maximum",
        "mode: max",
    ),
    step("«!call:torch.optim.SGD {lr: 0.1}", "", "torch.optim.SGD is not a torch.optim.lr_scheduler.LRScheduler"),
    step(f"!call:{STEP_LR} {{step_size: «!run stps }}", ".step_size", "!run: there is no value 'stps'", "'steps'"),
    step(f"!call:{STEP_LR} {{step_size: «!run }}", ".step_size", "!run: there is no value ''", "choose one of"),
    step(
        "!call:torch.optim.lr_scheduler.LambdaLR {lr_lambda: «!get:os.system }",
        ".lr_lambda",
        "os.system is blocked",
        "--trust os",
    ),
]
MANY: list[Row] = [
    (
        BASE,
        BASE.replace("digits", "«digts")
        .replace("momentum", "«momentun")
        .replace("temperature", "«temprature")
        .replace("inputs: student.layers", "inputs: «student.layerz")
        .replace("teacher: teacher.layers", "teacher: «teacher.layrs")
        .replace("epochs: 2", "epochs: «two")
        .replace("epochs: 1", "«epoch: 1"),
        [
            ("data.name", "no data set 'digts'", "'digits'"),
            ("adapters.proj.inputs", "no module 'layerz.2'", "'layers.2'"),
            ("stages.distill.epochs", "an integer, not 'two'", ""),
            ("stages.distill.losses.kd.temprature", "kd has no parameter 'temprature'", "'temperature'"),
            ("stages.distill.losses.hint.teacher", "no module 'layrs.2'", "'layers.2'"),
            ("stages.distill.optimizer.momentun", "has no parameter 'momentun'", "'momentum'"),
            ("stages.tune.epoch", "unknown key 'epoch'", "'epochs'"),
        ],
    ),
    (
        STAGES,
        "stages: {distill: «{}}\n",
        [
            ("stages.distill", f"missing required key '{key}'", "")
            for key in ("epochs", "batch_size", "losses", "optimizer")
        ],
    ),
    (
        STEP,
        f"    scheduler: «!call:{STEP_LR} {{«step_sise: 3}}",
        [
            ("stages.distill.scheduler", "is missing the required parameter 'step_size'", ""),
            ("stages.distill.scheduler.step_sise", "has no parameter 'step_sise'", "'step_size'"),
        ],
    ),
    (
        f"{STUDENT}\n{TEACHER}",
        "  student: {arch: cnn, width: «big, mode: «slow}\n  teacher: {arch: cnn, «widht: 3, new_head: «1}",
        [
            ("models.student.width", "not 'big'", ""),
            ("models.student.mode", "not 'slow'", ""),
            ("models.teacher.widht", "has no parameter 'widht'", "'width'"),
            ("models.teacher.new_head", "true or false, not 1", ""),
        ],
    ),
]
ROWS = [*TOP, *DATA_ROWS, *MODELS, *ADAPTERS, *STAGE_ROWS, *TERMS, *OPTIMISERS, *MANY]
