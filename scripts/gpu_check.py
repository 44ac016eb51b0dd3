"""Whether this repository is right and fast on the GPU of this machine: one command, at most 8 minutes, one table.

::

    python scripts/gpu_check.py                  # in an environment with the packages, their group dev and torchdistill
    python scripts/gpu_check.py --wheels DIR     # on a machine with PyTorch but without a network: what is missing is
                                                 # installed from DIR into a folder that is removed at the end
    python scripts/gpu_check.py --collect DIR    # fills DIR before, on a machine with a network (`make gpu-wheels`)

The table says of each part what came out; what fails is a row of it, and everything else is done all the same. The same
rows, and what was measured, are in the JSON file ``--out``. ``--device cpu`` tries the script where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PARTS = ROOT / "scripts" / "gpu"
RIGHT = ("suite", "resume", "losses", "waiting")
"""The sections of ``scripts/gpu/sections.py``, which run beside each other; step times are measured afterwards."""
SHARE = 0.5
"""The share of the time that those may take."""
SIDES = (
    "torchdistill",
    "ours, default",
    "ours, fast without compiling",
    "by hand, CUDA graph, float32",
    "by hand, CUDA graph, bfloat16",
    "ours, fast",
    "ours, fast with cuda_graphs",
)
"""Those of ``scripts/gpu/speed.py``, the ones that compile last: they take longest to begin."""
NEEDED = (
    *("pydantic", "pydantic-core", "annotated-types", "typing-inspection"),
    *("datasets", "dill", "multiprocess", "evaluate", "pycocotools", "torchdistill"),
)
"""What machines with PyTorch for machine learning often lack."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
Row = dict[str, Any]


