"""A schedule of kills, decided by a seed, and the runs that they leave compared with one that was not killed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.kills.scenarios import Scenario
from tests.e2e.kills.server import Request

SERVER = Path(__file__).with_name("server.py")


class Server:
    """The process that forks runs, with its working folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        caches = {"KD_CACHE": str(folder / "cache"), "HF_DATASETS_CACHE": str(folder / "datasets")}
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER)],
            cwd=folder,
            env={**os.environ, **one, **caches, "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: Request) -> dict[str, Any]:
        """What became of a run."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asdict(request)) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A server, ended with the block."""
    started = Server(folder)
    try:
        yield started
    finally:
        started.close()


@dataclass
class Report:
    """How many kills there were, by the kind of event, and the runs that did not end as the whole one did."""

    kills: int = 0
    runs: int = 0
    kinds: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    wrong: list[str] = field(default_factory=list)


class Schedule:
    """Kills of one scenario's runs: the kind of event is drawn first, then one of that kind, so rare ones come too."""

    def __init__(self, server: Server, name: str, scenario: Scenario) -> None:
        self.server, self.scenario = server, scenario
        self.folder = server.folder / name.replace(" ", "-")
        self.folder.mkdir()
        self.config = self.folder / "config.yaml"
        self.config.write_text(scenario.text)
        answer = self._ask("train", self.folder / "whole" / "run")
        assert answer["statuses"] == [0] * scenario.processes, self._said("whole")
        self.whole = contents(self.folder / "whole" / "run")
        self.events: list[list[str]] = answer["events"]

    def _ask(self, verb: str, run: Path, kill_at: int = 0, rank: int = 0, seed: int = 0) -> dict[str, Any]:
        run.parent.mkdir(exist_ok=True)
        config, log = str(self.config), str(run.parent / "log")
        facts = {"processes": self.scenario.processes, "imports": self.scenario.imports}
        return self.server.ask(Request(verb, config, str(run), log, kill_at, rank, seed=seed, **facts))

    def _said(self, name: str) -> str:
        return "\n".join(path.read_text()[-2000:] for path in (self.folder / name).glob("log.?"))

    def go(self, kills: int, seed: int) -> Report:
        """Kill runs until there were ``kills`` kills."""
        chance, report = random.Random(seed), Report()
        while report.kills < kills:
            name = f"{seed}-{report.runs}"
            fault = self.killed_run(name, chance, report)
            report.runs += 1
            if fault:
                report.wrong.append(f"{self.folder.name} {name}: {fault}")
        return report

    def killed_run(self, name: str, chance: random.Random, report: Report) -> str | None:
        """Kill a run once, and its resumes with a chance of one half, then let it end; what is wrong with its end."""
        run, sequence = self.folder / name / "run", []
        again = True
        while again:
            rank = chance.randrange(self.scenario.processes)
            kill_at = self._drawn(chance, rank)
            verb = "resume" if (run / "config.yaml").exists() else "train"
            answer = self._ask(verb, run, kill_at, rank, seed=chance.randrange(1 << 30))
            sequence.append(f"{verb} {kill_at} in {rank}: {answer['events'][rank][-1:]}")
            if answer["statuses"][rank] == 0:
                break  # it had fewer events than that
            if answer["statuses"][rank] != -9 or None in answer["statuses"]:
                return f"{sequence}: {answer['statuses']} {self._said(name)}"
            report.kills += 1
            report.kinds[answer["events"][rank][-1]] += 1
            again = chance.random() < 0.5
        verb = "resume" if (run / "config.yaml").exists() else "train"
        answer = self._ask(verb, run, seed=chance.randrange(1 << 30))
        if any(answer["statuses"]):
            return f"{sequence}: {answer['statuses']} {self._said(name)}"
        parts = contents(run)
        different = sorted(part for part in {*parts, *self.whole} if parts.get(part) != self.whole.get(part))
        return f"{sequence}: {', '.join(different)} differ" if different else None

    def _drawn(self, chance: random.Random, rank: int) -> int:
        kinds: dict[str, list[int]] = defaultdict(list)
        for number, kind in enumerate(self.events[rank], 1):
            kinds[kind].append(number)
        return chance.choice(kinds[chance.choice(sorted(kinds))])


TIMES = ("seconds", "samples_per_second")


def contents(run: Path) -> dict[str, Any]:
    """What must be the same in two runs: the student's bytes, the metrics and the result without their times."""
    parts: dict[str, Any] = {
        str(path.relative_to(run)): path.read_bytes() for path in sorted((run / "student").rglob("*")) if path.is_file()
    }
    for name in ("metrics.jsonl", "steps.jsonl", "gradients.jsonl"):
        if (run / name).exists():
            lines = [json.loads(line) for line in (run / name).read_text().splitlines()]
            parts[name] = [{key: value for key, value in line.items() if key not in TIMES} for line in lines]
    result = json.loads((run / "result.json").read_text())
    parts["result.json"] = {key: value for key, value in result.items() if key != "time"}
    parts["left over"] = [str(path.relative_to(run)) for path in run.rglob(".tmp-*")]
    return parts
