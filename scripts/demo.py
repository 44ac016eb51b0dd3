"""The main job on embedded data: a teacher, a student alone, and the student distilled, over several seeds.

Each run is one command, printed before it starts, that works by itself in a shell.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NAMES = {"teacher": "teacher, all labels", "alone": "student, 50 labels", "kd": "... and distilled"}


def train(which: str, seed: int, *options: str) -> dict[str, Any]:
    """Train ``configs/vision/digits_<which>.yaml``; what the command's ``--json`` says."""
    arguments = ["train", f"configs/vision/digits_{which}.yaml", "--seed", str(seed), *options]
    print(f"$ {shlex.join(['kd-vision', *arguments])}", flush=True)
    command = shutil.which("kd-vision", path=Path(sys.executable).parent) or "kd-vision"
    start = time.monotonic()
    done = subprocess.run([command, *arguments, "--json"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    result: dict[str, Any] = json.loads(done.stdout)
    print(
        f"  top-1 {result['metrics']['top1']:.2f} after {time.monotonic() - start:.0f} s, in {result['run']}",
        flush=True,
    )
    return result


def table(scores: dict[str, list[float]]) -> str:
    """Mean and standard deviation over the seeds."""
    lines = [f"{'digits, test split':<20}{'top-1':>8}{'std':>7}   by seed"]
    for which, values in scores.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        singles = " ".join(f"{value:.2f}" for value in values)
        lines.append(f"{NAMES[which]:<20}{statistics.mean(values):>8.2f}{spread:>7.2f}   {singles}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    scores: dict[str, list[float]] = {which: [] for which in NAMES}
    for seed in range(parser.parse_args().seeds):
        teacher = train("teacher", seed)
        alone = train("alone", seed)
        distilled = train("kd", seed, "--set", f"models.teacher.weights={teacher['run']}/student/model.safetensors")
        for which, result in zip(NAMES, (teacher, alone, distilled), strict=True):
            scores[which].append(result["metrics"]["top1"])
    print(f"\n{table(scores)}")


if __name__ == "__main__":
    main()