def collect(folder: Path, python: str) -> None:
    """Put the wheels of our packages, and for a Python version those that other machines may lack, into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    ours = [str(project.parent) for project in sorted(ROOT.glob("packages/*/pyproject.toml"))]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), *ours], check=True)
    target = ["--only-binary", ":all:", "--python-version", python, "--implementation", "cp"]
    target += [part for name in PLATFORMS for part in ("--platform", name)]
    # The version of pydantic-core must be the one that pydantic asks for: pip chooses both together.
    command = [*pip, "download", "--dest", str(folder), *target, "--no-deps", *versions(pip, target)]
    subprocess.run(command, check=True)
    print(f"{len(list(folder.glob('*.whl')))} wheels are in {folder}")


def versions(pip: Sequence[str], target: Sequence[str]) -> list[str]:
    """The packages of :data:`NEEDED` in versions that go together, as pip would install them there."""
    with tempfile.TemporaryDirectory() as nowhere:
        report = ["install", "--dry-run", "--ignore-installed", "--report", "-", "--target", nowhere]
        # evaluate and torchdistill want all of PyTorch, which is there: the versions of what is small are asked for
        command = [*pip, *report, *target, "pydantic", "datasets"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = {
        item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"]
        for item in json.loads(done.stdout)["install"]
    }
    return [f"{name}=={found[name]}" if name in found else name for name in NEEDED]


def install(wheels: Path, folder: Path) -> Row:
    """Install the wheels into ``folder``, which this process and those that it starts look into first."""
    files = sorted(map(str, wheels.glob("*.whl")))
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--no-cache-dir",
    ]
    done = subprocess.run([*command, "--target", str(folder), *files], capture_output=True, text=True, check=False)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = f"{folder}{os.pathsep}{before}" if before else str(folder)
    told = f"{len(files)} wheels" if not done.returncode else f"failed: {done.stderr.strip()[-300:]}"
    return row("machine", "installed for this check", told, passed=None if not done.returncode else False)


def row(section: str, what: str, result: str, *, passed: bool | None = None, **more: Any) -> Row:
    """A line of the table; ``passed`` is None for what is only measured."""
    return {"section": section, "what": what, "result": result, "passed": passed, **more}


def machine(device: str) -> list[Row]:
    """What the check runs on, told by a process of its own: this one does not import PyTorch."""
    code = (
        "import json, torch; cuda = torch.cuda.is_available(); print(json.dumps([torch.__version__, torch.version.cuda,"
        " torch.cuda.get_device_name() if cuda else None, torch.backends.cudnn.version() if cuda else None]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    try:
        torch, cuda, name, cudnn = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        return [row("machine", "PyTorch", f"failed: {last_line(done.stderr)}", passed=False)]
    python = ".".join(map(str, sys.version_info[:3]))
    rows = [row("machine", "versions", f"Python {python}, torch {torch}, CUDA {cuda}, cuDNN {cudnn}")]
    rows += [row("machine", "device", f"{name or 'no GPU'}; checked on {device}")]
    if name is None and device != "cpu":
        rows += [
            row("machine", "device", "failed: there is no GPU here (`--device cpu` tries the script)", passed=False)
        ]
    return rows


def last_line(text: str) -> str:
    """The last line of an output, where a traceback says what is wrong."""
    return (text.strip().splitlines() or ["it said nothing"])[-1][:300]


def started(command: Sequence[str], seconds: float) -> tuple[list[str], str]:
    """What a process of this check printed, and what became of it in ``seconds``, empty where it ended well."""
    command, pipe = [sys.executable, *command], subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        printed, said = process.communicate(timeout=max(seconds, 1))
        ended = "" if not process.returncode else f"failed: {last_line(said)}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # what it started would go on beside the step times
        printed, said = process.communicate()
        ended = f"failed: not done after {seconds:.0f} s"
    return printed.splitlines(), ended


def section(name: str, device: str, seconds: float) -> list[Row]:
    """The rows of one section; what it printed before it failed or the time was over stays."""
    lines, ended = started([str(PARTS / "sections.py"), name, "--device", device], seconds)
    rows = [row(name, **told) for told in map(parsed, lines) if told is not None]
    return rows + ([row(name, "the section", ended, passed=False)] if ended else [])


def parsed(line: str) -> Row | None:
    """A line of JSON that one of our processes printed, None for anything else."""
    try:
        told = json.loads(line)
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def speed(job: str, side: str, device: str, steps: int, seconds: float) -> Row:
    """How fast one side is."""
    what = f"{job}: {side}"
    if seconds < 5:
        return row("speed", what, "not run: the time is over")
    command = [str(PARTS / "speed.py"), side, "--job", job, "--device", device, "--steps", str(steps)]
    lines, ended = started(command, seconds)
    told = next((found for found in map(parsed, reversed(lines)) if found is not None), None)
    if ended or told is None:
        return row("speed", what, ended or "failed: it measured nothing", passed=False)
    memory = "" if told["peak_mb"] is None else f", {told['peak_mb']:,.0f} MB"
    result = f"{told['images_per_second']:,.0f} images/s, {told['milliseconds']:.2f} ms a step{memory}"
    return row("speed", what, result, job=job, side=side, **told)


def with_ratios(rows: Sequence[Row]) -> list[Row]:
    """The step times with what they are beside the first side of their job that was measured."""
    base: dict[str, float] = {}
    for item in rows:
        if "images_per_second" in item:
            first = base.setdefault(item["job"], item["images_per_second"])
            item["result"] += f", {item['images_per_second'] / first:.2f} x"
    return list(rows)


def table(rows: Sequence[Row]) -> str:
    """The rows as text in columns."""
    marks = {True: "ok", False: "FAILED", None: ""}
    cells = [(item["section"], item["what"], marks[item["passed"]], item["result"]) for item in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[3]]).rstrip()
        for line in cells
    )


def check(arguments: argparse.Namespace, end: float) -> list[Row]:
    """All rows."""
    device = arguments.device
    rows = machine(device)
    if any(item["passed"] is False for item in rows):
        return rows
    chosen = [name for name in RIGHT if name in arguments.sections]
    seconds = (end - time.monotonic()) * (SHARE if "speed" in arguments.sections else 1)
    with ThreadPoolExecutor(max(len(chosen), 1)) as pool:
        for found in pool.map(lambda name: section(name, device, seconds), chosen):
            rows += found
    times: list[Row] = []
    for job in arguments.jobs if "speed" in arguments.sections else ():
        for side in SIDES:
            times.append(speed(job, side, device, arguments.steps, min(end - time.monotonic(), arguments.longest)))
            print(f"  {times[-1]['what']}: {times[-1]['result']}", file=sys.stderr, flush=True)
    return rows + with_ratios(times)


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"), help="where the rows go as JSON")
    parser.add_argument("--sections", nargs="+", choices=[*RIGHT, "speed"], default=[*RIGHT, "speed"])
    parser.add_argument("--jobs", nargs="+", default=["cifar", "imagenet"], help="what the step times are of")
    parser.add_argument("--steps", type=int, default=60, help="steps that each side is measured on")
    parser.add_argument("--minutes", type=float, default=8.0, help="when what is left is not run any more")
    parser.add_argument("--longest", type=float, default=120.0, help="seconds that one side may take")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="install these into a folder that is removed again")
    parser.add_argument("--collect", type=Path, metavar="DIR", help="download the wheels into DIR, and check nothing")
    parser.add_argument("--python", default="3.12", help="for which Python version --collect downloads")
    return parser


def main() -> None:
    arguments = options().parse_args()
    if arguments.collect:
        collect(arguments.collect, arguments.python)
        return
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as folder:
        rows = [] if arguments.wheels is None else [install(arguments.wheels, Path(folder))]
        rows += check(arguments, end)
    arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))
    failed = sum(item["passed"] is False for item in rows)
    print(f"\n{failed} of {len(rows)} rows failed; all of them are in {arguments.out}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
