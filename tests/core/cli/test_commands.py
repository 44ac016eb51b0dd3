"""The verbs: what they hand on, what they print where, and how they end."""

from __future__ import annotations

import errno
import importlib
import json
import math
import subprocess
import sys
import textwrap
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from kd_core.check.landmarks import LandmarkRow
from kd_core.cli.group import make_cli
from kd_core.cli.listing import Models
from kd_core.cli.options import config_options, json_option
from kd_core.cli.output import print_result
from kd_core.errors import ConfigError, ConfigProblem, KDError, Mark
from kd_core.registry import Registry
from kd_core.taps.table import TapRow


@dataclass
class Scores:
    metrics: dict[str, float]
    best: dict[str, Any] | None = None
    published: dict[str, Any] = field(default_factory=dict)
    run: Path | None = None


PROBLEM = ConfigProblem(
    "unknown key 'epoch'", "stages.distill.epoch", Mark("bad.yaml", 12, 5), "did you mean 'epochs'?"
)


def check_data(experiment: Any, *, strict: bool, whole: bool) -> tuple[list[str], list[str]]:
    return experiment.describe_data(), []


@dataclass
class Backend:
    """Stands in for ``kd_core.experiment`` and ``kd_core.evaluation``, and notes its calls."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    error: BaseException | None = None
    scores: Scores = field(default_factory=lambda: Scores({"top1": 0.84}, {"top1": 0.9}, run=Path("runs/x/1")))

    def note(self, *call: Any) -> None:
        print("a library that prints")
        self.calls.append(call)
        if self.error:
            raise self.error

    def modules(self) -> list[types.ModuleType]:
        backend = self

        class Experiment:
            def __init__(self, path: Path) -> None:
                self.path = path

            @classmethod
            def load(cls, path: Path, **options: Any) -> Experiment:
                backend.note("load", str(path), options)
                if path.name == "bad.yaml":
                    raise ConfigError([PROBLEM, ConfigProblem("second")])
                if path.name == "missing.yaml":
                    raise KDError("there is no missing.yaml")
                return cls(path)

            def check(self, strict: bool) -> list[str]:
                return [f"unverified: {self.path.name} strict={strict}"]

            trains = True

            def describe_data(self) -> list[str]:
                return ["train: 7 training samples"]

            check_data = check_data

            def resolved(self) -> str:
                return "task: x\n"

            def train(self, out: Path | None, command: str, resumes: bool) -> Scores:
                backend.note("train", out, command, *(["resumes"] if resumes else []))
                return backend.scores

        def evaluate(target: str | None, **options: Any) -> Scores:
            backend.note("evaluate", target, options)
            return Scores({"top1": 0.5, "loss": math.nan}, published={"top1": 0.51} if options["model"] else {})

        def resume(run: Path, **options: Any) -> Scores:
            backend.note("resume", run, options)
            return backend.scores

        def taps(path: Path, model: str, **options: Any) -> tuple[list[TapRow], list[Any]]:
            backend.note("taps", path, model, options)
            return [
                TapRow("", "Net", "(2, 3, 8, 8)", "(2, 10)", "float32", 4672, 1),
                TapRow("fc", "Linear", "(2, 64)", "(2, 10)", "float32", 650, 1),
            ], [LandmarkRow("@penultimate", "fc:in", "(2, 64)", {"teacher": ("(2, 256)", "projector")})]

        experiment = types.ModuleType("kd_core.experiment")
        vars(experiment).update(Experiment=Experiment, resume=resume, taps=taps)
        evaluation = types.ModuleType("kd_core.evaluation")
        vars(evaluation).update(evaluate=evaluate)
        return [experiment, evaluation]


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    for name in ("estimate", "prediction", "study.study", "study.figures", "report.samples", "deploy.inputs"):
        importlib.import_module(f"kd_core.{name}")  # else they would keep what stands in here for other tests
    backend = Backend()
    for module in backend.modules():
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(module.__name__, module, raising=False)
    return backend


def cli() -> click.Group:
    return make_cli("kd-x", package="kd-core", tasks=("x",), help="Runs x.", registries={})


Run = Callable[..., Result]


@pytest.fixture
def run(backend: Backend) -> Run:
    return lambda *arguments: CliRunner().invoke(cli(), arguments, prog_name="kd-x")


def test_train_hands_on_its_options(run: Run, backend: Backend) -> None:
    done = run("train", "c.yaml", "--out", "o", "--seed", "7", "--set", "a.b=1", "--set", "c=[1, 2]", "--trust", "mine")
    assert done.exit_code == 0
    options = {"overrides": ("a.b=1", "c=[1, 2]"), "trust": ("mine",), "seed": 7}
    load, train = backend.calls
    assert load == ("load", "c.yaml", options)
    assert train[1] == Path("o")
    assert run("train", "c.yaml", "--out", "o", "--resume").exit_code == 0
    assert backend.calls[-1][-1] == "resumes"


def test_the_run_folder_is_the_last_line_and_libraries_print_elsewhere(run: Run) -> None:
    done = run("train", "c.yaml")
    assert done.stdout.splitlines() == ["top1         0.84", "runs/x/1"]
    assert "a library that prints" in done.stderr


def test_train_in_json_is_one_object(run: Run) -> None:
    done = run("train", "c.yaml", "--json")
    assert json.loads(done.stdout) == {"metrics": {"top1": 0.84}, "best": {"top1": 0.9}, "run": "runs/x/1"}
    assert done.stdout.count("\n") == 1


def test_eval_takes_a_config_a_run_or_a_published_model(run: Run, backend: Backend) -> None:
    done = run("eval", "runs/x", "--json", "--root", "d", "--data", "digits")
    assert json.loads(done.stdout) == {"metrics": {"top1": 0.5, "loss": None}}
    options = {"model": None, "task": "x", "data": "digits", "root": Path("d"), "overrides": (), "trust": ()}
    assert backend.calls[-1] == ("evaluate", "runs/x", options)
    assert run("eval", "--zoo", "resnet20").stdout.splitlines()[0] == "top1         0.5  (published: 0.51)"
    assert backend.calls[-1][1:] == (None, options | {"model": {"zoo": "resnet20"}, "data": None, "root": None})
    done = run("eval")
    assert done.exit_code == 2
    assert "--zoo" in done.stderr


def test_a_metric_that_is_not_a_number_is_printed_as_such(run: Run, backend: Backend) -> None:
    backend.scores = Scores({"top1": math.nan, "loss": None})  # type: ignore[dict-item]  # as read from result.json
    assert run("resume", "runs/x").stdout.splitlines() == ["top1         nan", "loss         nan"]


def test_resume(run: Run, backend: Backend) -> None:
    done = run("resume", "runs/x/1", "--trust", "mine")
    assert done.stdout.endswith("runs/x/1\n")
    ((verb, folder, options),) = backend.calls
    assert (verb, folder, options["trust"]) == ("resume", Path("runs/x/1"), ("mine",))


def test_check_prints_all_problems_of_all_files(run: Run) -> None:
    done = run("check", "good.yaml", "bad.yaml", "missing.yaml", "--strict")
    assert done.exit_code == 2
    assert done.stdout.splitlines() == [
        "good.yaml: ok",
        "data: train: 7 training samples",
        "unverified: good.yaml strict=True",
    ]
    said = [line for line in done.stderr.splitlines() if "library" not in line]
    assert said == [
        "bad.yaml:12:5: stages.distill.epoch: unknown key 'epoch'",
        "    hint: did you mean 'epochs'?",
        "second",
        "there is no missing.yaml",
        "2 of 3 configs have problems: bad.yaml, missing.yaml",
    ]


def test_check_in_json(run: Run) -> None:
    done = run("check", "good.yaml", "bad.yaml", "--json")
    assert done.exit_code == 2
    found = json.loads(done.stdout)
    assert found["ok"] is False
    assert found["files"]["good.yaml"] == {
        "problems": [],
        "unverified": ["unverified: good.yaml strict=False"],
        "data": ["train: 7 training samples"],
        "trains": True,
    }
    assert found["files"]["bad.yaml"]["problems"][0] == {
        "file": "bad.yaml",
        "line": 12,
        "column": 5,
        "path": "stages.distill.epoch",
        "message": "unknown key 'epoch'",
        "hint": "did you mean 'epochs'?",
    }


def test_show_and_taps(run: Run, backend: Backend) -> None:
    shown = run("show", "c.yaml", "--set", "a=1")
    assert shown.stdout == "task: x\n"
    assert "# data: train: 7 training samples\n" in shown.stderr
    lines = run("taps", "c.yaml", "teacher").stdout.splitlines()
    assert backend.calls[-1] == ("taps", Path("c.yaml"), "teacher", {"overrides": (), "trust": ()})
    assert lines[0].split() == ["path", "module", "in", "out", "params"]
    assert lines[1].startswith("output  Net     (2, 3, 8, 8)")
    assert lines[2].startswith("fc      Linear  (2, 64)")
    assert lines[4].split() == ["landmark", "place", "teacher", "teacher", "adapter"]
    assert lines[5].split() == ["@penultimate", "fc:in", "(2,", "64)", "(2,", "256)", "projector"]
    told = json.loads(run("taps", "c.yaml", "teacher", "--json").stdout)
    assert told["landmarks"][0]["others"] == {"teacher": ["(2, 256)", "projector"]}


@pytest.fixture
def listing(monkeypatch: pytest.MonkeyPatch) -> click.Group:
    module = types.ModuleType("kinds_of_things")
    things: Registry[Any] = Registry("thing", "kd.things")
    things("anvil")(Backend)
    vars(module).update(THINGS=things, NOTHING=Registry("nothing", "kd.nothing"))
    monkeypatch.setitem(sys.modules, "kinds_of_things", module)
    registries = {"things": "kinds_of_things:THINGS", "nothing": "kinds_of_things:NOTHING"}
    return make_cli("kd-x", package="kd-core", tasks=(), help="", registries=registries)


def test_list(listing: click.Group) -> None:
    done = CliRunner().invoke(listing, ["list", "things"], env={"COLUMNS": "200"})
    assert (
        done.stdout == "anvil\n"
        "    Stands in for ``kd_core.experiment`` and ``kd_core.evaluation``, and notes its calls.\n"
    )
    assert CliRunner().invoke(listing, ["list", "nothing"]).exit_code == 0
    done = CliRunner().invoke(listing, ["list", "losses"])
    assert any(line.startswith("kd(student, teacher") for line in done.stdout.splitlines())
    done = CliRunner().invoke(listing, ["list", "views"])
    assert "\nrotations\n" in done.stdout  # its batch comes from the run: no config writes it
    done = CliRunner().invoke(listing, ["list", "loses"])
    assert done.exit_code == 2
    assert "losses" in done.stderr


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError(PROBLEM), 2, str(PROBLEM)),
        (KDError("no such thing"), 2, "no such thing"),
        (OSError(errno.ENOSPC, "Disk full", "runs/x/log.txt"), 2, "error: runs/x/log.txt: Disk full"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_how_a_command_ends(
    run: Run, backend: Backend, error: BaseException, code: int, said: str, json_flag: list[str]
) -> None:
    backend.error = error
    done = run("train", "c.yaml", *json_flag)
    assert done.exit_code == code
    assert done.stdout == ""
    assert done.stderr == f"a library that prints\n{said}\n"


def test_a_bug_keeps_its_traceback(run: Run, backend: Backend) -> None:
    backend.error = ZeroDivisionError("ours")
    assert run("train", "c.yaml").exception is backend.error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "did you mean 'train'?"),
        (["train"], "Missing argument 'CONFIG'"),
        (["train", "c.yaml", "--sed", "1"], "--seed"),
        (["train", "c.yaml", "--seed", "-1"], "-1 is not in the range"),
        (["train", "c.yaml", "d.yaml"], "unexpected extra argument"),
    ],
)
def test_a_mistyped_command_line_is_answered(run: Run, arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_a_package_adds_a_verb_in_a_few_lines() -> None:
    group = cli()

    @group.command()
    @config_options
    @json_option
    def predict(overrides: tuple[str, ...], trust: tuple[str, ...], as_json: bool) -> None:
        """Label images."""
        if trust:
            raise KDError("trusts nobody")
        print_result(Scores({"images": len(overrides)}), as_json)

    run = CliRunner().invoke
    assert "Label images." in run(group, ["--help"]).stdout
    assert run(group, ["predict", "--json", "--set", "a=1"]).stdout == '{"metrics": {"images": 1}}\n'
    assert run(group, ["predict", "--trust", "x"]).exit_code == 2


def test_a_reader_that_has_seen_enough_ends_it_quietly() -> None:
    code = """
        import click
        from kd_core.cli.group import make_cli
        main = make_cli("kd-x", package="kd-core", tasks=(), help="", registries={})
        @main.command()
        def lots():
            while True:
                click.echo("line")
        main(["lots"])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.stderr.read() == ""


@dataclass
class ScoresOfClasses(Scores):
    classes: Any = None


def test_figures_of_classes_are_printed_where_they_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    from kd_core.class_figures import ClassFigures

    figures = ClassFigures(("cat", "a\x1b[2J"), {"iou": [50.5, None], "pixels": [3, 1]})
    result = ScoresOfClasses({"miou": 1.0, "iou/cat": 50.5}, classes=figures)
    print_result(result, False)
    assert capsys.readouterr().out == "miou         1\n"
    print_result(result, False, per_class=True)
    rows = ["class      iou  pixels", "cat       50.5       3", "a\\x1b[2J     -       1"]
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()][2:5] == rows
    print_result(result, True)
    assert json.loads(capsys.readouterr().out) == {"metrics": result.metrics}
    print_result(result, True, per_class=True)
    assert json.loads(capsys.readouterr().out)["classes"]["columns"]["iou"] == [50.5, None]


def test_what_is_named_is_told_whole(listing: click.Group) -> None:
    done = CliRunner().invoke(listing, ["list", "losses", "kd"])
    assert done.exit_code == 0, done.stderr
    rows = [line.split("  ") for line in done.stdout.splitlines()]
    [temperature] = [[cell.strip() for cell in row if cell] for row in rows if row[0] == "temperature"]
    assert temperature == ["temperature", "float > 0", "4.0"]
    assert ["student", "wire", "required"] in [[cell.strip() for cell in row if cell] for row in rows]
    assert "Hinton" in done.stdout
    told = json.loads(CliRunner().invoke(listing, ["list", "losses", "kd", "--json"]).stdout)["losses"]["kd"]
    assert told["parameters"]["temperature"] == {"type": "float > 0", "default": "4.0"}
    assert CliRunner().invoke(listing, ["list", "losses", "kdd"]).stderr.endswith("did you mean 'kd'?\n")


def test_lists_are_wrapped_to_a_terminal_and_a_parameter_stays_whole(
    listing: click.Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = CliRunner().invoke(listing, ["list", "adapters"]).stdout.splitlines()
    assert max(map(len, lines)) <= 72  # the longest parameter
    assert not any(line.rstrip().endswith((" =", " >=", ":")) for line in lines if line.startswith("        "))


def test_models_are_those_that_the_tasks_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    models = Models(("kd_vision",), "hub: NAME")
    group = make_cli("kd-x", package="kd-core", tasks=(), help="", registries={}, models=models)
    lines = CliRunner().invoke(group, ["list", "models"]).stdout.splitlines()
    assert any(line.startswith("cnn(") for line in lines)
    assert not any(line.startswith(("unet", "wrn")) for line in lines)
    assert lines[-1] == "hub: NAME"


@pytest.mark.parametrize("name", ["kd_vision", "kd_glue", "kd_seg", "kd_zoo"])
def test_summaries_of_commands_are_not_cut(name: str) -> None:
    group = importlib.import_module(f"{name}.cli").main
    room = 78 - 6 - max(map(len, group.commands))  # as click cuts them on 80 columns
    cut = [verb for verb, command in group.commands.items() if command.get_short_help_str(room).endswith("...")]
    assert cut == []
